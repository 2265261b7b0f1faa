package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/geocache/geocache/expiry"
)

// checkInvariants holds s, which nobody may be writing to, to what is promised
// of map, queues and accounts.
func checkInvariants(t require.TestingT, s *Store) {
	mapped := 0
	for e := range s.All() {
		mapped++
		found, ok := s.Peek(e.Key)
		require.True(t, ok, "mapped entry %q is found", e.Key)
		require.Same(t, e, found)
	}

	queued := 0
	for c := range classes {
		var sum Usage
		p := s.policies[c].(*s3fifo)
		for _, q := range []*queue{&p.small, &p.main} {
			length, bytes := 0, int64(0)
			var prev *Entry
			for e := q.front; e != nil; prev, e = e, e.next {
				require.Equal(t, q.id, e.queue, "entry %q knows its queue", e.Key)
				require.Equal(t, c, e.Class, "entry %q is in its class's policy", e.Key)
				require.True(t, e.prev == prev, "links of %q go both ways", e.Key)
				require.Equal(t, s.charge(e), e.charge)
				found, _ := s.Peek(e.Key)
				require.True(t, found == e, "queued entry %q is mapped", e.Key)
				length++
				bytes += e.charge
			}
			require.True(t, q.back == prev)
			require.Equal(t, q.length, length)
			require.Equal(t, q.bytes, bytes)
			sum.Entries += length
			sum.Bytes += bytes
		}
		require.Equal(t, s.usage[c].Entries, sum.Entries)
		require.Equal(t, s.usage[c].Bytes, sum.Bytes)
		require.LessOrEqual(t, sum.Bytes, s.limits[c])
		queued += sum.Entries
	}
	require.Equal(t, queued, mapped, "every mapped entry is in one queue")
	require.LessOrEqual(t, s.Stats().Bytes(), s.config.MaxBytes)
}

// A model is the Store as its documentation tells it, one step at a time on
// slices.
type model struct {
	config  Config
	classes [classes]modelPolicy
}

// A modelPolicy is S3-FIFO as algorithm 1 of the paper tells it.
type modelPolicy struct {
	small, main []*modelEntry  // newest last
	ghost       map[string]int // key to the number of its insertion
	ghosts      int            // insertions
}

type modelEntry struct {
	*Entry
	charge int64
	reads  int
}

func (p *modelPolicy) bytes() int64 { return sumCharges(p.small) + sumCharges(p.main) }

func (p *modelPolicy) remembered() int {
	n := len(p.small) + len(p.main)
	return n - n/10
}

func sumCharges(entries []*modelEntry) (sum int64) {
	for _, e := range entries {
		sum += e.charge
	}
	return sum
}

func (p *modelPolicy) find(key string) (queue *[]*modelEntry, at int) {
	for _, q := range []*[]*modelEntry{&p.small, &p.main} {
		if at := slices.IndexFunc(*q, func(e *modelEntry) bool { return e.Key == key }); at >= 0 {
			return q, at
		}
	}
	return nil, -1
}

func (p *modelPolicy) evict() {
	for {
		if 10*sumCharges(p.small) >= p.bytes() {
			e := p.small[0]
			if e.reads >= 2 {
				p.small, e.reads = p.small[1:], 0
				p.main = append(p.main, e)
				continue
			}
			p.small = p.small[1:]
			p.ghosts++
			p.ghost[e.Key] = p.ghosts
			return
		}
		e := p.main[0]
		p.main = p.main[1:]
		if e.reads == 0 {
			return
		}
		e.reads--
		p.main = append(p.main, e)
	}
}

func (m *model) get(key string) *modelEntry {
	for c := range m.classes {
		if q, at := m.classes[c].find(key); q != nil {
			return (*q)[at]
		}
	}
	return nil
}

func (m *model) delete(key string) {
	for c := range m.classes {
		if q, at := m.classes[c].find(key); q != nil {
			*q = slices.Delete(slices.Clone(*q), at, at+1)
		}
	}
}

func (m *model) bytes() int64 { return m.classes[Owned].bytes() + m.classes[Copy].bytes() }

