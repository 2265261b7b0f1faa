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

// checkInvariants checks that the table, the policies and the usage of s agree, and that s is within its
// limits. There must be no concurrent writers.
func checkInvariants(t require.TestingT, s *Store) {
	checkTable(t, &s.entries)
	inTable := 0
	for e := range s.All() {
		inTable++
		found, ok := s.Peek(e.Key())
		require.True(t, ok, "entry %q in the table is found", e.Key())
		require.Same(t, e, found)
	}

	inPolicies := 0
	for c := range classes {
		var sum Usage
		count := func(e *Entry) {
			require.Equal(t, c, e.Class(), "entry %q is in its class's policy", e.Key())
			found, _ := s.Peek(e.Key())
			require.True(t, found == e, "entry %q in the policy is in the table", e.Key())
			sum.Entries++
			sum.Bytes += s.charge(e)
		}
		switch p := s.policies[c].(type) {
		case *s3fifo:
			checkQueue(t, &p.small, count)
			checkQueue(t, &p.main, count)
			require.GreaterOrEqual(t, p.share, minShare)
			require.LessOrEqual(t, p.share, maxShare)
		case *fifo:
			checkQueue(t, &p.queue, count)
		case *ordered:
			for i, item := range p.heap {
				count(item.entry)
				require.Equal(t, inHeap, item.entry.place)
				require.EqualValues(t, i+1, item.entry.policyWord.Load())
				require.LessOrEqual(t, item.priority, item.entry.ext().priority.Load())
				require.LessOrEqual(t, p.heap[max(i-1, 0)/2].priority, item.priority, "heap order")
			}
		}
		require.Equal(t, s.usage[c].Entries, sum.Entries)
		require.Equal(t, s.usage[c].Bytes, sum.Bytes)
		require.False(t, s.limits[c].exceeded(sum, limit{}))
		inPolicies += sum.Entries
	}
	require.Equal(t, inPolicies, inTable, "every entry in the table is in one policy")
	stats := s.Stats()
	require.False(t, s.limits[Owned].exceeded(Usage{Bytes: stats.Bytes(), Entries: stats.Entries()}, limit{}))
}

func checkQueue(t require.TestingT, q *queue, visit func(*Entry)) {
	length, bytes := 0, int64(0)
	var prev *Entry
	for e := q.front; e != nil; prev, e = e, e.next {
		require.Equal(t, q.id, e.place, "entry %q knows its queue", e.Key())
		require.True(t, e.prev == prev, "%q is linked in both directions", e.Key())
		visit(e)
		length++
		bytes += e.size()
	}
	require.True(t, q.back == prev)
	require.Equal(t, q.length, length)
	require.Equal(t, q.bytes, bytes)
}

// A model implements the documented behaviour of a Store naively, on slices.
type model struct {
	config  Config
	classes [classes]modelPolicy
	left    [reasons]uint64
	clock   int // number of uses
}

// A modelPolicy is a naive implementation of an eviction policy.
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
	added  int // when its key was added
}

// sorted is LRU, LFU and FIFO: it evicts the first entry by order.
type sorted struct {
	held  []*modelEntry
	order func(a, b *modelEntry) int
}

func (p *sorted) entries() []*modelEntry { return p.held }
func (p *sorted) read(e *modelEntry)     { e.reads++ }
func (p *sorted) add(e *modelEntry)      { p.held = append(p.held, e) }
func (p *sorted) replace(old, e *modelEntry) {
	e.reads, e.added = old.reads, old.added
	p.held[slices.Index(p.held, old)] = e
}
func (p *sorted) remove(e *modelEntry) { p.held = without(p.held, e) }
func (p *sorted) evict()               { p.remove(slices.MinFunc(p.held, p.order)) }

func without(held []*modelEntry, e *modelEntry) []*modelEntry {
	return slices.DeleteFunc(slices.Clone(held), func(other *modelEntry) bool { return other == e })
}

// adaptive is S3-FIFO as in algorithm 1 of the paper, with the adaptive share that type s3fifo documents.
type adaptive struct {
	small, main           []*modelEntry // newest last
	smallGhost, mainGhost modelGhost

	share                        float64
	evicted, smallHits, mainHits int
}

