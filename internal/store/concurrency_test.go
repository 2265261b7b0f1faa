package store

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

// Writers, readers, deleters, a sweeper and a resizer use a few keys in a store with little room, so that
// all operations interfere. The bounds are never exceeded, and a reader never gets the entry of another
// key. In the end the invariants hold, and every entry that has left was counted.
func TestConcurrentUseKeepsInvariants(t *testing.T) {
	for policy := range policies {
		t.Run(policy.String(), func(t *testing.T) { useConcurrently(t, policy) })
	}
}

func useConcurrently(t *testing.T, policy Policy) {
	const keys = 64
	config := Config{MaxBytes: 30 * (overhead + 100), MaxEntries: 25, CopyShare: .4, Policy: policy}
	s := New(config)
	ready, take := s.Evictions()

	var generations atomic.Uint64
	var writers, observers sync.WaitGroup
	var done atomic.Bool

	for w := range 4 {
		writers.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(w)))
			for range 5000 {
				key := fmt.Sprint(random.IntN(keys))
				switch random.IntN(8) {
				case 0:
					remove(s, key)
				case 1:
					if e, ok := s.Get(key); ok {
						s.DeleteIf(e)
					}
				case 2:
					switch random.IntN(3) {
					case 0:
						s.Sweep(Removed, func(e *Entry) bool { return e.Generation%64 == 0 })
					case 1:
						s.Expire(expiry.Instant(random.IntN(3000)))
					default:
						s.Resize(config.MaxBytes*int64(1+random.IntN(4))/4, 5+random.IntN(20))
					}
				default:
					size := random.IntN(400)
					if random.IntN(10) == 0 {
						size = int(config.MaxBytes)
					}
					e := testEntry(Item{
						Key:     key,
						Value:   make([]byte, size),
						Expires: expiry.Instant(random.IntN(10_000)),
						Stamp:   expiry.Loaded(expiry.Generation(generations.Add(1))),
						Class:   Class(random.IntN(int(classes))),
					})
					if in := put(s, e); in != nil && in != e && in.Generation <= e.Generation {
						t.Errorf("Set of generation %d lost to %d", e.Generation, in.Generation)
					}
				}
			}
		})
	}
	for r := range 2 {
		observers.Go(func() {
			random := rand.New(rand.NewPCG(2, uint64(r)))
			for !done.Load() {
				key := fmt.Sprint(random.IntN(keys))
				if e, ok := s.Get(key); ok {
					if e.Key() != key {
						t.Errorf("Get(%q) returned the entry of %q", key, e.Key())
					}
					SetDecoded(e, e)
				}
			}
		})
	}
	observers.Go(func() {
		for !done.Load() {
			stats := s.Stats()
			if stats.Bytes() > stats.MaxBytes || stats.Entries() > stats.MaxEntries ||
				stats.Copies.Bytes > stats.MaxBytes/2 || stats.EvictQueueBytes > config.MaxBytes {
				t.Errorf("a bound is exceeded: %+v", stats)
			}
		}
	})
	taken := map[*Entry]bool{}
	takeAll := func() {
		for l, ok := take(); ok; l, ok = take() {
			if taken[l.Entry] {
				t.Errorf("%q left twice", l.Key())
			}
			taken[l.Entry] = true
		}
	}
	observers.Go(func() {
		for !done.Load() {
			select {
			case <-ready:
				takeAll()
			default:
			}
		}
	})
	writers.Wait()
	done.Store(true)
	observers.Wait()
	takeAll()
	checkInvariants(t, s)
	var left uint64
	for r := range reasons {
		require.NotZero(t, s.Stats().Left(r), "%v", r)
		left += s.Stats().Left(r)
	}
	require.EqualValues(t, left, uint64(len(taken))+s.Stats().EvictDropped)
}

// While an entry is replaced over and over in a store with enough room, a reader always finds one, and
// never an older one than before.
func TestGetDuringReplacementNeverMisses(t *testing.T) {
	s := New(Config{MaxBytes: 1 << 20, CopyShare: .5})
	put(s, testEntry(Item{Key: "k"}))
	var readers sync.WaitGroup
	var done atomic.Bool
	for range 2 {
		readers.Go(func() {
			var last expiry.Generation
			for !done.Load() {
				e, ok := s.Get("k")
				if !ok || e.Generation < last {
					t.Errorf("found %v after generation %d", e, last)
					return
				}
				last = e.Generation
			}
		})
	}
	for g := range 20_000 {
		stamp := expiry.Loaded(expiry.Generation(g))
		put(s, testEntry(Item{Key: "k", Stamp: stamp, Class: Class(g/2) % classes}))
	}
	done.Store(true)
	readers.Wait()
	checkInvariants(t, s)
}

// If fills of one key end in any order, the newest one wins.
func TestNewestOfConcurrentFillsWins(t *testing.T) {
	for range 200 {
		s := New(Config{MaxBytes: 1 << 20})
		var fills sync.WaitGroup
		for g := range 8 {
			fills.Go(func() { put(s, testEntry(Item{Key: "k", Stamp: expiry.Loaded(expiry.Generation(g))})) })
		}
		fills.Wait()
		e, ok := s.Peek("k")
		require.True(t, ok)
		require.EqualValues(t, 7, e.Generation)
	}
}
