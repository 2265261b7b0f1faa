package store

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/geocache/geocache/expiry"
)

// checkTable checks the invariants of table. There must be no concurrent writers.
func checkTable(t require.TestingT, table *table) {
	for i := range table.shards {
		s, c := &table.shards[i], table.counts[i]
		g := s.groups.Load()
		if g == nil {
			require.Zero(t, c.used+c.tombstones)
			continue
		}
		used, tombstones := 0, 0
		for i := range g.groups {
			for slot := range groupSize {
				e := g.groups[i].entries[slot].Load()
				tag := g.groups[i].tags.Load() >> (8 * slot) & 0xff
				if e == nil {
					require.LessOrEqual(t, tag, uint64(tombstoneTag))
					if tag == tombstoneTag {
						tombstones++
					}
					continue
				}
				used++
				hash := table.hash(e.Key())
				require.Equal(t, tagOf(hash), tag)
				require.True(t, table.shard(hash) == s)
				require.True(t, table.load(e.Key()) == e, "%q is found", e.Key())
				require.LessOrEqual(t, g.firstExpiry[i].Load(), int64(e.Expires))
			}
		}
		require.Equal(t, used, c.used)
		require.Equal(t, tombstones, c.tombstones)
		require.Less(t, used+tombstones, len(g.groups)*groupSize, "every search ends at an empty slot")
	}
}

// A table behaves like a map. All keys are in one shard, so that the shard fills up, is resized, and has
// tombstones.
func TestTableMatchesMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := &table{seed: maphash.MakeSeed()}
		var keys []string
		for i := 0; len(keys) < 300; i++ {
			if key := fmt.Sprint(i); table.hash(key)>>24 == 7 {
				keys = append(keys, key)
			}
		}
		want := map[string]*Entry{}
		t.Repeat(map[string]func(*rapid.T){
			"work": func(t *rapid.T) {
				random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
				some := keys[:1+random.IntN(len(keys))]
				removals := random.IntN(10)
				for range 500 {
					key := some[random.IntN(len(some))]
					e := want[key]
					require.True(t, table.load(key) == e)
					if random.IntN(10) < removals {
						if e != nil {
							table.remove(e)
							delete(want, key)
						}
						continue
					}
					want[key] = testEntry(Item{Key: key, Expires: expiry.Instant(random.IntN(1000))})
					table.store(want[key])
				}
			},
			"expire": func(t *rapid.T) {
				now := expiry.Instant(rapid.IntRange(0, 1000).Draw(t, "now"))
				for g, group := range table.due(now) {
					for _, e := range g.expired(group, now) {
						table.remove(e)
						require.True(t, want[e.Key()] == e)
						delete(want, e.Key())
					}
				}
				for _, e := range want {
					require.Greater(t, e.Expires, now)
				}
				// The times of a shard that shrank in the meantime may be too early.
				for g, group := range table.due(now) {
					require.Empty(t, g.expired(group, now))
				}
				for range table.due(now) {
					t.Fatal("no group is due any more")
				}
			},
			"": func(t *rapid.T) {
				checkTable(t, table)
				found := map[string]*Entry{}
				for e := range table.all() {
					found[e.Key()] = e
				}
				require.Equal(t, want, found)
			},
		})
	})
}

// Readers always find keys that are never removed, and never one that was never added, while a writer fills
// and empties the slots around them and the shard grows.
func TestTableReadsDuringWrites(t *testing.T) {
	table := &table{seed: maphash.MakeSeed()}
	var keys []string
	for i := 0; len(keys) < 2000; i++ {
		if key := fmt.Sprint(i); table.hash(key)>>24 == 7 {
			keys = append(keys, key)
		}
	}
	stable, volatile, missing := keys[:50], keys[50:1999], keys[1999]
	for _, key := range stable {
		table.store(testEntry(Item{Key: key}))
	}
	var done atomic.Bool
	var readers sync.WaitGroup
	for r := range 3 {
		readers.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(r)))
			for !done.Load() {
				key := stable[random.IntN(len(stable))]
				if e := table.load(key); e == nil || e.Key() != key {
					t.Errorf("%s not found", key)
					return
				}
				if table.load(missing) != nil {
					t.Error("found a key that was never added")
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(2, 2))
	for round := range 60 {
		for range 2000 {
			key := volatile[random.IntN(min(len(volatile), 20+40*round))]
			if e := table.load(key); e != nil && random.IntN(2) == 0 {
				table.remove(e)
			} else {
				table.store(testEntry(Item{Key: key}))
			}
			if random.IntN(4) == 0 { // replaced, but never missing
				table.store(testEntry(Item{Key: stable[random.IntN(len(stable))]}))
			}
		}
	}
	done.Store(true)
	readers.Wait()
	checkTable(t, table)
}

// Where few of many entries expire, Expire examines few groups.
func TestExpireExaminesFewGroups(t *testing.T) {
	s := New(Config{MaxBytes: 1 << 30})
	for i := range 50_000 {
		put(s, testEntry(Item{Key: fmt.Sprint(i), Expires: expiry.Instant(1 + i%500)}))
	}
	examined := 0
	for range s.entries.due(1) {
		examined++
	}
	require.LessOrEqual(t, examined, 100)
	require.Positive(t, examined)
}
