package store

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/geocache/geocache/expiry"
)

// checkInvariants holds s, which nobody may be writing to, to what is promised
// of map, policies and accounts.
func checkInvariants(t require.TestingT, s *Store) {
	checkTable(t, &s.entries)
	mapped := 0
	for e := range s.All() {
		mapped++
		found, ok := s.Peek(e.Key())
		require.True(t, ok, "mapped entry %q is found", e.Key())
		require.Same(t, e, found)
	}

	queued := 0
	for c := range classes {
		var sum Usage
		take := func(e *Entry) {
			require.Equal(t, c, e.Class(), "entry %q is in its class's policy", e.Key())
			found, _ := s.Peek(e.Key())
			require.True(t, found == e, "queued entry %q is mapped", e.Key())
			sum.Entries++
			sum.Bytes += s.charge(e)
		}
		switch p := s.policies[c].(type) {
		case *s3fifo:
			checkQueue(t, &p.small, take)
			checkQueue(t, &p.main, take)
			require.GreaterOrEqual(t, p.share, minShare)
			require.LessOrEqual(t, p.share, maxShare)
		case *fifo:
			checkQueue(t, &p.queue, take)
		case *ordered:
			for i, seen := range p.heap {
				take(seen.entry)
				require.Equal(t, inHeap, seen.entry.place)
				require.EqualValues(t, i+1, seen.entry.mark.Load())
				require.LessOrEqual(t, seen.mark, seen.entry.ext().used.Load())
				require.LessOrEqual(t, p.heap[max(i-1, 0)/2].mark, seen.mark, "a heap")
			}
		}
		require.Equal(t, s.usage[c].Entries, sum.Entries)
		require.Equal(t, s.usage[c].Bytes, sum.Bytes)
		require.False(t, s.limits[c].exceeded(sum, limit{}))
		queued += sum.Entries
	}
	require.Equal(t, queued, mapped, "every mapped entry is in one queue")
	stats := s.Stats()
	require.False(t, s.limits[Owned].exceeded(Usage{Bytes: stats.Bytes(), Entries: stats.Entries()}, limit{}))
}

func checkQueue(t require.TestingT, q *queue, take func(*Entry)) {
	length, bytes := 0, int64(0)
	var prev *Entry
	for e := q.front; e != nil; prev, e = e, e.next {
		require.Equal(t, q.id, e.place, "entry %q knows its queue", e.Key())
		require.True(t, e.prev == prev, "links of %q go both ways", e.Key())
		take(e)
		length++
		bytes += e.size()
	}
	require.True(t, q.back == prev)
	require.Equal(t, q.length, length)
	require.Equal(t, q.bytes, bytes)
}

// A model is the Store as its documentation tells it, one step at a time on
// slices.
type model struct {
	config  Config
	classes [classes]modelPolicy
	left    [reasons]uint64
	clock   int // uses
}

// A modelPolicy is an order of eviction, told plainly.
type modelPolicy interface {
	entries() []*modelEntry
	read(e *modelEntry)
	add(e *modelEntry)
	replace(old, e *modelEntry)
	remove(e *modelEntry)
	evict()
}

type modelEntry struct {
	*Entry
	charge int64
	reads  int
	used   int // when it was last read or written
	came   int // when its key came
}

// byRule is LRU, LFU and FIFO: of all entries the first by order goes.
type byRule struct {
	held  []*modelEntry
	order func(a, b *modelEntry) int
}

func (p *byRule) entries() []*modelEntry { return p.held }
func (p *byRule) read(e *modelEntry)     { e.reads++ }
func (p *byRule) add(e *modelEntry)      { p.held = append(p.held, e) }
func (p *byRule) replace(old, e *modelEntry) {
	e.reads, e.came = old.reads, old.came
	p.held[slices.Index(p.held, old)] = e
}
func (p *byRule) remove(e *modelEntry) { p.held = without(p.held, e) }
func (p *byRule) evict()               { p.remove(slices.MinFunc(p.held, p.order)) }

