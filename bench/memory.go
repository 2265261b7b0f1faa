package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/dgraph-io/ristretto/v2"
	"github.com/golang/groupcache"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/maypok86/otter/v2"

	"github.com/geocache/geocache"
)

// A hoard is what a memory child is to do: fill a cache of some kind, each in a process
// of its own.
type hoard struct {
	Kind     string
	Entries  int
	KeyBytes int
	Value    int           // bytes
	MaxBytes int64         // if not 0: churn below this bound instead of filling
	ChurnTo  int64         // bytes put in altogether
	Limit    int64         // GOMEMLIMIT, if not 0
	Reading  time.Duration // for how long it is read from, when full
}

// A heap is what it has found.
type heap struct {
	BytesEach float64 // above key and value
	RSS       int64
	GCPause   float64 // ms, the longest
	GCTime    float64 // ms, of one full collection
	GCShare   float64 // of the processor, while reading
	Held      int     // entries
}

func memoryChild(parameters []byte, in *bufio.Reader) error {
	var h hoard
	if err := json.Unmarshal(parameters, &h); err != nil {
		return err
	}
	run := fillMemory
	if h.MaxBytes > 0 {
		run = churnMemory
	}
	found, err := run(&h)
	if err != nil {
		return err
	}
	line, err := json.Marshal(found)
	if err != nil {
		return err
	}
	fmt.Println(string(line))
	_, err = io.Copy(io.Discard, in)
	return err
}

// A keeper keeps entries. get and set copy neither key nor value.
type keeper struct {
	set  func(key string, value []byte)
	get  func(key string) bool
	held func() int
}

// keepers makes keepers with room for so many entries, or bytes.
var keepers = map[string]func(entries int, bytes int64) (*keeper, error){
	"geocache": func(_ int, bytes int64) (*keeper, error) {
		cache, err := geocache.Open(ctx, geocache.WithLogger(quiet))
		if err != nil {
			return nil, err
		}
		// It is filled as groups are: by reads that miss. What a getter would take is the same
		// for all, so here it hands over what is there.
		var value []byte
		g, err := geocache.NewGroup(cache, "bench", geocache.GetterFunc[[]byte](func(context.Context, string) ([]byte, error) {
			if value == nil {
				return nil, geocache.ErrNotFound
			}
			return value, nil
		}), geocache.WithTTL(ttl), geocache.WithMaxBytes(bytes))
		if err != nil {
			return nil, err
		}
		return &keeper{
			set:  func(key string, v []byte) { value = v; _, _ = g.Get(ctx, key); value = nil },
			get:  func(key string) bool { _, ok := g.Peek(key); return ok },
			held: func() int { return g.Stats().Entries },
		}, nil
	},
	"groupcache": func(_ int, bytes int64) (*keeper, error) {
		var value []byte
		g := groupcache.NewGroup("bench", bytes, groupcache.GetterFunc(func(_ context.Context, _ string, dest groupcache.Sink) error {
			if value == nil {
				return geocache.ErrNotFound
			}
			return dest.SetBytes(value)
		}))
		return &keeper{
			set: func(key string, v []byte) {
				value = v
				var view groupcache.ByteView
				_ = g.Get(ctx, key, groupcache.ByteViewSink(&view))
				value = nil
			},
			get: func(key string) bool {
				var view groupcache.ByteView
				return g.Get(ctx, key, groupcache.ByteViewSink(&view)) == nil
			},
			held: func() int {
				return int(g.CacheStats(groupcache.MainCache).Items + g.CacheStats(groupcache.HotCache).Items)
			},
		}, nil
	},
	"otter": func(entries int, bytes int64) (*keeper, error) {
		o := &otter.Options[string, []byte]{MaximumSize: entries, ExpiryCalculator: otter.ExpiryWriting[string, []byte](ttl)}
		if entries == 0 {
			o.MaximumWeight, o.Weigher = uint64(bytes), func(key string, v []byte) uint32 { return uint32(len(key) + len(v)) }
		}
		c, err := otter.New(o)
		if err != nil {
			return nil, err
		}
		return &keeper{
			set:  func(key string, v []byte) { c.Set(key, v) },
			get:  func(key string) bool { _, ok := c.GetIfPresent(key); return ok },
			held: func() int { c.CleanUp(); return c.EstimatedSize() },
		}, nil
	},
	"ristretto": func(entries int, bytes int64) (*keeper, error) {
		cost := func([]byte) int64 { return 1 }
		most := int64(entries)
		if entries == 0 {
			most, cost = bytes, func(v []byte) int64 { return int64(len(v)) }
		}
		c, err := ristretto.NewCache(&ristretto.Config[string, []byte]{NumCounters: int64(max(10*entries, 1_000_000)), MaxCost: most, BufferItems: 64, IgnoreInternalCost: true})
		if err != nil {
			return nil, err
		}
		held := 0
		return &keeper{
			set:  func(key string, v []byte) { c.SetWithTTL(key, v, cost(v), ttl); c.Wait(); held++ },
			get:  func(key string) bool { _, ok := c.Get(key); return ok },
			held: func() int { return held },
		}, nil
	},
	"golang-lru": func(entries int, _ int64) (*keeper, error) {
		c := expirable.NewLRU[string, []byte](entries, nil, ttl)
		return &keeper{
			set:  func(key string, v []byte) { c.Add(key, v) },
			get:  func(key string) bool { _, ok := c.Get(key); return ok },
			held: c.Len,
		}, nil
	},
	"bare map": func(entries int, _ int64) (*keeper, error) {
		m := make(map[string][]byte, entries)
		return &keeper{
			set:  func(key string, v []byte) { m[key] = v },
			get:  func(key string) bool { _, ok := m[key]; return ok },
			held: func() int { return len(m) },
		}, nil
	},
}

