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

// TestTorture has writers, readers, deleters and a sweeper at few keys in a
// store with little room, so that everything meets everything. Meanwhile an
// observer never sees the bound exceeded and a reader never an entry of another
// key; and in the end the books agree.
func TestTorture(t *testing.T) {
	const keys = 64
	config := Config{MaxBytes: 30 * (Overhead + 100), CopyShare: .4}
	s := New(config)

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
					s.Delete(key)
				case 1:
					if e, ok := s.Get(key); ok {
						s.DeleteIf(e)
					}
				case 2:
					s.Sweep(func(e *Entry) bool { return e.Generation%64 == 0 })
				default:
					e := &Entry{
						Key:        key,
						Value:      make([]byte, random.IntN(400)),
						Generation: expiry.Generation(generations.Add(1)),
						Class:      Class(random.IntN(int(classes))),
					}
					if random.IntN(10) == 0 {
						e.Value = make([]byte, config.MaxBytes)
					}
					if in := s.Set(e); in != nil && in != e && in.Generation <= e.Generation {
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
					if e.Key != key {
						t.Errorf("Get(%q) returned the entry of %q", key, e.Key)
					}
					e.SetDecoded(&e.Key)
				}
			}
		})
	}
	observers.Go(func() {
		for !done.Load() {
			stats := s.Stats()
			if stats.Bytes() > config.MaxBytes || stats.Copies.Bytes > s.limits[Copy] {
				t.Errorf("more than the bound: %+v", stats)
			}
		}
	})
	writers.Wait()
	done.Store(true)
	observers.Wait()
	checkInvariants(t, s)
	require.NotZero(t, s.Stats().Owned.Evicted)
}

// TestReplacementIsNeverMissed replaces an entry again and again in a store with
// room: a reader always finds one, and never an older one than before.
func TestReplacementIsNeverMissed(t *testing.T) {
	s := New(Config{MaxBytes: 1 << 20, CopyShare: .5})
	s.Set(&Entry{Key: "k"})
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
		s.Set(&Entry{Key: "k", Generation: expiry.Generation(g), Class: Class(g/2) % classes})
	}
	done.Store(true)
	readers.Wait()
	checkInvariants(t, s)
}

// TestFillsRace lets fills of one key end in any order: the newest stays.
func TestFillsRace(t *testing.T) {
	for range 200 {
		s := New(Config{MaxBytes: 1 << 20})
		var fills sync.WaitGroup
		for g := range 8 {
			fills.Go(func() { s.Set(&Entry{Key: "k", Generation: expiry.Generation(g)}) })
		}
		fills.Wait()
		e, ok := s.Peek("k")
		require.True(t, ok)
		require.EqualValues(t, 7, e.Generation)
	}
}