func without(held []*modelEntry, e *modelEntry) []*modelEntry {
	return slices.DeleteFunc(slices.Clone(held), func(other *modelEntry) bool { return other == e })
}

// adaptive is S3-FIFO as algorithm 1 of the paper tells it, with the share that the
// head of s3fifo.go tells of.
type adaptive struct {
	small, main   []*modelEntry // newest last
	left, dropped modelGhost

	share                        float64
	evicted, moreSmall, moreMain int
}

// A modelGhost tells how many were added after a key.
type modelGhost []string

func (g *modelGhost) add(key string) { *g = append(*g, key) }

func (g *modelGhost) take(key string) (age int) {
	age = math.MaxInt
	for i, other := range *g {
		if other == key {
			age = len(*g) - 1 - i
			(*g)[i] = ""
		}
	}
	return age
}

func (p *adaptive) entries() []*modelEntry { return slices.Concat(p.small, p.main) }
func (p *adaptive) read(e *modelEntry)     { e.reads = min(e.reads+1, 3) }

func (p *adaptive) add(e *modelEntry) {
	n := len(p.entries())
	if age := p.left.take(e.Key()); age < n-n/10 {
		if age <= n/10 {
			p.moreSmall++
		}
		p.main = append(p.main, e)
		return
	}
	if p.dropped.take(e.Key()) <= n/10 {
		p.moreMain++
	}
	p.small = append(p.small, e)
}

func (p *adaptive) replace(old, e *modelEntry) {
	e.reads = old.reads
	for _, q := range [][]*modelEntry{p.small, p.main} {
		if at := slices.Index(q, old); at >= 0 {
			q[at] = e
		}
	}
}

func (p *adaptive) remove(e *modelEntry) {
	p.small, p.main = without(p.small, e), without(p.main, e)
}

func (p *adaptive) evict() {
	for {
		var e *modelEntry
		if small := charges(p.small); float64(small) >= p.share*float64(small+charges(p.main)) {
			e, p.small = p.small[0], p.small[1:]
			if e.reads < 2 {
				p.left.add(e.Key())
				break
			}
			e.reads = 0
		} else {
			e, p.main = p.main[0], p.main[1:]
			if e.reads == 0 {
				p.dropped.add(e.Key())
				break
			}
			e.reads--
		}
		p.main = append(p.main, e)
	}
	if p.evicted++; p.evicted >= len(p.entries()) {
		if a, b := p.moreSmall, p.moreMain; a > 2*b || b > 2*a {
			shift := float64(a-b) / float64(2*p.evicted)
			p.share = min(max(p.share+min(max(shift, -.02), .02), .01), .9)
		}
		p.evicted, p.moreSmall, p.moreMain = 0, 0, 0
	}
}

func charges(entries []*modelEntry) (sum int64) {
	for _, e := range entries {
		sum += e.charge
	}
	return sum
}

func newModel(config Config) *model {
	m := &model{config: config}
	for c := range m.classes {
		switch config.Policy {
		case LRU:
			m.classes[c] = &byRule{order: func(a, b *modelEntry) int { return a.used - b.used }}
		case LFU:
			m.classes[c] = &byRule{order: func(a, b *modelEntry) int { return cmp.Or(a.reads-b.reads, a.used-b.used) }}
		case FIFO:
			m.classes[c] = &byRule{order: func(a, b *modelEntry) int { return a.came - b.came }}
		default:
			m.classes[c] = &adaptive{share: .1}
		}
	}
	return m
}

func (m *model) find(key string) *modelEntry {
	for c := range m.classes {
		for _, e := range m.classes[c].entries() {
			if e.Key() == key {
				return e
			}
		}
	}
	return nil
}

func (m *model) get(key string) *modelEntry {
	e := m.find(key)
	if e != nil {
		m.clock++
		e.used = m.clock
		m.classes[e.Class()].read(e)
	}
	return e
}

func (m *model) remove(key string, reason Reason) {
	if e := m.find(key); e != nil {
		m.classes[e.Class()].remove(e)
		m.left[reason]++
	}
}

