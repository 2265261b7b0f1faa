package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/Yiling-J/theine-go"
	"github.com/dgraph-io/ristretto/v2"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/maypok86/otter/v2"

	"github.com/geocache/geocache"
)

// traceDir holds real traces: one key's number a line, compressed.
func traceDir() string {
	if dir := os.Getenv("GEOCACHE_TRACES"); dir != "" {
		return dir
	}
	return filepath.Join("..", "..", "shared", "traces")
}

// A policy is a cache of which only hits and misses count: access reads a key and, if it is not
// there, puts it in.
type policy func(key string) (hit bool)

// A policyKind makes policies with room for so many entries. What works in the background is
// waited for after each access, so that each is at its best.
type policyKind struct {
	name string
	make func(entries int) (policy, func(), error)
}

var policyKinds = []policyKind{
	{"geocache", ourPolicy},
	{"otter", func(entries int) (policy, func(), error) {
		c, err := otter.New(&otter.Options[string, struct{}]{MaximumSize: entries, Executor: func(f func()) { f() }})
		if err != nil {
			return nil, nil, err
		}
		return func(key string) bool {
			_, ok := c.GetIfPresent(key)
			if !ok {
				c.Set(key, struct{}{})
			}
			return ok
		}, func() {}, nil
	}},
	{"ristretto", func(entries int) (policy, func(), error) {
		c, err := ristretto.NewCache(&ristretto.Config[string, struct{}]{NumCounters: int64(10 * entries), MaxCost: int64(entries), BufferItems: 64, IgnoreInternalCost: true})
		if err != nil {
			return nil, nil, err
		}
		return func(key string) bool {
			_, ok := c.Get(key)
			if !ok {
				c.Set(key, struct{}{}, 1)
				c.Wait()
			}
			return ok
		}, c.Close, nil
	}},
	{"theine", func(entries int) (policy, func(), error) {
		c, err := theine.NewBuilder[string, struct{}](int64(entries)).Build()
		if err != nil {
			return nil, nil, err
		}
		return func(key string) bool {
			_, ok := c.Get(key)
			if !ok {
				c.Set(key, struct{}{}, 1)
				c.Wait()
			}
			return ok
		}, c.Close, nil
	}},
	{"golang-lru", func(entries int) (policy, func(), error) {
		c, err := lru.New[string, struct{}](entries)
		if err != nil {
			return nil, nil, err
		}
		return func(key string) bool {
			_, ok := c.Get(key)
			if !ok {
				c.Add(key, struct{}{})
			}
			return ok
		}, func() {}, nil
	}},
}

// traceKey makes all keys equally long, so that as many entries fit as there are.
func traceKey(id int) string { return fmt.Sprintf("%07d", id) }

// ourPolicy is a whole Group, alone in a Cache.
func ourPolicy(entries int) (policy, func(), error) {
	each, err := bytesOfAnEntry()
	if err != nil {
		return nil, nil, err
	}
	return groupPolicy(int64(entries) * each)
}

func groupPolicy(bytes int64) (policy, func(), error) {
	cache, err := geocache.Open(ctx, geocache.WithLogger(quiet))
	if err != nil {
		return nil, nil, err
	}
	done := func() { _ = cache.Close() }
	missed := false
	g, err := geocache.NewGroup(cache, "trace", geocache.GetterFunc[[]byte](func(context.Context, string) ([]byte, error) {
		missed = true
		return nil, nil
	}), geocache.WithTTL(ttl), geocache.WithMaxBytes(bytes))
	if err != nil {
		done()
		return nil, nil, err
	}
	return func(key string) bool {
		missed = false
		_, _ = g.Get(ctx, key)
		return !missed
	}, done, nil
}

// bytesOfAnEntry returns what an entry is charged: how many bytes are held with one
// in.
func bytesOfAnEntry() (int64, error) {
	cache, err := geocache.Open(ctx, geocache.WithLogger(quiet))
	if err != nil {
		return 0, err
	}
	defer cache.Close()
	g, err := geocache.NewGroup(cache, "one", geocache.GetterFunc[[]byte](func(context.Context, string) ([]byte, error) { return nil, nil }))
	if err != nil {
		return 0, err
	}
	if _, err := g.Get(ctx, traceKey(0)); err != nil {
		return 0, err
	}
	return g.Stats().Bytes, nil
}

func benchTraces(b *bench) error {
	dir := traceDir()
	files, _ := filepath.Glob(filepath.Join(dir, "*.ids.gz"))
	if len(files) == 0 {
		b.note("Hit ratios are left out: there are no traces (GEOCACHE_TRACES names their directory).")
		return nil
	}
	percents := []int{1, 5, 20}
	if b.quick {
		files, percents = files[:1], percents[1:2]
	}
	for _, file := range files {
		keys, distinct, err := readTrace(file)
		if err != nil {
			return err
		}
		name := filepath.Base(file)
		name = name[:len(name)-len(".ids.gz")]
		for _, percent := range percents {
			b.progress("%s, %d%%", name, percent)
			// At the same time: no time is measured here.
			ratios, errs := make([]float64, len(policyKinds)), make([]error, len(policyKinds))
			var all sync.WaitGroup
			for i, k := range policyKinds {
				all.Go(func() {
					access, done, err := k.make(distinct * percent / 100)
					if err != nil {
						errs[i] = fmt.Errorf("%s: %w", k.name, err)
						return
					}
					defer done()
					hits := 0
					for _, key := range keys {
						if access(key) {
							hits++
						}
					}
					ratios[i] = float64(hits) / float64(len(keys))
				})
			}
			all.Wait()
			if err := errors.Join(errs...); err != nil {
				return err
			}
			for i, k := range policyKinds[1:] {
				b.add(row{Name: fmt.Sprintf("%s, room for %d%% of the keys", name, percent), Unit: "hits", Higher: true,
					Ours: ratios[0], Theirs: ratios[i+1], Them: k.name})
			}
		}
	}
	return nil
}

// readTrace returns the requested keys in order, and how many differ.
func readTrace(file string) (keys []string, distinct int, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		return nil, 0, err
	}
	var names []string // by id; ids are numbered from 0 in order of first use
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		id, err := strconv.Atoi(lines.Text())
		if err != nil || id > len(names) {
			return nil, 0, fmt.Errorf("%s: unexpected line %q", file, lines.Text())
		}
		if id == len(names) {
			names = append(names, traceKey(id))
		}
		keys = append(keys, names[id])
	}
	return keys, len(names), lines.Err()
}