// A modelGhost has all evicted keys, in order; those taken are empty.
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
	if age := p.smallGhost.take(e.Key()); age < n-n/10 {
		if age <= n/10 {
			p.smallHits++
		}
		p.main = append(p.main, e)
		return
	}
	if p.mainGhost.take(e.Key()) <= n/10 {
		p.mainHits++
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
				p.smallGhost.add(e.Key())
				break
			}
			e.reads = 0
		} else {
			e, p.main = p.main[0], p.main[1:]
			if e.reads == 0 {
				p.mainGhost.add(e.Key())
				break
			}
			e.reads--
		}
		p.main = append(p.main, e)
	}
	if p.evicted++; p.evicted >= len(p.entries()) {
		if a, b := p.smallHits, p.mainHits; a > 2*b || b > 2*a {
			shift := float64(a-b) / float64(2*p.evicted)
			p.share = min(max(p.share+min(max(shift, -.02), .02), .01), .9)
		}
		p.evicted, p.smallHits, p.mainHits = 0, 0, 0
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
			m.classes[c] = &sorted{order: func(a, b *modelEntry) int { return a.used - b.used }}
		case LFU:
			m.classes[c] = &sorted{order: func(a, b *modelEntry) int {
				return cmp.Or(a.reads-b.reads, a.used-b.used)
			}}
		case FIFO:
			m.classes[c] = &sorted{order: func(a, b *modelEntry) int { return a.added - b.added }}
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

// held returns the bytes and the number of the entries of a class.
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

// makeRoom evicts until an entry of class c with the given key and charge fits. If charge is 0, it evicts
// until the bounds hold.
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
		maxCopyBytes, maxCopies := m.bounds(Copy)
		maxBytes, maxEntries := m.bounds(Owned)
		victim := Owned
		switch {
		case c == Copy && (copyBytes+bytes > maxCopyBytes || copyEntries+entries > maxCopies):
			victim = Copy
		case ownedBytes+copyBytes+bytes <= maxBytes && ownedEntries+copyEntries+entries <= maxEntries:
			return
		case ownedEntries == 0:
			victim = Copy
		}
		m.classes[victim].evict()
		m.left[Capacity]++
	}
}

// perEntry returns what an entry is charged besides its key and value.
func perEntry(p Policy) int64 {
	if p == LRU || p == LFU {
		return overhead + extendedOverhead + heapOverhead
	}
	return overhead
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
	entry := &modelEntry{Entry: e, charge: charge, used: m.clock, added: m.clock}
	if old := m.find(e.Key()); old != nil {
		m.classes[e.Class()].replace(old, entry)
		m.left[Replaced]++
	} else {
		m.classes[e.Class()].add(entry)
	}
	return e
}

// A Store and the model hold the same entries after every step, so every victim is the one that the
// definition of the policy requires.
func TestStoreMatchesModel(t *testing.T) {
	for policy := range policies {
		t.Run(policy.String(), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) { checkModel(t, policy) })
		})
	}
}

func checkModel(t *rapid.T, policy Policy) {
	maxBytes := rapid.Int64Range(0, 40*(overhead+50))
	maxEntries := rapid.SampledFrom([]int{0, 0, 1, 10, 25})
	config := Config{
		MaxBytes:   maxBytes.Draw(t, "max"),
		MaxEntries: maxEntries.Draw(t, "max entries"),
		CopyShare:  rapid.SampledFrom([]float64{0, .3, .5, 1}).Draw(t, "share"),
		Policy:     policy,
	}
	s := New(config)
	_, take := s.Evictions()
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
	taken := map[*Entry]Reason{}
	t.Repeat(map[string]func(*rapid.T){
		"set": func(t *rapid.T) {
			generation++
			late := expiry.Generation(rapid.SampledFrom([]int{0, 0, 0, 1, 5}).Draw(t, "late"))
			e := testEntry(Item{
				Key:   key.Draw(t, "key"),
				Value: make([]byte, rapid.SampledFrom([]int{0, 1, 50, 500, 3000}).Draw(t, "size")),
				Stamp: expiry.Loaded(generation - late),
				Class: Class(rapid.IntRange(0, 1).Draw(t, "class")),
			})
			require.Same(t, m.set(e), put(s, e))
		},
		"work": func(t *rapid.T) { // like a cache in use; single steps would hardly ever reach the main queue
			random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
			zipf := rand.NewZipf(random, 1.1, 3, uint64(len(keys)-1))
			for range 100 {
				generation++
				at := zipf.Uint64()
				hit := get(t, keys[at])
				if hit && random.IntN(10) > 0 {
					continue
				}
				e := testEntry(Item{
					Key:   keys[at],
					Value: make([]byte, random.IntN(50)),
					Stamp: expiry.Loaded(generation),
					Class: Class(at % 2),
				})
				require.Same(t, m.set(e), put(s, e))
			}
		},
		"get": func(t *rapid.T) { get(t, key.Draw(t, "key")) },
		"delete": func(t *rapid.T) {
			k := key.Draw(t, "key")
			require.Equal(t, m.find(k) != nil, remove(s, k))
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
			for l, ok := take(); ok; l, ok = take() {
				_, known := taken[l.Entry]
				require.False(t, known, "each is returned once")
				taken[l.Entry] = l.Reason
				found, _ := s.Peek(l.Key())
				require.False(t, found == l.Entry, "an entry that has left is not in the store")
			}
			var sum uint64
			for _, n := range m.left {
				sum += n
			}
			require.EqualValues(t, sum, uint64(len(taken))+s.Stats().EvictDropped,
				"each is returned, or dropped for lack of room")
		},
	})
}

// distinctKeys returns n keys that a ghost does not confuse with each other.
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
