package main

import (
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/geocache/geocache/consistenthash"
)

// A remote is a cache in another process, as its client sees it.
type remote interface {
	// get returns the value of a key. It is safe for concurrent use, and what it
	// returns is the caller's to read.
	get(caller int, key string) ([]byte, error)
	close()
}

// A remoteKind is a kind of server that can be compared, and its client.
type remoteKind struct {
	name  string
	floor bool
	open  func(s *setup) (remote, *process, error)
}

var remoteKinds = []remoteKind{
	{name: "geocache", open: openGeocachePlain},
	{name: "geocache with TLS", open: openGeocacheTLS},
	{name: "groupcache", open: openGroupcache},
	{name: "groupcache, tuned", open: openGroupcacheTuned},
	{name: "groupcache-go", open: openGroupcacheGo},
	{name: "gRPC", open: openGRPC},
	{name: "Redis", open: openRedis},
	{name: "bare TCP", floor: true, open: openTCP},
}

// setup is what a server is told: which keys it has. A key says how large its value
// is, so one server has values of all sizes.
type setup struct {
	Kind    string
	Dir     string // for certificates
	Keys    []string
	callers int
}

// A size is one of those that values have.
type size struct {
	name  string
	bytes int
	keys  int
	ops   func(callers int) int
}

var sizes = []size{
	{"64 B", 64, 4096, func(callers int) int { return pick(callers, 2000, 12_800) }},
	{"1 KiB", 1 << 10, 4096, func(callers int) int { return pick(callers, 2000, 12_800) }},
	{"64 KiB", 64 << 10, 2048, func(callers int) int { return pick(callers, 500, 2000) }},
	{"1 MiB", 1 << 20, 256, func(callers int) int { return pick(callers, 50, 512) }},
}

func pick(callers, one, many int) int {
	if callers == 1 {
		return one
	}
	return max(many/callers, 1) * callers
}

// sizedKeys returns the keys whose values have this size: those that geocache's server
// owns, which by the weights are next to all.
func (s size) sizedKeys() []string {
	ring, err := consistenthash.New(0, consistenthash.Member{ID: serverID, Weight: serverWeight}, consistenthash.Member{ID: clientID, Weight: clientWeight})
	if err != nil {
		panic(err) // it is always the same ring
	}
	var keys []string
	for i := 0; len(keys) < s.keys; i++ {
		key := fmt.Sprintf("%d/%08d", s.bytes, i)
		if owner, _ := ring.Owner(key); owner == serverID {
			keys = append(keys, key)
		}
	}
	return keys
}

// valueOf returns the value that a sized key has on all servers.
func valueOf(key string) ([]byte, error) {
	bytes, index, ok := strings.Cut(key, "/")
	n, err := strconv.Atoi(bytes)
	i, err2 := strconv.Atoi(index)
	if !ok || err != nil || err2 != nil {
		return nil, fmt.Errorf("%q is not a key of this benchmark", key)
	}
	return makeValue(i, n), nil
}

// An opened is a kind whose server runs.
type opened struct {
	remoteKind
	remote
	server *process
}

func (o *opened) stop() {
	if o.remote != nil {
		o.remote.close()
	}
	if o.server != nil {
		o.server.stop()
	}
}

// openRemotes starts all servers, and has each load all keys.
func openRemotes(b *bench, kinds []remoteKind, keys []string, dir string, callers int) (all []*opened, err error) {
	for _, k := range kinds {
		if k.name == "Redis" {
			if _, err := exec.LookPath("redis-server"); err != nil {
				b.note("Redis is left out: redis-server is not installed (Debian: apt-get install redis-server).")
				continue
			}
		}
		o := &opened{remoteKind: k}
		all = append(all, o)
		if o.remote, o.server, err = k.open(&setup{Kind: k.name, Dir: dir, Keys: keys, callers: callers}); err != nil {
			return all, fmt.Errorf("%s: %w", k.name, err)
		}
		for _, key := range keys {
			if _, err := o.get(0, key); err != nil {
				return all, fmt.Errorf("%s: %w", k.name, err)
			}
		}
	}
	return all, nil
}

