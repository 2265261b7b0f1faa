// Package testcluster runs whole clusters in one test: nodes in several regions on a simulated
// network, with a discovery and an origin that fail on command, in the virtual time of a
// testing/synctest bubble. Hours of cluster life take milliseconds.
//
//	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
//		c.Node("eu-1").MustGet("ada")
//		c.Net.Cut("eu", "us")
//		...
//	})
//
// Every read through a [Node] is checked against promise 1: unless it is marked stale, a value
// whose load began longer ago than the TTL fails the test, in true time and whatever the nodes'
// clocks say. The other promises are for tests to check, or for package history.
//
// The nodes are real: each is a [geocache.Cache] with its real transport. Everything below them is
// simulated. A frozen or crashed process keeps its goroutines here, cut off from the network. There
// are no real processes, sockets or Consul: for those, see tcp_test.go and the tests of
// regions/consul and examples.
package testcluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster/logs"
	"github.com/geocache/geocache/internal/testcluster/network"
	"github.com/geocache/geocache/internal/testcluster/network/mangle"
)

// TTL is the TTL of the group that nodes have, unless the Config says otherwise.
const TTL = time.Minute

// Config describes a cluster. The zero value of each field is its default.
type Config struct {
	Regions []string // default: "eu"
	Nodes   int      // in each region; default: 3
	Seed    uint64   // of the network's losses, and of the rings

	// TTL is the group's TTL. Default: the constant TTL.
	TTL time.Duration
	// Offset returns how far a node's wall clock is off when it is first started. Default: not at
	// all.
	Offset func(node string) time.Duration
	// Hidden are regions that do not know of the others, nor the others of them, until the
	// Directory shows them.
	Hidden []string
	// Mangle is what happens to messages between nodes. Default: nothing.
	Mangle mangle.Rates
	// Counters gives each node a second group (see Node), with Home as its home region if that is
	// not empty.
	Counters bool
	Home     string
	// LookAside makes the counters a group without a getter: the origin has none.
	LookAside bool
	// Jitter is the longest that a message is delayed beyond its latency; see
	// network.Network.SetJitter.
	Jitter time.Duration
	// WriteThrough makes the origin get all writes. If PrimaryOrigin is set, the origins of the
	// other regions lag by OriginLag.
	WriteThrough  bool
	PrimaryOrigin string
	OriginLag     time.Duration
	// Cache and Group are further options for all nodes.
	Cache []geocache.Option
	Group []geocache.GroupOption
}

// A Cluster is a running cluster. Its methods are for the test's goroutine, except Now and Add.
type Cluster struct {
	T         *testing.T
	Net       *network.Network
	Origin    *Origin
	Directory *Directory
	Mangler   *mangle.Mangler // nil if Config.Mangle is zero

	config Config
	log    logs.Buffer

	mu    sync.Mutex       // guards the following
	nodes map[string]*Node // by name, including those that were closed or crashed
	next  map[string]int   // by region: the number of the next node
	now   time.Time        // the last result of Now
}

// parallel has the tests that are parallel already: a test may run several clusters.
var parallel sync.Map

// Run builds a cluster in a bubble, calls f, and shuts the cluster down. A goroutine that is left
// afterwards fails the test. Run makes the test a parallel one.
func Run(t *testing.T, config Config, f func(c *Cluster)) {
	t.Helper()
	if _, already := parallel.LoadOrStore(t, true); !already {
		t.Parallel()
	}
	if config.Regions == nil {
		config.Regions = []string{"eu"}
	}
	if config.Nodes == 0 {
		config.Nodes = 3
	}
	if config.TTL == 0 {
		config.TTL = TTL
	}
	synctest.Test(t, func(t *testing.T) {
		c := &Cluster{
			T:         t,
			Net:       network.New(config.Seed),
			Directory: newDirectory(),
			config:    config,
			nodes:     make(map[string]*Node),
			next:      make(map[string]int),
		}
		c.Origin = newOrigin(c.Now)
		c.Origin.Lag(config.PrimaryOrigin, config.OriginLag)
		c.Net.SetJitter(config.Jitter)
		if config.Mangle != (mangle.Rates{}) {
			c.Mangler = mangle.New(config.Seed, config.Mangle)
		}
		for _, hidden := range config.Hidden {
			for _, region := range config.Regions {
				if region != hidden {
					c.Directory.Hide(region, hidden)
					c.Directory.Hide(hidden, region)
				}
			}
		}
		defer c.shutDown()
		// All at once, as in a deploy: each waits in Open for the others.
		var starting sync.WaitGroup
		for range config.Nodes {
			for _, region := range config.Regions {
				n := c.place(region)
				starting.Go(func() { n.start() })
			}
		}
		starting.Wait()
		c.Settle()
		f(c)
	})
}