// held returns what is held of a class.
func (m *model) held(c Class) (bytes int64, entries int) {
	held := m.classes[c].entries()
	return charges(held), len(held)
}

// bounds returns the bounds of a class.
func (m *model) bounds(c Class) (bytes int64, entries int) {
	bytes, entries = m.config.MaxBytes, m.config.MaxEntries
	if entries == 0 {
		entries = 1 << 30
	}
	if share := m.config.CopyShare; c == Copy {
		bytes, entries = int64(share*float64(bytes)), int(share*float64(entries))
		if share > 0 {
			entries = max(entries, 1)
		}
	}
	return bytes, entries
}

// makeRoom evicts until there is room for bytes and entries more of class c.
func (m *model) makeRoom(c Class, key string, charge int64) {
	for {
		entries := 1
		bytes := charge
		if old := m.find(key); old != nil {
			bytes, entries = charge-old.charge, 0
		}
		if charge > 0 && bytes <= 0 && entries == 0 {
			return
		}
		if charge == 0 {
			bytes, entries = 0, 0
		}
		ownedBytes, ownedEntries := m.held(Owned)
		copyBytes, copyEntries := m.held(Copy)
		mostCopyBytes, mostCopies := m.bounds(Copy)
		mostBytes, most := m.bounds(Owned)
		victim := Owned
		switch {
		case c == Copy && (copyBytes+bytes > mostCopyBytes || copyEntries+entries > mostCopies):
			victim = Copy
		case ownedBytes+copyBytes+bytes <= mostBytes && ownedEntries+copyEntries+entries <= most:
			return
		case ownedEntries == 0:
			victim = Copy
		}
		m.classes[victim].evict()
		m.left[Capacity]++
	}
}

// perEntry is what an entry takes beside its key and value.
func perEntry(p Policy) int64 {
	if p == LRU || p == LFU {
		return Overhead + extendedOverhead + heapOverhead
	}
	return Overhead
}

func (m *model) set(e *Entry) *Entry {
	charge := int64(len(e.Key())+len(e.Value())) + perEntry(m.config.Policy)
	bytes, entries := m.bounds(e.Class())
	tooLarge := charge > bytes || entries == 0
	if old := m.find(e.Key()); old != nil {
		if e.Below(old.Stamp) {
			return old.Entry
		}
		if tooLarge || old.Class() != e.Class() {
			m.remove(e.Key(), Replaced)
		}
	}
	if tooLarge {
		return nil
	}
	m.makeRoom(e.Class(), e.Key(), charge)
	m.clock++
	entry := &modelEntry{Entry: e, charge: charge, used: m.clock, came: m.clock}
	if old := m.find(e.Key()); old != nil {
		m.classes[e.Class()].replace(old, entry)
		m.left[Replaced]++
	} else {
		m.classes[e.Class()].add(entry)
	}
	return e
}

// TestModel does the same to a Store and to the model: they hold the same
// entries at every step, so every victim was the one that the policy's definition
// names.
func TestModel(t *testing.T) {
	for policy := range policies {
		t.Run(policy.String(), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) { checkModel(t, policy) })
		})
	}
}

