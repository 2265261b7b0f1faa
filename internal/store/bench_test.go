package store

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// zipfKeys returns many requests for 100,000 keys, popular as on the web.
func zipfKeys() []string {
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.01, 1, 99_999)
	names := make([]string, 100_000)
	for i := range names {
		names[i] = fmt.Sprintf("user:%06d", i)
	}
	keys := make([]string, 1<<18)
	for i := range keys {
		keys[i] = names[zipf.Uint64()]
	}
	return keys
}

// BenchmarkGet reads a store that holds every key: the cost of a hit.
func BenchmarkGet(b *testing.B) {
	keys := zipfKeys()
	s := New(Config{MaxBytes: 1 << 30})
	for _, key := range keys {
		s.Set(newItem(Item{Key: key}))
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(len(keys)); pb.Next(); i++ {
			if _, ok := s.Get(keys[i%len(keys)]); !ok {
				b.Error("miss")
			}
		}
	})
}

// BenchmarkSet writes to a store that is full: the cost of a fill and the
// victim it needs.
func BenchmarkSet(b *testing.B) {
	keys := zipfKeys()
	s := New(Config{MaxBytes: 10_000 * (11 + Overhead)})
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(len(keys)); pb.Next(); i++ {
			s.Set(newItem(Item{Key: keys[i%len(keys)]}))
		}
	})
}

// BenchmarkGetOrSet is a cache at work: hits, and fills where it misses.
func BenchmarkGetOrSet(b *testing.B) {
	keys := zipfKeys()
	s := New(Config{MaxBytes: 10_000 * (11 + Overhead)})
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(len(keys)); pb.Next(); i++ {
			key := keys[i%len(keys)]
			if _, ok := s.Get(key); !ok {
				s.Set(newItem(Item{Key: key}))
			}
		}
	})
}
