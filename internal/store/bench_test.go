package store

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// zipfKeys returns many requests for 100,000 keys, whose popularity is Zipfian, as on the web.
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
		put(s, testEntry(Item{Key: key}))
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

// BenchmarkSet writes to a full store: the cost of a fill and of the victim that it needs.
func BenchmarkSet(b *testing.B) {
	keys := zipfKeys()
	s := New(Config{MaxBytes: 10_000 * (11 + overhead)})
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(len(keys)); pb.Next(); i++ {
			put(s, testEntry(Item{Key: keys[i%len(keys)]}))
		}
	})
}

// BenchmarkGetOrSet is a cache in use: hits, and a fill after each miss.
func BenchmarkGetOrSet(b *testing.B) {
	keys := zipfKeys()
	s := New(Config{MaxBytes: 10_000 * (11 + overhead)})
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(len(keys)); pb.Next(); i++ {
			key := keys[i%len(keys)]
			if _, ok := s.Get(key); !ok {
				put(s, testEntry(Item{Key: key}))
			}
		}
	})
}