// run reads ops keys by so many callers, no key by two of them at a time: caches that
// share a running read would do less than the others.
func (o *opened) run(keys []string, ops, callers int) (sample, error) {
	each := ops / callers
	took := make([]time.Duration, each*callers)
	did := make([]work, callers)
	errs := make([]error, callers)
	allocated, client, server := mallocs(), ownCPU(), o.server.cpu()
	begun := time.Now()
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			at := c
			for i := range each {
				sent := time.Now()
				v, err := o.get(c, keys[at])
				if err != nil {
					errs[c] = err
					return
				}
				took[c*each+i] = time.Since(sent)
				did[c].reads++
				did[c].hits++
				did[c].bytes += int64(len(v))
				if at += callers; at >= len(keys) {
					at = c % len(keys)
				}
			}
		})
	}
	wg.Wait()
	all := time.Since(begun)
	n := float64(each * callers)
	s := sample{quantities: map[string]float64{
		"throughput":        n / all.Seconds(),
		"client CPU":        micros(ownCPU()-client) / n,
		"server CPU":        micros(o.server.cpu()-server) / n,
		"client allocation": float64(mallocs()-allocated) / n,
	}}
	slices.Sort(took)
	s.quantities["p50"], s.quantities["p99"], s.quantities["p99.9"] = micros(quantile(took, .5)), micros(quantile(took, .99)), micros(quantile(took, .999))
	for c := range did {
		if errs[c] != nil {
			return s, errs[c]
		}
		s.did.reads += did[c].reads
		s.did.hits += did[c].hits
		s.did.bytes += did[c].bytes
	}
	return s, nil
}

var peerQuantities = []quantity{
	{"throughput", "a second", true},
	{"p50", "µs", false},
	{"p99", "µs", false},
	{"p99.9", "µs", false},
	{"client CPU", "µs a read", false},
	{"server CPU", "µs a read", false},
	{"client allocation", "a read", false},
}

func benchPeer(b *bench) error {
	chosen, callers := sizes, []int{1, 16, 128, 1024}
	if b.quick {
		chosen, callers = sizes[1:2], []int{1, 128}
	}
	var keys []string
	for _, s := range chosen {
		keys = append(keys, s.sizedKeys()...)
	}
	dir, done, err := certificates()
	if err != nil {
		return err
	}
	defer done()
	all, err := openRemotes(b, remoteKinds, keys, dir, slices.Max(callers))
	defer func() {
		for _, o := range all {
			o.stop()
		}
	}()
	if err != nil {
		return err
	}
	for _, s := range chosen {
		keys := s.sizedKeys()
		for _, n := range callers {
			if n > len(keys) {
				continue // two callers would have one key
			}
			quantities := peerQuantities
			if n == 1 {
				quantities = slices.DeleteFunc(slices.Clone(quantities), func(q quantity) bool { return q.name == "p99.9" })
			}
			name := fmt.Sprintf("%s, %d callers", s.name, n)
			if n == 1 {
				name = fmt.Sprintf("%s, 1 caller", s.name)
			}
			var sides []side
			for _, o := range all {
				sides = append(sides, side{o.name, o.floor, func() (sample, error) { return o.run(keys, s.ops(n), n) }})
			}
			first, rounds := len(b.rows), b.rounds
			if n == 1 {
				// Of two processes that wait for each other the machine has some on one core
				// and some on two, for a second or so, and one is twice as fast.
				b.rounds = 2*rounds + 1
			}
			err := b.compare(name, quantities, sides...)
			b.rounds = rounds
			if err != nil {
				return err
			}
			b.tlsRows(b.rows[first:])
			runtime.GC()
		}
	}
	return nil
}

// tlsRows turns the rows that compare us with ourselves with TLS round: what is measured
// there is the one with TLS.
func (b *bench) tlsRows(rows []row) {
	for i, r := range rows {
		if r.Them != "geocache with TLS" {
			continue
		}
		r.Name, r.Them = "TLS, "+r.Name, "geocache without TLS"
		r.Ours, r.Theirs = r.Theirs, r.Ours
		r.Ratio, r.FloorRatio = 0, 0
		if r.Theirs != 0 {
			r.Ratio = r.Ours / r.Theirs
		}
		if r.Floor != 0 {
			r.FloorRatio = r.Ours / r.Floor
		}
		rows[i] = r
	}
}
