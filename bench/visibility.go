package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/geocache/geocache"
)

// oneWay is how long a byte is under way between two regions.
const oneWay = 20 * time.Millisecond

// A line carries connections with a delay, each direction apart from the other: much
// can be under way at the same time.
type line struct {
	net.Listener
	target string
}

// newLine returns a line to the target.
func newLine(target string) (*line, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &line{l, target}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil {
				near.Close()
				return
			}
			go delayed(near, far)
			go delayed(far, near)
		}
	}()
	return r, nil
}

// delayed copies what comes from src to dst, oneWay later.
func delayed(src, dst net.Conn) {
	type chunk struct {
		data []byte
		due  time.Time
	}
	chunks := make(chan chunk, 1<<14)
	go func() {
		defer dst.Close()
		for c := range chunks {
			time.Sleep(time.Until(c.due))
			if _, err := dst.Write(c.data); err != nil {
				src.Close()
			}
		}
	}()
	defer close(chunks)
	buffer := make([]byte, 64<<10)
	for {
		n, err := src.Read(buffer)
		if n > 0 {
			chunks <- chunk{slices.Clone(buffer[:n]), time.Now().Add(oneWay)}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				dst.Close()
			}
			return
		}
	}
}

// lines returns a function that dials a node of the other region by way of a line.
func lines() (dial func(ctx context.Context, address string) (net.Conn, error), done func()) {
	var mu sync.Mutex
	open := map[string]*line{}
	return func(ctx context.Context, address string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			l := open[address]
			if l == nil {
				var err error
				if l, err = newLine(address); err != nil {
					return nil, err
				}
				open[address] = l
			}
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		}, func() {
			for _, l := range open {
				l.Close()
			}
		}
}

// twoRegions opens three nodes each in "near" and "far", with lines between them.
func twoRegions(get getter, opts ...geocache.GroupOption) (cluster, func(), error) {
	far, done := lines()
	var regionOf sync.Map // by address
	dial := func(from string) func(context.Context, string) (net.Conn, error) {
		return func(ctx context.Context, address string) (net.Conn, error) {
			if to, _ := regionOf.Load(address); to == from {
				return new(net.Dialer).DialContext(ctx, "tcp", address)
			}
			return far(ctx, address)
		}
	}
	var places []place
	for _, region := range []string{"near", "near", "near", "far", "far", "far"} {
		places = append(places, place{region, dial(region), func(address string) { regionOf.Store(address, region) }})
	}
	c, err := openCluster(places, get, opts...)
	return c, func() { c.close(); done() }, err
}

// A watch is a write whose effect is being looked for.
type watch struct {
	key  string
	at   time.Time // when it was begun
	seen func(key string) bool
}

// pace makes so many writes a second for a while, and returns for a sample of them how
// long it took from their beginning until seen.
func pace(rate int, lasting time.Duration, do func(i int) (key string, err error), seen func(key string) bool) ([]time.Duration, int, error) {
	const watchers = 200 // writes that are watched a second
	every := max(rate/watchers, 1)
	var mu sync.Mutex
	var took []time.Duration
	var failed atomic.Pointer[error]
	watched := make(chan watch, 1<<16)
	var looking, writing sync.WaitGroup
	looking.Go(func() {
		var open []watch
		more := true
		for more || len(open) > 0 {
			for more {
				select {
				case w, ok := <-watched:
					if more = ok; ok {
						open = append(open, w)
					}
					continue
				default:
				}
				break
			}
			now := time.Now()
			open = slices.DeleteFunc(open, func(w watch) bool {
				switch {
				case w.seen(w.key):
				case now.Sub(w.at) > 20*time.Second:
					err := fmt.Errorf("the write of %q was not seen in 20 s", w.key)
					failed.Store(&err)
				default:
					return false
				}
				mu.Lock()
				defer mu.Unlock()
				took = append(took, time.Since(w.at))
				return true
			})
			time.Sleep(100 * time.Microsecond)
		}
	})
	const writers = 64
	begun := time.Now()
	n := int(float64(rate) * lasting.Seconds())
	var next atomic.Int64
	for range writers {
		writing.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				time.Sleep(time.Until(begun.Add(time.Duration(i) * time.Second / time.Duration(rate))))
				at := time.Now()
				key, err := do(i)
				if err != nil {
					failed.Store(&err)
					return
				}
				if i%every == 0 {
					watched <- watch{key, at, seen}
				}
			}
		})
	}
	writing.Wait()
	achieved := int(float64(n) / time.Since(begun).Seconds())
	close(watched)
	looking.Wait()
	if err := failed.Load(); err != nil {
		return nil, 0, *err
	}
	slices.Sort(took)
	return took, achieved, nil
}

