package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/geocache/geocache/consistenthash"
	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

// This file is a model of clusters that are too large to run here. Its messages are
// counted, with the sizes that the real encoders give them; who owns a key is asked of the real
// ring. scale_test.go holds it against real nodes, in virtual time, at small sizes.

// A shape is how large a cluster is.
type shape struct {
	regions, nodes int // in each region
}

func (s shape) all() int { return s.regions * s.nodes }

// watchedEach is how many nodes of each other region a node is connected to, see regions.Members.Watched.
func (s shape) watchedEach() int {
	if s.regions == 1 {
		return 0
	}
	return min(s.nodes, max(3, 12/(s.regions-1)))
}

// watched is how many nodes a node connects to.
func (s shape) watched() int { return s.nodes - 1 + (s.regions-1)*s.watchedEach() }

// A load is what a cluster has to do.
type load struct {
	group     string
	key       string // one like all
	value     int    // bytes
	writes    float64
	ttl       time.Duration
	retention time.Duration // of floors: the TTL and a little more
}

// frames is how many frames travel, and their bytes, without those of TCP and IP.
type frames struct{ n, bytes float64 }

func (f frames) times(k float64) frames   { return frames{f.n * k, f.bytes * k} }
func (f frames) plus(other frames) frames { return frames{f.n + other.n, f.bytes + other.bytes} }

// The frames of the wire, see package peers: what comes before the payload.
const (
	headerBytes = 21
	pingBytes   = headerBytes + 8
	pongBytes   = headerBytes + 24
	callBytes   = headerBytes + 17
	replyBytes  = headerBytes + 43

	pingsALease = 4
	lease       = time.Second
	compared    = 5 * time.Second // mean time between two comparisons with a node of a region
)

// exchange is a call with its answer.
func exchange(request, reply int) frames {
	return frames{2, float64(callBytes + request + replyBytes + reply)}
}

// heartbeats is what all nodes send in a second to know who is there: each pings those that it is connected to.
func heartbeats(s shape) frames {
	pairs := float64(s.all() * s.watched())
	return frames{2, pingBytes + pongBytes}.times(pairs * pingsALease / lease.Seconds())
}

// comparing is what all nodes send in a second to find floors that they lack, if nobody does: a node compares with one
// node of each region.
func comparing(s shape, l load) frames {
	with := s.regions - 1
	if s.nodes > 1 {
		with++
	}
	digest := expiry.Digest{Wide: make([]uint64, wideSlices(l))}
	ask := message.JournalRequest{Group: l.group, Digest: digest}
	one := exchange(len(ask.Append(nil)), len(message.Floors{}.Append(nil)))
	return one.times(float64(s.all()*with) / compared.Seconds())
}

// wideSlices is how many wide slices a digest has: one for each second for which a floor matters, or fewer that
// are longer.
func wideSlices(l load) int {
	seconds := int(l.retention/time.Second) - 5 // what is recent is in none, and what is about to be forgotten
	width := 1 + seconds/512
	return (seconds + width - 1) / width
}

// writing is what one Set sends, from a node that is any in its region.
func writing(s shape, l load) frames {
	value := make([]byte, l.value)
	write := message.WriteRequest{Group: l.group, Key: l.key, Op: message.Set, Value: value}
	floor := message.Write{Group: l.group, Key: l.key}
	whole := floor
	whole.HasValue, whole.Value = true, value
	tell := func(w message.Write) frames {
		return exchange(len(message.Broadcast{Writes: []message.Write{w}}.Append(nil)), 0)
	}
	// Who tells a region tells all others. The owner and its successor have the value, too.
	region := func(keepers float64) frames {
		keepers = min(keepers, float64(s.nodes-1))
		return tell(whole).times(keepers).plus(tell(floor).times(float64(s.nodes-1) - keepers))
	}
	there := region(1)
	if n := float64(s.nodes); s.watchedEach() < s.nodes { // whoever gets a push may be any node
		there = region(1).times(2 / n).plus(region(2).times(1 - 2/n))
	}
	push := exchange(len(message.Push{Writes: []message.Write{whole}}.Append(nil)), len(message.PushReply{}.Append(nil)))
	toOwner := exchange(len(write.Append(nil)), len(message.WriteReply{}.Append(nil))).times(1 - 1/float64(s.nodes))
	return toOwner.plus(region(1)).plus(push.plus(there).times(float64(s.regions - 1)))
}

// maxFloors is how many keys of a group have a floor of their own.
const maxFloors = 1 << 20

// floors is how many floors each node holds: those of the keys written within the
// retention, if each write is of another key.
func floors(l load) float64 { return min(l.writes*l.retention.Seconds(), maxFloors) }

// joining is what a node receives that joins: the floors of one node of its region, and from all others, and from one
// node of each other region, that they have no more. It asks twice: when the group is made, and when all have
// granted it leases, so that nothing is missed that was written in between.
func joining(s shape, l load) frames {
	answer := frames{1, float64(replyBytes + len(message.Floors{}.Append(nil)))}
	journal := floors(l) * float64(message.Floor{Key: l.key}.Size())
	return answer.times(2 * float64(s.nodes-1+s.regions-1)).plus(frames{0, journal})
}

// A fleet is a region's nodes, and who of them has which key in memory as an owner.
type fleet struct {
	seed  uint64
	ids   []string
	keys  []string
	has   []map[string]bool // by key: the nodes that have it
	hand  bool              // nodes that leave hand over what they own
	loads int               // of the origin, so far
}