// shutDown closes all nodes, in whatever state the test left them.
func (c *Cluster) shutDown() {
	if c.T.Failed() {
		c.T.Logf("log of the nodes:\n%s", c.Log())
	}
	c.Origin.Unblock()
	c.Net.HealAll()
	var closing sync.WaitGroup
	for _, n := range c.nodes {
		n.host.Thaw()
		closing.Go(func() { n.Cache.Close() })
	}
	closing.Wait()
}

// Now returns the current time, and no time twice: of two calls the later one gets the later time,
// although virtual time stands still while anybody works. So the times say what happened before
// what.
func (c *Cluster) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if !now.After(c.now) {
		now = c.now.Add(1)
	}
	c.now = now
	return now
}

// place adds a node to a region without starting it.
func (c *Cluster) place(region string) *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next[region]++
	name := fmt.Sprintf("%s-%d", region, c.next[region])
	n := &Node{
		Name:     name,
		Region:   region,
		c:        c,
		host:     c.Net.Host(name, region),
		dialled:  make(map[string][]net.Conn),
		rejected: make(map[string]bool),
	}
	if c.config.Offset != nil {
		n.SetClock(c.config.Offset(name))
	}
	c.nodes[name] = n
	return n
}

// Add starts one more node in a region, with these options on top, and returns once it serves.
func (c *Cluster) Add(region string, opts ...geocache.Option) *Node {
	n := c.place(region)
	n.options = opts
	n.start()
	return n
}

// Node returns a node by its name: "eu-1" is the first in eu.
func (c *Cluster) Node(name string) *Node {
	n := c.nodes[name]
	if n == nil {
		c.T.Fatalf("no node %q", name)
	}
	return n
}

// Nodes returns the running nodes of the named regions, or of all if none is named, sorted by name.
func (c *Cluster) Nodes(in ...string) []*Node {
	var nodes []*Node
	for _, n := range c.nodes {
		if !n.gone && (len(in) == 0 || slices.Contains(in, n.Region)) {
			nodes = append(nodes, n)
		}
	}
	slices.SortFunc(nodes, func(a, b *Node) int { return strings.Compare(a.Name, b.Name) })
	return nodes
}

// Owner returns the node that owns key in a region, as the first running node there sees it.
func (c *Cluster) Owner(region, key string) *Node {
	return c.Node(c.Nodes(region)[0].Group.Locate(key)[0].Owner.ID)
}

// KeyOf returns a key that the named node owns in its region, other than those in not.
func (c *Cluster) KeyOf(node string, not ...string) string {
	for i := range 100_000 {
		key := fmt.Sprintf("key-%d", i)
		if c.Owner(c.Node(node).Region, key).Name == node && !slices.Contains(not, key) {
			return key
		}
	}
	c.T.Fatalf("no key is owned by %s", node)
	return ""
}

// Settle waits until the cluster is at rest: heartbeats have noticed every change, and all nodes
// know of it.
func (c *Cluster) Settle() { time.Sleep(5 * time.Second) }

// Log returns what all nodes have logged.
func (c *Cluster) Log() string { return c.log.String() }

// A Node is one process of the cluster. Its name and region stay; its Cache and Group are new after
// Restart.
type Node struct {
	Name   string
	Region string
	Cache  *geocache.Cache
	Group  *geocache.Group[string]

	// Counters is a group of numbers to Update, if Config.Counters is set. The origin has 0 for
	// each, unless LookAside is set. No counter expires within a test.
	Counters *geocache.Group[int]

	c       *Cluster
	host    *network.Host
	options []geocache.Option
	clock   clock
	gone    bool // closed or crashed

	mu       sync.Mutex            // guards the following
	dialled  map[string][]net.Conn // by address
	rejected map[string]bool       // addresses
}