func benchVisibility(b *bench) error {
	rates, lasting := []int{100, 1000, 10_000}, 5*time.Second
	if b.quick {
		rates, lasting = rates[:2], 2*time.Second
	}
	value := makeValue(1, 256)
	c, done, err := twoRegions(func(context.Context, string) ([]byte, error) { return value, nil },
		geocache.WithTTL(ttl), geocache.WithCopyShare(1), geocache.WithMaxBytes(512<<20))
	defer done()
	if err != nil {
		return err
	}
	near, far := c.in("near"), c.in("far")
	redis, stop, err := redisReplica()
	if err != nil {
		b.note("A replica of Redis is left out: %v.", err)
	} else {
		defer stop()
	}
	for _, rate := range rates {
		n := int(float64(rate) * lasting.Seconds())
		b.progress("%d writes a second", rate)
		name := func(what string) string { return fmt.Sprintf("%s, %s a second", what, thousands(rate)) }

		// A Set of a key that nobody has: it is there when its owner in the other region has it.
		key := func(what string, i int) string { return fmt.Sprintf("%s-%d-%06d", what, rate, i) }
		set, achieved, err := pace(rate, lasting,
			func(i int) (string, error) { k := key("set", i); return k, near[i%3].Set(ctx, k, value) },
			func(k string) bool {
				return slices.ContainsFunc(far, func(n *clusterNode) bool { _, ok := n.Peek(k); return ok })
			})
		if err != nil {
			return err
		}
		b.slow(name("Set"), achieved, rate)
		var replica []time.Duration
		if redis != nil {
			if replica, _, err = pace(rate, lasting,
				func(i int) (string, error) {
					k := key("set", i)
					return k, redis.primary.Do(ctx, redis.primary.B().Set().Key(k).Value(rueidis.BinaryString(value)).Build()).Error()
				},
				func(k string) bool {
					found, _ := redis.replica.Do(ctx, redis.replica.B().Exists().Key(k).Build()).AsInt64()
					return found == 1
				}); err != nil {
				return err
			}
		}
		b.visible(name("Set"), set, replica)

		// A Remove of a key of which all nodes of the other region have a copy: it has happened when
		// none of them serves it. There is a copy wherever the watched keys were read.
		var keys []string
		for i := range n {
			keys = append(keys, key("remove", i))
		}
		for _, node := range far {
			for some := range slices.Chunk(keys, 1000) {
				if _, err := node.GetMany(ctx, some); err != nil {
					return err
				}
			}
		}
		held := 0
		for _, node := range far {
			for _, k := range keys {
				if _, ok := node.Peek(k); ok {
					held++
				}
			}
		}
		if held < len(keys)*len(far)*99/100 {
			return fmt.Errorf("only %d of %d copies are there to be removed", held, len(keys)*len(far))
		}
		removed, achieved, err := pace(rate, lasting,
			func(i int) (string, error) { return keys[i], near[i%3].Remove(ctx, keys[i]) },
			func(k string) bool {
				return !slices.ContainsFunc(far, func(n *clusterNode) bool { _, ok := n.Peek(k); return ok })
			})
		if err != nil {
			return err
		}
		b.slow(name("Remove"), achieved, rate)
		b.visible(name("Remove"), removed, nil)
	}
	b.note("Visibility: two regions of three nodes in one process, a relay that delays by %v each way. It counts from the call to the moment that "+
		"any node (Set) or every node (Remove) of the other region shows it.", oneWay)
	return nil
}

// slow notes that writes did not come as fast as they were meant to.
func (b *bench) slow(name string, achieved, rate int) {
	if achieved < rate*95/100 {
		b.note("%s: only %d a second were made.", name, achieved)
	}
}

func (b *bench) visible(name string, ours, theirs []time.Duration) {
	for _, q := range []struct {
		name string
		q    float64
	}{{"p50", .5}, {"p99", .99}} {
		r := row{Name: name + ", " + q.name, Unit: "ms", Ours: millis(quantile(ours, q.q)), Floor: millis(oneWay), Limit: "one way"}
		if theirs != nil {
			r.Them, r.Theirs = "Redis replica", millis(quantile(theirs, q.q))
		}
		b.add(r)
	}
}

func thousands(n int) string {
	text := strconv.Itoa(n)
	if len(text) > 3 {
		text = text[:len(text)-3] + "," + text[len(text)-3:]
	}
	return text
}

// A pair is a Redis and its replica at the other end of a line.
type pair struct{ primary, replica rueidis.Client }

func redisReplica() (*pair, func(), error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return nil, nil, err
	}
	address, p, err := startRedis("--repl-diskless-sync-delay", "0")
	if err != nil {
		return nil, nil, err
	}
	l, err := newLine(address)
	if err != nil {
		p.kill()
		return nil, nil, err
	}
	host, port, _ := net.SplitHostPort(l.Addr().String())
	second, q, err := startRedis("--replicaof", host, port)
	if err != nil {
		p.kill()
		return nil, nil, err
	}
	stop := func() { l.Close(); p.kill(); q.kill() }
	primary, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{address}, DisableCache: true})
	if err != nil {
		stop()
		return nil, nil, err
	}
	replica, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{second}, DisableCache: true})
	if err != nil {
		primary.Close()
		stop()
		return nil, nil, err
	}
	done := func() { primary.Close(); replica.Close(); stop() }
	for range 500 {
		info, err := replica.Do(ctx, replica.B().Info().Section("replication").Build()).ToString()
		if err == nil && strings.Contains(info, "master_link_status:up") {
			return &pair{primary, replica}, done, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	done()
	return nil, nil, errors.New("the replica has not found its primary")
}