// fillMemory fills a cache and looks at the heap.
func fillMemory(h *hoard) (*heap, error) {
	open, ok := keepers[h.Kind]
	if !ok {
		return nil, fmt.Errorf("there is no keeper %q", h.Kind)
	}
	before := live()
	k, err := open(h.Entries, 1<<40)
	if err != nil {
		return nil, err
	}
	for i := range h.Entries {
		k.set(fmt.Sprintf("%0*d", h.KeyBytes, i), make([]byte, h.Value))
	}
	runtime.GC()
	found := &heap{Held: k.held(), BytesEach: float64(live()-before)/float64(h.Entries) - float64(h.KeyBytes+h.Value), RSS: rss()}
	if found.Held < h.Entries*99/100 {
		return nil, fmt.Errorf("%s has kept %d of %d entries", h.Kind, found.Held, h.Entries)
	}
	begun := time.Now()
	runtime.GC()
	found.GCTime = millis(time.Since(begun))

	// Reads that make garbage, so that there is something to collect: what does it cost to
	// have so much that lives?
	gcCPU, totalCPU := cpuSeconds()
	pauses := pauseHistogram()
	r, recent := rand.New(rand.NewPCG(1, 1)), make([][]byte, 64)
	for end := time.Now().Add(h.Reading); time.Now().Before(end); {
		for range 1000 {
			key := fmt.Sprintf("%0*d", h.KeyBytes, r.IntN(h.Entries))
			if !k.get(key) && h.Kind != "ristretto" {
				return nil, fmt.Errorf("%s has lost %q", h.Kind, key)
			}
			recent[r.IntN(len(recent))] = make([]byte, 1<<10)
		}
	}
	runtime.GC() // at least one, whatever the heap's size
	gcAfter, totalAfter := cpuSeconds()
	if totalAfter > totalCPU {
		found.GCShare = (gcAfter - gcCPU) / (totalAfter - totalCPU)
	}
	found.GCPause = longestPause(pauses)
	runtime.KeepAlive(k)
	return found, nil
}

// churnMemory puts much more into a cache than it may keep, of sizes from 64 B to 4 KiB.
func churnMemory(h *hoard) (*heap, error) {
	open, ok := keepers[h.Kind]
	if !ok {
		return nil, fmt.Errorf("there is no keeper %q", h.Kind)
	}
	k, err := open(0, h.MaxBytes)
	if err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(1, 1))
	if h.Limit > 0 {
		debug.SetMemoryLimit(h.Limit)
	}
	gc, total := cpuSeconds()
	var in, most int64
	for i := 0; in < h.ChurnTo; i++ {
		size := 64 << r.IntN(7)
		k.set(fmt.Sprintf("%0*d", h.KeyBytes, i), make([]byte, size))
		in += int64(size + h.KeyBytes)
		if i%10_000 == 0 {
			most = max(most, rss())
		}
	}
	runtime.GC() // the figures of the CPU are as of the last one
	gcAfter, totalAfter := cpuSeconds()
	return &heap{RSS: max(most, rss()), Held: k.held(), GCShare: (gcAfter - gc) / (totalAfter - total)}, nil
}