// start opens the node's Cache and groups.
func (n *Node) start() {
	l, err := n.host.Listen()
	if err != nil {
		n.c.T.Errorf("%s: %v", n.Name, err)
		return
	}
	host := n.host
	dial := func(ctx context.Context, address string) (net.Conn, error) { return n.dial(ctx, host, address) }
	if m := n.c.Mangler; m != nil {
		dial = m.Dialer(dial)
	}
	opts := []geocache.Option{
		geocache.WithRegion(n.Region),
		geocache.WithNodeID(n.Name),
		geocache.WithSeed(n.c.config.Seed),
		geocache.WithListener(l),
		geocache.WithDialer(dial),
		geocache.WithDiscovery(n.c.Directory),
		geocache.WithClock(n.clock.now),
		geocache.WithLogger(slog.New(slog.NewTextHandler(&n.c.log, &slog.HandlerOptions{Level: slog.LevelDebug}))),
	}
	opts = append(append(opts, n.c.config.Cache...), n.options...)
	if n.Cache, err = geocache.Open(context.Background(), opts...); err != nil {
		n.c.T.Errorf("%s: %v", n.Name, err)
		return
	}
	groupOpts := append([]geocache.GroupOption{geocache.WithTTL(n.c.config.TTL)}, n.c.config.Group...)
	if n.c.config.WriteThrough {
		groupOpts = append(groupOpts, n.c.Origin.options()...)
	}
	if n.Group, err = geocache.NewGroup(n.Cache, "test", n.c.Origin.getter(n.Region), groupOpts...); err != nil {
		n.c.T.Errorf("%s: %v", n.Name, err)
	}
	if n.c.config.Counters {
		var zero geocache.Getter[int] = geocache.GetterFunc[int](func(context.Context, string) (int, error) {
			return 0, nil
		})
		if n.c.config.LookAside {
			zero = nil
		}
		n.Counters, err = geocache.NewGroup(n.Cache, "counters", zero,
			geocache.WithTTL(24*time.Hour), geocache.WithHomeRegion(n.c.config.Home))
		if err != nil {
			n.c.T.Errorf("%s: %v", n.Name, err)
		}
	}
}

// Get reads key, with a deadline of 30 s, and checks the age of the value.
func (n *Node) Get(key string) (geocache.Item[string], error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return n.GetContext(ctx, key)
}

// GetContext is Get with the caller's context.
func (n *Node) GetContext(ctx context.Context, key string) (geocache.Item[string], error) {
	item, err := n.Group.GetItem(ctx, key)
	if err != nil {
		return item, err
	}
	v, ok := ParseValue(item.Value)
	if !ok || v.Key != key {
		n.c.T.Errorf("%s: Get(%q) returned another key's value or none: %q", n.Name, key, item.Value)
	}
	if age := time.Since(v.Begun); item.Source != geocache.SourceStale && age > n.c.config.TTL {
		n.c.T.Errorf("%s: Get(%q) returned a value loaded or set %v ago, from %v; the TTL is %v", n.Name, key, age,
			item.Source, n.c.config.TTL)
	}
	return item, nil
}

// MustGet is Get, but fails the test on an error.
func (n *Node) MustGet(key string) geocache.Item[string] {
	n.c.T.Helper()
	item, err := n.Get(key)
	if err != nil {
		n.c.T.Fatalf("%s: %v", n.Name, err)
	}
	return item
}

// Close closes the node's cache, as a service does that is being stopped.
func (n *Node) Close() {
	if err := n.Cache.Close(); err != nil {
		n.c.T.Errorf("%s: %v", n.Name, err)
	}
	n.gone = true
	n.host.Crash()
}

// Crash kills the node's process. The directory lists it for a while longer, as Consul does until a
// check expires.
func (n *Node) Crash() {
	n.host.Crash()
	n.gone = true
	n.c.Directory.crashed(n.Name)
	n.Cache.Close() // it is cut off already, so this only ends its goroutines
}

// Restart starts a node that was closed or has crashed, empty and under the same name. Its clock is
// off by offset. Options, if there are any, replace those that it was added with.
func (n *Node) Restart(offset time.Duration, opts ...geocache.Option) {
	n.host = n.host.Restart()
	n.gone = false
	if len(opts) > 0 {
		n.options = opts
	}
	n.SetClock(offset)
	n.start()
}

// Freeze stops the node as SIGSTOP does, as far as others can see: its goroutines and clock go on.
func (n *Node) Freeze() { n.host.Freeze() }

// Reject breaks the connections that n has made to another node, and refuses new ones, as a
// firewall does that rejects packets. What was sent before arrives, and the other node's
// connections to n stay.
func (n *Node) Reject(other string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	address := n.c.Node(other).host.Addr()
	n.rejected[address] = true
	for _, c := range n.dialled[address] {
		c.Close()
	}
}

// Admit ends a Reject.
func (n *Node) Admit(other string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.rejected, n.c.Node(other).host.Addr())
}

func (n *Node) dial(ctx context.Context, host *network.Host, address string) (net.Conn, error) {
	n.mu.Lock()
	rejected := n.rejected[address]
	n.mu.Unlock()
	if rejected {
		return nil, syscall.ECONNREFUSED
	}
	c, err := host.Dial(ctx, address)
	if err == nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.dialled[address] = append(n.dialled[address], c)
	}
	return c, err
}

// Thaw ends a Freeze.
func (n *Node) Thaw() { n.host.Thaw() }
