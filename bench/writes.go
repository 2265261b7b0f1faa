package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/geocache/geocache"
)

const writeKeys = 4096

// A write is something that changes a key, by way of one of a cluster's nodes.
type write func(node int, key string) error

// writeAll writes ops keys by so many callers, spread over the nodes.
func writeAll(keys []string, nodes, ops, callers int, do write) (sample, error) {
	each := ops / callers
	took, errs := make([]time.Duration, each*callers), make([]error, callers)
	begun := time.Now()
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				sent := time.Now()
				if err := do(c%nodes, keys[(c+i*callers)%len(keys)]); err != nil {
					errs[c] = err
					return
				}
				took[c*each+i] = time.Since(sent)
			}
		})
	}
	wg.Wait()
	all := time.Since(begun)
	slices.Sort(took)
	return sample{
		quantities: map[string]float64{
			"rate": float64(each*callers) / all.Seconds(),
			"p50":  micros(quantile(took, .5)),
			"p99":  micros(quantile(took, .99)),
		},
		did: work{writes: int64(each * callers)},
	}, errors.Join(errs...)
}

func benchWrites(b *bench) error {
	fanouts := []int{3, 9, 27}
	if b.quick {
		fanouts = fanouts[:1]
	}
	for _, n := range fanouts {
		if err := benchWritesTo(b, n); err != nil {
			return err
		}
	}
	b.note("Writes: all nodes are in one process and talk over loopback TCP, ours and groupcache-go's. One write reaches them all before it returns; " +
		"Redis is one server and tells nobody.")
	return nil
}

func benchWritesTo(b *bench, n int) error {
	absent := func(context.Context, string) ([]byte, error) { return nil, geocache.ErrNotFound }
	c, err := openCluster(here(n), absent, geocache.WithTTL(ttl))
	defer c.close()
	if err != nil {
		return err
	}
	them, groups, err := openTheirs(n, absent)
	defer them.close()
	if err != nil {
		return err
	}
	value := makeValue(1, 1<<10)
	set := []writer{
		{"geocache", func(node int, key string) error { return c[node].Set(ctx, key, value) }},
		{"groupcache-go", func(node int, key string) error {
			return groups[node].Set(ctx, key, value, time.Now().Add(ttl), false)
		}},
	}
	remove := []writer{
		{"geocache", func(node int, key string) error { return c[node].Remove(ctx, key) }},
		{"groupcache-go", func(node int, key string) error { return groups[node].Remove(ctx, key) }},
	}
	client, stop, err := redisAlone()
	switch {
	case err == nil:
		defer stop()
		set = append(set, writer{"Redis", func(_ int, key string) error {
			return client.Do(ctx, client.B().Set().Key(key).Value(rueidis.BinaryString(value)).Build()).Error()
		}})
		remove = append(remove, writer{"Redis", func(_ int, key string) error {
			return client.Do(ctx, client.B().Del().Key(key).Build()).Error()
		}})
	default:
		b.note("Redis is left out: %v.", err)
	}
	keys := makeKeys(writeKeys)
	for _, w := range []struct {
		name string
		by   []writer
	}{{"Set", set}, {"Remove", remove}} {
		for _, callers := range []int{1, 128} {
			ops := pick(callers, 1000, 6400) / (1 + n/9)
			name := fmt.Sprintf("%s to %d nodes, %d callers", w.name, n, callers)
			if callers == 1 {
				name = fmt.Sprintf("%s to %d nodes, 1 caller", w.name, n)
			}
			var sides []side
			for _, s := range w.by {
				sides = append(sides, side{name: s.name, run: func() (sample, error) { return writeAll(keys, n, ops, callers, s.do) }})
			}
			err := b.compare(name, []quantity{{"rate", "a second", true}, {"p50", "µs", false}, {"p99", "µs", false}}, sides...)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// A writer is one of those whose writes are compared.
type writer struct {
	name string
	do   write
}

// redisAlone starts a Redis and a client.
func redisAlone() (rueidis.Client, func(), error) {
	address, p, err := startRedis()
	if err != nil {
		return nil, nil, err
	}
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{address}, DisableCache: true})
	if err != nil {
		p.kill()
		return nil, nil, err
	}
	return client, func() { client.Close(); p.kill() }, nil
}