// live returns the bytes that are reachable.
func live() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func cpuSeconds() (gc, total float64) {
	s := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/total:cpu-seconds"}, {Name: "/cpu/classes/idle:cpu-seconds"}}
	metrics.Read(s)
	return s[0].Value.Float64(), s[1].Value.Float64() - s[2].Value.Float64()
}

func pauseHistogram() *metrics.Float64Histogram {
	s := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(s)
	return s[0].Value.Float64Histogram()
}

// longestPause returns the longest pause since before, in ms.
func longestPause(before *metrics.Float64Histogram) float64 {
	now := pauseHistogram()
	for i := len(now.Counts) - 1; i >= 0; i-- {
		if now.Counts[i] > before.Counts[i] {
			return now.Buckets[i] * 1000 // the lower end: the upper may be infinite
		}
	}
	return 0
}

// hoardIn runs a memory child.
func hoardIn(h hoard) (*heap, error) {
	p, err := start("memory", h)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	line, err := p.line()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Kind, err)
	}
	found := new(heap)
	return found, json.Unmarshal([]byte(line), found)
}

func benchMemory(b *bench) error {
	debug.FreeOSMemory()
	entries, many := 1_000_000, 10_000_000
	if b.quick {
		entries, many = 200_000, 0
	}
	kinds := []string{"geocache", "groupcache", "otter", "ristretto", "golang-lru", "bare map"}
	if err := b.hoards(thousands(entries/1000)+" thousand entries of 16 B + 256 B", hoard{Entries: entries, KeyBytes: 16, Value: 256, Reading: 2 * time.Second}, kinds, true); err != nil {
		return err
	}
	if many > 0 {
		if err := b.hoards("10 million entries of 16 B + 64 B", hoard{Entries: many, KeyBytes: 16, Value: 64, Reading: 2 * time.Second}, []string{"geocache", "otter", "bare map"}, false); err != nil {
			return err
		}
	}
	bound := int64(256 << 20)
	if b.quick {
		bound = 64 << 20
	}
	for _, limit := range []int64{0, bound*5/4 + 20<<20} {
		if err := b.churn(bound, limit); err != nil {
			return err
		}
	}
	return nil
}

// churn adds the rows of putting much more into caches than they may keep.
func (b *bench) churn(bound, limit int64) error {
	name := fmt.Sprintf("churn, bound %d MiB", bound>>20)
	if limit > 0 {
		name += ", GOMEMLIMIT 1.25 × that + 20 MiB"
	}
	var ours *heap
	for _, kind := range []string{"geocache", "groupcache", "otter", "ristretto"} {
		b.progress("%s, %s", name, kind)
		found, err := hoardIn(hoard{Kind: kind, KeyBytes: 16, MaxBytes: bound, ChurnTo: 4 * bound, Limit: limit})
		if err != nil {
			return err
		}
		if kind == "geocache" {
			ours = found
			continue
		}
		b.add(row{Name: name + ", RSS", Unit: "MB", Ours: mega(ours.RSS), Theirs: mega(found.RSS), Them: kind, Floor: mega(bound), Limit: "the bound"})
		b.add(row{Name: name + ", GC's share of CPU", Ours: ours.GCShare, Theirs: found.GCShare, Them: kind})
	}
	if limit > 0 {
		b.add(row{Name: "RSS after churn above 1.3 × the bound", Unit: "MB", Ours: mega(ours.RSS - bound*13/10)})
	}
	return nil
}

// hoards adds the rows of filling each kind of cache.
func (b *bench) hoards(name string, h hoard, kinds []string, bytes bool) error {
	all := map[string]*heap{}
	for _, kind := range kinds {
		b.progress("%s, %s", name, kind)
		h.Kind = kind
		found, err := hoardIn(h)
		if err != nil {
			return err
		}
		all[kind] = found
	}
	bare := all["bare map"]
	for _, kind := range kinds[1 : len(kinds)-1] {
		add := func(what, unit string, of func(*heap) float64) {
			b.add(row{Name: name + ", " + what, Unit: unit, Ours: of(all["geocache"]), Theirs: of(all[kind]), Them: kind, Floor: of(bare), Limit: "a bare map"})
		}
		if bytes {
			add("overhead", "B each", func(h *heap) float64 { return h.BytesEach })
		}
		add("full GC", "ms", func(h *heap) float64 { return h.GCTime })
		add("longest GC pause", "ms", func(h *heap) float64 { return h.GCPause })
		add("GC's share of CPU", "", func(h *heap) float64 { return h.GCShare })
	}
	return nil
}

func mega(bytes int64) float64 { return float64(bytes) / 1e6 }
