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

// checkTable holds t, which nobody may be writing to, to what is promised of its
// slots.
func checkTable(t require.TestingT, table *table) {
	for i := range table.shards {
		s, c := &table.shards[i], table.counts[i]
		g := s.groups.Load()
		if g == nil {
			require.Zero(t, c.used+c.dead)
			continue
		}
		used, dead := 0, 0
		for i := range g.groups {
			for slot := range groupSize {
				e := g.groups[i].entries[slot].Load()
				tag := g.groups[i].tags.Load() >> (8 * slot) & 0xff
				if e == nil {
					require.LessOrEqual(t, tag, uint64(deadTag))
					if tag == deadTag {
						dead++
					}
					continue
				}
				used++
				hash := table.hash(e.Key())
				require.Equal(t, tagOf(hash), tag)
				require.True(t, table.shard(hash) == s)
				require.True(t, table.load(e.Key()) == e, "%q is found", e.Key())
				require.LessOrEqual(t, g.earliest[i].Load(), int64(e.Expires))
			}
		}
		require.Equal(t, used, c.used)
		require.Equal(t, dead, c.dead)
		require.Less(t, used+dead, len(g.groups)*groupSize, "a search comes to an end")
	}
}

// TestTable does the same to a table and to a map. All keys are in one shard, so
// that it becomes full, is copied, and has dead slots.
func TestTable(t *testing.T) {
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
					want[key] = newItem(Item{Key: key, Expires: expiry.Instant(random.IntN(1000))})
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
				// A shard that became smaller meanwhile may not know that yet.
				for g, group := range table.due(now) {
					require.Empty(t, g.expired(group, now))
				}
				for range table.due(now) {
					t.Fatal("nothing is due any more")
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

// TestTableUnderWriters has readers look for keys that are always there, and for
// one that never is, while a writer has the slots around them come and go and the
// shard grow.
func TestTableUnderWriters(t *testing.T) {
	table := &table{seed: maphash.MakeSeed()}
	var keys []string
	for i := 0; len(keys) < 2000; i++ {
		if key := fmt.Sprint(i); table.hash(key)>>24 == 7 {
			keys = append(keys, key)
		}
	}
	stay, come := keys[:50], keys[50:1999]
	for _, key := range stay {
		table.store(newItem(Item{Key: key}))
	}
	var done atomic.Bool
	var readers sync.WaitGroup
	for r := range 3 {
		readers.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(r)))
			for !done.Load() {
				key := stay[random.IntN(len(stay))]
				if e := table.load(key); e == nil || e.Key() != key {
					t.Errorf("%s not found", key)
					return
				}
				if table.load(keys[1999]) != nil {
					t.Error("found what never came")
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(2, 2))
	for round := range 60 {
		for range 2000 {
			key := come[random.IntN(min(len(come), 20+40*round))]
			if e := table.load(key); e != nil && random.IntN(2) == 0 {
				table.remove(e)
			} else {
				table.store(newItem(Item{Key: key}))
			}
			if random.IntN(4) == 0 { // replaced, never gone
				table.store(newItem(Item{Key: stay[random.IntN(len(stay))]}))
			}
		}
	}
	done.Store(true)
	readers.Wait()
	checkTable(t, table)
}