func (m *model) set(e *Entry) *Entry {
	charge := int64(len(e.Key) + len(e.Value) + Overhead)
	limit := m.config.MaxBytes
	if e.Class == Copy {
		limit = int64(m.config.CopyShare * float64(limit))
	}
	if old := m.get(e.Key); old != nil {
		if old.Generation > e.Generation {
			return old.Entry
		}
		if charge > limit || old.Class != e.Class {
			m.delete(e.Key)
		}
	}
	if charge > limit {
		return nil
	}
	owned, copies := &m.classes[Owned], &m.classes[Copy]
	class := &m.classes[e.Class]
	for {
		need := charge
		if old := m.get(e.Key); old != nil {
			need -= old.charge
		}
		switch {
		case need <= 0:
		case e.Class == Copy && copies.bytes()+need > limit:
			copies.evict()
			continue
		case m.bytes()+need <= m.config.MaxBytes:
		case owned.bytes() > 0:
			owned.evict()
			continue
		default:
			copies.evict()
			continue
		}
		break
	}
	entry := &modelEntry{Entry: e, charge: charge}
	if q, at := class.find(e.Key); q != nil {
		entry.reads = (*q)[at].reads
		(*q)[at] = entry
		return e
	}
	at, ok := class.ghost[e.Key]
	delete(class.ghost, e.Key)
	if ok && class.ghosts-at < class.remembered() {
		class.main = append(class.main, entry)
	} else {
		class.small = append(class.small, entry)
	}
	return e
}

// TestModel does the same to a Store and to the model: they hold the same
// entries at every step, so every victim was the one that the paper names.
func TestModel(t *testing.T) {
	const keys = 60
	rapid.Check(t, func(t *rapid.T) {
		config := Config{
			MaxBytes:  rapid.Int64Range(0, 40*(Overhead+50)).Draw(t, "max"),
			CopyShare: rapid.SampledFrom([]float64{0, .3, .5, 1}).Draw(t, "share"),
		}
		s := New(config)
		m := &model{config: config}
		for c := range m.classes {
			m.classes[c].ghost = make(map[string]int)
		}
		key := rapid.Custom(func(t *rapid.T) string {
			return fmt.Sprint(rapid.IntRange(0, keys-1).Draw(t, "key"))
		})
		get := func(t *rapid.T, key string) bool {
			e, ok := s.Get(key)
			want := m.get(key)
			require.Equal(t, want != nil, ok, "key %s", key)
			if ok {
				require.Same(t, want.Entry, e)
				want.reads = min(want.reads+1, 3)
			}
			return ok
		}
		generation := expiry.Generation(10)
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				generation++
				e := &Entry{
					Key:        key.Draw(t, "key"),
					Value:      make([]byte, rapid.SampledFrom([]int{0, 1, 50, 500, 3000}).Draw(t, "size")),
					Generation: generation - expiry.Generation(rapid.SampledFrom([]int{0, 0, 0, 1, 5}).Draw(t, "late")),
					Class:      Class(rapid.IntRange(0, 1).Draw(t, "class")),
				}
				require.Same(t, m.set(e), s.Set(e))
			},
			"work": func(t *rapid.T) { // as a cache is used; few steps would hardly reach the main queue
				random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
				zipf := rand.NewZipf(random, 1.1, 3, keys-1)
				for range 200 {
					generation++
					key := zipf.Uint64()
					hit := get(t, fmt.Sprint(key))
					if hit && random.IntN(10) > 0 {
						continue
					}
					e := &Entry{Key: fmt.Sprint(key), Value: make([]byte, random.IntN(50)), Generation: generation, Class: Class(key % 2)}
					require.Same(t, m.set(e), s.Set(e))
				}
			},
			"get": func(t *rapid.T) { get(t, key.Draw(t, "key")) },
			"delete": func(t *rapid.T) {
				k := key.Draw(t, "key")
				require.Equal(t, m.get(k) != nil, s.Delete(k))
				m.delete(k)
			},
			"sweep": func(t *rapid.T) {
				rest := expiry.Generation(rapid.IntRange(0, 9).Draw(t, "rest"))
				s.Sweep(func(e *Entry) bool { return e.Generation%10 == rest })
				for k := range keys {
					if e := m.get(fmt.Sprint(k)); e != nil && e.Generation%10 == rest {
						m.delete(e.Key)
					}
				}
			},
			"": func(t *rapid.T) {
				checkInvariants(t, s)
				for k := range keys {
					var want *Entry
					if e := m.get(fmt.Sprint(k)); e != nil {
						want = e.Entry
					}
					got, _ := s.Peek(fmt.Sprint(k))
					require.True(t, want == got, "key %d", k)
				}
				require.Equal(t, m.bytes(), s.Stats().Bytes())
			},
		})
	})
}
