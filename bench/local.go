package main

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"
)

const (
	localKeys  = 1 << 16
	localValue = 128 // bytes

	ttl = time.Hour
)

// A local is a cache in this process that has a value for each key.
type local interface {
	// get returns how many bytes the value of key i has.
	get(i uint32, key string) (bytes int, ok bool)
	// set makes key i have its value, again.
	set(i uint32, key string)
}

// mix is which keys are read and written, in order.
type mix struct {
	keys  []string
	draws []uint32 // index of a key, and above drawBits a number below 100
}

const drawBits = 16

func newMix(keys []string, n int) *mix {
	m := &mix{keys, zipf(n, len(keys))}
	r := rand.New(rand.NewPCG(3, 4))
	for i := range m.draws {
		m.draws[i] |= uint32(r.IntN(100)) << drawBits
	}
	return m
}

// run makes n operations by so many goroutines, writes being that many in a hundred.
func (m *mix) run(c local, n, goroutines, writes int) (sample, error) {
	each := n / goroutines
	did := make([]work, goroutines)
	before := mallocs()
	begun := time.Now()
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			var w work
			at := g * (len(m.draws) / goroutines)
			for range each {
				draw := m.draws[at]
				if at++; at == len(m.draws) {
					at = 0
				}
				i := draw & (1<<drawBits - 1)
				if int(draw>>drawBits) < writes {
					c.set(i, m.keys[i])
					w.writes++
					continue
				}
				bytes, ok := c.get(i, m.keys[i])
				w.reads++
				w.bytes += int64(bytes)
				if ok {
					w.hits++
				}
			}
			did[g] = w
		})
	}
	wg.Wait()
	took := time.Since(begun)
	s := sample{quantities: map[string]float64{
		"time":        float64(took.Nanoseconds()) / float64(each*goroutines),
		"allocations": float64(int64(mallocs()-before)*100/int64(each*goroutines)) / 100, // background work is far below one in 100
	}}
	for _, w := range did {
		s.did.reads += w.reads
		s.did.writes += w.writes
		s.did.hits += w.hits
		s.did.bytes += w.bytes
	}
	if s.did.hits != s.did.reads {
		return s, fmt.Errorf("%d of %d reads found nothing", s.did.reads-s.did.hits, s.did.reads)
	}
	return s, nil
}

func benchLocal(b *bench) error {
	m := newMix(makeKeys(localKeys), 1<<20)
	ops, kinds := 1<<19, []string{"bytes", "struct"}
	if b.quick {
		ops, kinds = 1<<18, kinds[:1]
	}
	for _, kind := range kinds {
		caches, perCore := localKinds(bytesOf), []int{1, 2, 8}
		if kind == "struct" {
			caches = localKinds(userOf)
		}
		if b.quick || kind == "struct" {
			perCore = perCore[:1]
		}
		var opened []local
		for _, k := range caches {
			c, err := k.open(m.keys)
			if err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
			opened = append(opened, c)
		}
		for _, per := range perCore {
			for _, w := range []int{0, 10, 50} {
				n := ops
				if w > 0 {
					n /= 4 // writes take longer
				}
				var sides []side
				for i, k := range caches {
					if w > 0 && k.readOnly {
						continue
					}
					sides = append(sides, side{k.name, k.floor, func() (sample, error) {
						return m.run(opened[i], n, per*runtime.GOMAXPROCS(0), w)
					}})
				}
				quantities := []quantity{{"time", "ns", false}}
				if per == 1 {
					quantities = append(quantities, quantity{"allocations", "a read", false})
					if w > 0 {
						quantities[1].unit = "an operation"
					}
				}
				if err := b.compare(fmt.Sprintf("%s, %d a core, %d%% writes", kind, per, w), quantities, sides...); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
