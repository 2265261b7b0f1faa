package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/regions"
)

// This file is a process of the fleet.

const (
	// nodeEnv makes this program a process of the fleet.
	nodeEnv = "GEOCACHE_FLEET_NODE"

	// originFD is the descriptor that a process finds the origin at.
	originFD = 3

	// callers is how many keys are read or written at once where that is not a steady load.
	callers = 128

	// ttl is longer than anybody runs this: nothing is to expire.
	ttl = 6 * time.Hour

	// watchEvery is how often a process looks whether it serves copies. sayEvery is how often it says so if
	// nothing changes, and probeEvery how often it reads a key again of which it serves no copy.
	watchEvery = 20 * time.Millisecond
	sayEvery   = 250 * time.Millisecond
	probeEvery = 50 * time.Millisecond
)

// isNode does what a process of the fleet has to do, and reports whether this is one.
func isNode() bool {
	if os.Getenv(nodeEnv) == "" {
		return false
	}
	signal.Ignore(os.Interrupt) // which reaches children, too: the parent decides
	if err := runNode(os.Stdin, os.Stdout, origin{os.NewFile(originFD, "origin")}); err != nil {
		fmt.Fprintln(os.Stderr, "fleet: a process:", err)
		os.Exit(1)
	}
	return true
}

// A node is this process.
type node struct {
	config nodeConfig
	cache  *geocache.Cache
	group  *geocache.Group[[]byte]
	loads  atomic.Int64
	client client
	load   *load
	sample []int // the keys that it holds copies of

	probe   int         // a key that nobody writes, see servesCopies
	probing atomic.Bool // whether it is being read

	mu  sync.Mutex
	out *json.Encoder // guarded by mu
}

// runNode opens a cache and carries out what the parent orders, until that is to close. If the
// parent ends, so does this process, whatever it is doing.
func runNode(in io.Reader, out io.Writer, from origin) error {
	lines := json.NewDecoder(bufio.NewReader(in))
	n := &node{out: json.NewEncoder(out)}
	if err := lines.Decode(&n.config); err != nil {
		return err
	}
	orders := make(chan order)
	go func() {
		for {
			var o order
			if lines.Decode(&o) != nil {
				os.Exit(1)
			}
			orders <- o
		}
	}()
	if err := n.open(from); err != nil {
		return err
	}
	n.probe = n.config.Keys // the first that is not one of the keys
	go n.watch()
	for o := range orders {
		r := report{Held: n.do(o)}
		var err error
		if o.Do == errandClose {
			err = n.cache.Close()
		}
		n.fillIn(&r)
		n.say(line{Report: &r})
		if o.Do == errandClose {
			return err
		}
	}
	return nil
}

func (n *node) open(from origin) (err error) {
	log := slog.New(slog.DiscardHandler)
	if n.config.Verbose {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	self := n.config.Nodes[n.config.Slot]
	n.cache, err = geocache.Open(context.Background(),
		geocache.WithRegion(self.Region),
		geocache.WithNodeID(self.ID),
		geocache.WithListen(self.Address),
		geocache.WithDiscovery(regions.Static(n.config.Nodes...)),
		geocache.WithLease(n.config.Lease),
		geocache.WithLogger(log),
	)
	if err != nil {
		return err
	}
	load := func(_ context.Context, name string) ([]byte, error) {
		key, err := keyOf(name)
		if key < n.config.Keys { // not a probe
			n.loads.Add(1)
		}
		return valueOf(from.written(key)), err
	}
	if n.group, err = geocache.NewGroupFunc(n.cache, "fleet", load, geocache.WithTTL(ttl)); err != nil {
		return err
	}
	get := func(ctx context.Context, key string) ([]byte, error) { return n.group.Get(ctx, key) }
	set := func(ctx context.Context, key string, value []byte) error { return n.group.Set(ctx, key, value) }
	n.client = client{id: self.ID, origin: from, get: get, put: set}
	return nil
}

// watch tells the parent of the state.
func (n *node) watch() {
	var said state
	for ; ; time.Sleep(watchEvery) {
		now, serves := time.Now(), n.servesCopies()
		if serves != said.Serves || now.Sub(said.At) >= sayEvery {
			said = state{At: now, Serves: serves, Nodes: n.cache.Stats().Regions[0].Nodes}
			n.say(line{State: &said})
		}
	}
}

// servesCopies reports whether this process would now answer a read of another's key from memory. If not, it
// reads the key, in case it would from then on.
func (n *node) servesCopies() bool {
	for n.owns(n.probe) {
		n.probe++
	}
	if n.group.Contains(keyName(n.probe)) {
		return true
	}
	if probe := n.probe; n.probing.CompareAndSwap(false, true) {
		go func() {
			_, _ = n.group.Get(context.Background(), keyName(probe))
			time.Sleep(probeEvery)
			n.probing.Store(false)
		}()
	}
	return false
}

func (n *node) owns(key int) bool {
	return n.group.Locate(keyName(key))[0].Owner.ID == n.cache.Node().ID
}

// say tells the parent. An error is left to who reads the orders: the pipes end together.
func (n *node) say(l line) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_ = n.out.Encode(l)
}

// do carries out an order, and returns how many keys it has found in memory.
func (n *node) do(o order) (held int) {
	switch o.Do {
	case errandFill:
		each(n.keys(func(int) bool { return true }), callers, n.client.write)
	case errandHold:
		n.sample = n.pick()
		each(n.sample, callers, n.client.read)
		return n.count()
	case errandCount:
		return n.count()
	case errandHot:
		each(n.keys(n.isMineAndHot), callers, n.client.read)
	case errandCold:
		each(n.keys(func(key int) bool { return n.isMine(key) && !n.isHot(key) }), callers, n.client.read)
	case errandLoad:
		n.load.end()
		n.load = n.client.startLoad(o.Reads, o.Writes, n.keys(n.isHot), n.keys(n.isMineAndHot))
	case errandClose:
		n.load.end()
	}
	return 0
}

func (n *node) isHot(key int) bool { return key%2 == 1 && key/2 < n.config.Hot }

// isMine divides the keys among the slots, whoever owns them. No two processes that run have the same slot.
func (n *node) isMine(key int) bool { return key/2%len(n.config.Nodes) == n.config.Slot }

func (n *node) isMineAndHot(key int) bool { return n.isMine(key) && n.isHot(key) }

// keys returns some of all keys.
func (n *node) keys(are func(key int) bool) (keys []int) {
	for key := range n.config.Keys {
		if are(key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// pick returns keys of even numbers that other nodes own. Each process picks others.
func (n *node) pick() (keys []int) {
	r := rand.New(rand.NewPCG(uint64(n.config.Slot), 0))
	for _, i := range r.Perm((n.config.Keys + 1) / 2) {
		if len(keys) == n.config.Copies {
			break
		}
		if key := 2 * i; !n.owns(key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// count returns how many of the sample are in memory, and may be served.
func (n *node) count() (held int) {
	for _, key := range n.sample {
		if n.group.Contains(keyName(key)) {
			held++
		}
	}
	return held
}

func (n *node) fillIn(r *report) {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	r.CPU = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	r.Traffic = make(map[string]geocache.Traffic)
	for _, p := range n.cache.Stats().Peers {
		r.Traffic[p.ID] = p.Traffic
	}
	r.Loads = int(n.loads.Load())
	r.Tally = n.client.take()
}
