package main

import (
	"fmt"
	"math"
	"time"

	theirhash "github.com/golang/groupcache/consistenthash"
	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache/consistenthash"
)

// A ring says which member owns a key.
type ring interface{ owner(key string) string }

// A ringKind makes rings of members.
type ringKind struct {
	name string
	make func(members []string) (ring, error)
}

var ringKinds = []ringKind{
	{"geocache", func(members []string) (ring, error) {
		var all []consistenthash.Member
		for _, m := range members {
			all = append(all, consistenthash.Member{ID: m})
		}
		r, err := consistenthash.New(1, all...)
		return ourRing{r}, err
	}},
	{"groupcache", func(members []string) (ring, error) {
		m := theirhash.New(50, nil) // as its pool does
		m.Add(members...)
		return theirRing{m}, nil
	}},
	{"rendezvous", func(members []string) (ring, error) {
		r := make(rendezvous, len(members))
		for i, m := range members {
			r[i] = scored{m, xxh3.HashString(m)}
		}
		return r, nil
	}},
}

type ourRing struct{ *consistenthash.Ring }

func (r ourRing) owner(key string) string { id, _ := r.Owner(key); return id }

type theirRing struct{ *theirhash.Map }

func (r theirRing) owner(key string) string { return r.Get(key) }

// rendezvous gives a key to the member with the highest score for it. There is nothing
// to build, and it looks at all members each time.
type rendezvous []scored

type scored struct {
	id   string
	hash uint64
}

func (r rendezvous) owner(key string) string {
	var best string
	var most uint64
	for i := range r {
		if s := xxh3.HashStringSeed(key, r[i].hash); s >= most {
			best, most = r[i].id, s
		}
	}
	return best
}

func memberNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("10.0.%d.%d:7946", i/250, i%250)
	}
	return names
}

func benchRing(b *bench) error {
	keys := makeKeys(100_000)
	members := []int{10, 100, 1000}
	if b.quick {
		members = members[:2]
	}
	for _, n := range members {
		all := memberNames(n + 1)
		var sides []side
		for _, k := range ringKinds {
			sides = append(sides, side{name: k.name, run: func() (sample, error) { return measureRing(k, all, keys) }})
		}
		err := b.compare(fmt.Sprintf("%d members", n), []quantity{
			{"lookup", "ns", false}, {"build", "ms", false},
			{"largest share", "of the mean", false}, {"moved by one more, off the share due", "of it", false},
		}, sides...)
		if err != nil {
			return err
		}
	}
	return nil
}

func measureRing(k ringKind, members, keys []string) (sample, error) {
	begun := time.Now()
	before, err := k.make(members[:len(members)-1])
	built := time.Since(begun)
	if err != nil {
		return sample{}, err
	}
	after, err := k.make(members)
	if err != nil {
		return sample{}, err
	}
	owners := make([]string, len(keys))
	begun = time.Now()
	for i, key := range keys {
		owners[i] = before.owner(key)
	}
	looked := time.Since(begun)
	count, moved, astray := map[string]int{}, 0, 0
	newcomer := members[len(members)-1]
	for i, key := range keys {
		count[owners[i]]++
		switch now := after.owner(key); now {
		case owners[i]:
		case newcomer:
			moved++
		default:
			astray++
		}
	}
	if astray > 0 {
		return sample{}, fmt.Errorf("%d keys have moved between members that were there before", astray)
	}
	most := 0
	for _, n := range count {
		most = max(most, n)
	}
	nodes := float64(len(members) - 1)
	return sample{quantities: map[string]float64{
		"lookup":                               float64(looked.Nanoseconds()) / float64(len(keys)),
		"build":                                millis(built),
		"largest share":                        float64(most) * nodes / float64(len(keys)),
		"moved by one more, off the share due": math.Abs(float64(moved)*(nodes+1)/float64(len(keys)) - 1),
	}, did: work{reads: int64(len(keys))}}, nil
}