func newFleet(seed uint64, ids, keys []string, hand bool) (*fleet, error) {
	f := &fleet{seed: seed, ids: ids, keys: keys, hand: hand, has: make([]map[string]bool, len(keys))}
	ring, err := f.ring(nil)
	if err != nil {
		return nil, err
	}
	for i, key := range keys {
		owner, _ := ring.Owner(key)
		f.has[i] = map[string]bool{owner: true}
	}
	return f, nil
}

// ring returns the ring without those that are away.
func (f *fleet) ring(away map[string]bool) (*consistenthash.Ring, error) {
	var members []consistenthash.Member
	for _, id := range f.ids {
		if !away[id] {
			members = append(members, consistenthash.Member{ID: id})
		}
	}
	return consistenthash.New(f.seed, members...)
}

// restart has some nodes leave one after the other and come back together, empty, and
// then every key be read.
func (f *fleet) restart(wave []string) error {
	away := map[string]bool{}
	ring, err := f.ring(nil)
	if err != nil {
		return err
	}
	for _, id := range wave {
		away[id] = true
		next, err := f.ring(away)
		if err != nil {
			return err
		}
		for i, key := range f.keys {
			owner, _ := ring.Owner(key)
			if had := f.has[i][id]; had && owner == id && f.hand {
				heir, _ := next.Owner(key)
				f.has[i][heir] = true
			}
			delete(f.has[i], id)
		}
		ring = next
	}
	if ring, err = f.ring(nil); err != nil {
		return err
	}
	for i, key := range f.keys {
		// A read asks the owner, and it the two that may have been it before.
		owners := ring.Owners(key, 3)
		if !slices.ContainsFunc(owners, func(id string) bool { return f.has[i][id] }) {
			f.loads++
		}
		f.has[i][owners[0]] = true
	}
	return nil
}

// deploy restarts all nodes in waves of so many, in random order, and returns how
// many loads of the origin each key has cost on average.
func (f *fleet) deploy(wave int) (float64, error) {
	r := rand.New(rand.NewPCG(1, 2))
	order := slices.Clone(f.ids)
	r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	f.loads = 0
	for some := range slices.Chunk(order, wave) {
		if err := f.restart(some); err != nil {
			return 0, err
		}
	}
	return float64(f.loads) / float64(len(f.keys)), nil
}

// benchScale shows the model at 1,000 nodes in five regions, and at others for the
// trend.
func benchScale(b *bench) error {
	l := load{group: "profiles", key: "user:00000000001", value: 256, writes: 1000, ttl: 5 * time.Minute}
	l.retention = l.ttl + 13*time.Second
	for _, s := range []shape{{3, 3}, {5, 20}, {5, 200}} {
		name := fmt.Sprintf("%s nodes in %d regions, %s writes a second: ", thousands(s.all()), s.regions, thousands(int(l.writes)))
		n := float64(s.all())
		add := func(what, unit string, v float64) { b.add(row{Name: name + what, Unit: unit, Ours: v}) }
		beats, compares, writes := heartbeats(s), comparing(s, l), writing(s, l).times(l.writes)
		add("connections of a node", "", 2*float64(s.watched())) // those that it makes, and as many that others make
		// Each frame is sent by one node and received by one.
		add("heartbeats sent by a node", "frames/s", beats.n/n)
		add("heartbeats sent by a node", "kB/s", beats.bytes/n/1e3)
		add("comparing sent by a node", "kB/s", compares.bytes/n/1e3)
		add("writes sent by a node", "frames/s", writes.n/n)
		add("writes sent by a node", "kB/s", writes.bytes/n/1e3)
		add("floors held by a node", "", floors(l))
		add("received by a node that joins", "MB", joining(s, l).bytes/1e6)
		if err := b.scaleRing(name, s); err != nil {
			return err
		}
		if b.quick {
			continue
		}
		if err := b.scaleDeploy(name, s); err != nil {
			return err
		}
	}
	return nil
}

// scaleRing adds what the ring of a region costs and how evenly it shares.
func (b *bench) scaleRing(name string, s shape) error {
	var members []consistenthash.Member
	for _, id := range memberNames(s.nodes) {
		members = append(members, consistenthash.Member{ID: id})
	}
	begun := time.Now()
	ring, err := consistenthash.New(1, members...)
	built := time.Since(begun)
	if err != nil {
		return err
	}
	b.add(row{Name: name + "largest share of a region's keys", Unit: "of the mean", Ours: slices.Max(ring.Shares()) * float64(s.nodes)})
	b.add(row{Name: name + "building a region's ring", Unit: "ms", Ours: millis(built)})
	return nil
}

// scaleDeploy adds what restarting all nodes of a region costs the origin.
func (b *bench) scaleDeploy(name string, s shape) error {
	keys := makeKeys(20_000)
	for _, percent := range []int{0, 10, 25} { // 0: one at a time
		wave := max(s.nodes*percent/100, 1)
		if percent > 0 && wave == 1 {
			continue
		}
		what := fmt.Sprintf("deploy in waves of %d", wave)
		b.progress("%s%s", name, what)
		f, err := newFleet(1, memberNames(s.nodes), keys, true)
		if err != nil {
			return err
		}
		loads, err := f.deploy(wave)
		if err != nil {
			return err
		}
		b.add(row{Name: name + what, Unit: "loads a key", Ours: loads})
	}
	return nil
}