func checkModel(t *rapid.T, policy Policy) {
	maxBytes := rapid.Int64Range(0, 40*(Overhead+50))
	maxEntries := rapid.SampledFrom([]int{0, 0, 1, 10, 25})
	config := Config{
		MaxBytes:   maxBytes.Draw(t, "max"),
		MaxEntries: maxEntries.Draw(t, "max entries"),
		CopyShare:  rapid.SampledFrom([]float64{0, .3, .5, 1}).Draw(t, "share"),
		Policy:     policy,
	}
	s := New(config)
	_, leavers := s.Leavers()
	m := newModel(config)
	keys := distinctKeys(s, 60)
	key := rapid.SampledFrom(keys)
	get := func(t *rapid.T, key string) bool {
		e, ok := s.Get(key)
		want := m.get(key)
		require.Equal(t, want != nil, ok, "key %s", key)
		if ok {
			require.Same(t, want.Entry, e)
		}
		return ok
	}
	generation := expiry.Generation(10)
	told := map[*Entry]Reason{}
	t.Repeat(map[string]func(*rapid.T){
		"set": func(t *rapid.T) {
			generation++
			e := newItem(Item{
				Key:   key.Draw(t, "key"),
				Value: make([]byte, rapid.SampledFrom([]int{0, 1, 50, 500, 3000}).Draw(t, "size")),
				Stamp: expiry.Loaded(generation - expiry.Generation(rapid.SampledFrom([]int{0, 0, 0, 1, 5}).Draw(t, "late"))),
				Class: Class(rapid.IntRange(0, 1).Draw(t, "class")),
			})
			require.Same(t, m.set(e), s.Set(e))
		},
		"work": func(t *rapid.T) { // as a cache is used; few steps would hardly reach the main queue
			random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
			zipf := rand.NewZipf(random, 1.1, 3, uint64(len(keys)-1))
			for range 100 {
				generation++
				at := zipf.Uint64()
				hit := get(t, keys[at])
				if hit && random.IntN(10) > 0 {
					continue
				}
				e := newItem(Item{Key: keys[at], Value: make([]byte, random.IntN(50)), Stamp: expiry.Loaded(generation), Class: Class(at % 2)})
				require.Same(t, m.set(e), s.Set(e))
			}
		},
		"get": func(t *rapid.T) { get(t, key.Draw(t, "key")) },
		"delete": func(t *rapid.T) {
			k := key.Draw(t, "key")
			require.Equal(t, m.find(k) != nil, s.Delete(k))
			m.remove(k, Removed)
		},
		"sweep": func(t *rapid.T) {
			rest := expiry.Generation(rapid.IntRange(0, 9).Draw(t, "rest"))
			s.Sweep(Expired, func(e *Entry) bool { return e.Generation%10 == rest })
			for _, k := range keys {
				if e := m.find(k); e != nil && e.Generation%10 == rest {
					m.remove(k, Expired)
				}
			}
		},
		"resize": func(t *rapid.T) {
			m.config.MaxBytes, m.config.MaxEntries = maxBytes.Draw(t, "max"), maxEntries.Draw(t, "max entries")
			s.Resize(m.config.MaxBytes, m.config.MaxEntries)
			m.makeRoom(Copy, "", 0)
		},
		"": func(t *rapid.T) {
			checkInvariants(t, s)
			for _, k := range keys {
				var want *Entry
				if e := m.find(k); e != nil {
					want = e.Entry
				}
				got, _ := s.Peek(k)
				require.True(t, want == got, "key %s", k)
			}
			stats := s.Stats()
			bytes, _ := m.held(Owned)
			copies, _ := m.held(Copy)
			require.Equal(t, bytes+copies, stats.Bytes())
			for r := range reasons {
				require.Equal(t, m.left[r], stats.Left(r), "%v", r)
			}
			for l, ok := leavers(); ok; l, ok = leavers() {
				_, known := told[l.Entry]
				require.False(t, known, "each is told of once")
				told[l.Entry] = l.Reason
				found, _ := s.Peek(l.Key())
				require.False(t, found == l.Entry, "what has left is not there")
			}
			var sum uint64
			for _, n := range m.left {
				sum += n
			}
			require.EqualValues(t, sum, uint64(len(told))+s.Stats().Untold, "all are told of, but for want of room")
		},
	})
}

// distinctKeys returns keys that the ghost does not confuse.
func distinctKeys(s *Store, n int) (keys []string) {
	g := newGhost()
	for i := 0; len(keys) < n; i++ {
		key := fmt.Sprintf("%03d", i)
		hash := uint32(maphash.String(s.entries.seed, key))
		if _, known := g.take(hash, math.MaxInt); !known {
			g.add(hash, n)
			keys = append(keys, key)
		} else {
			g.add(hash, n)
		}
	}
	return keys
}
