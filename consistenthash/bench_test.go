package consistenthash

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

var sizes = []int{10, 100, 1000}

// text is random text that the benchmarks take substrings of as keys. Every offset is a different key, and
// making one costs no cache miss of its own.
var text = func() string {
	text := make([]byte, 1<<20+16)
	for i := range text {
		text[i] = byte(rand.Uint32())
	}
	return string(text)
}()

func key(i int) string {
	i &= 1<<20 - 1
	return text[i : i+16]
}

func BenchmarkOwner(b *testing.B) {
	for _, n := range sizes {
		r := newRing(b, 1, equal(n)...)
		b.Run(fmt.Sprintf("members=%d/serial", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r.Owner(key(i))
			}
		})
		b.Run(fmt.Sprintf("members=%d/parallel", n), func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for i := rand.Int(); pb.Next(); i++ {
					r.Owner(key(i))
				}
			})
		})
	}
}

func BenchmarkOwners(b *testing.B) {
	for _, n := range sizes {
		r := newRing(b, 1, equal(n)...)
		b.Run(fmt.Sprintf("members=%d/n=2", n), func(b *testing.B) {
			b.ReportAllocs()
			dst := make([]string, 0, 2)
			for i := 0; b.Loop(); i++ {
				r.appendOwners(dst, key(i), 2)
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	for _, n := range sizes {
		members := equal(n)
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				newRing(b, 1, members...)
			}
		})
	}
}
