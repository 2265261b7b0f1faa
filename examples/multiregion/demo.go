package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/geocache/geocache/internal/testcluster/consul"
	"github.com/geocache/geocache/internal/testcluster/loopback"
	"github.com/geocache/geocache/regions"
)

var regionNames = []string{"eu", "us", "ap"}

const (
	nodesPerRegion = 3
	originRegion   = "us"
	originQuery    = 10 * time.Millisecond
	accounts       = 600 // rows that are written
)

// A pair is two regions, in the order of their names.
type pair [2]string

func pairOf(a, b string) pair { return pair{min(a, b), max(a, b)} }

// A demo is the cluster, and what is known about it from outside.
type demo struct {
	options options
	dir     string // everything on disk
	logs    string
	screen  *screen
	ledger  *ledger
	scene   atomic.Int64 // the scene that is on

	links  map[pair]*link
	relays []*relay

	origin       *process
	originConfig originConfig
	nodes        []*node
	agents       *consul.Cluster // nil without Consul

	died chan error // of a process that nobody told to end

	trap      atomic.Pointer[trap]
	kills     atomic.Int64
	converged time.Duration // see figures

	jobs struct {
		sync.Mutex
		last int
		done map[int]chan *jobDone
	}
}

// A node is a process of the service.
type node struct {
	config  nodeConfig
	process atomic.Pointer[process] // of before its restart, until there is another
	ready   chan struct{}           // closed when it is ready to read

	// told is how many writes of each row it has told of since it was ordered to write. It is
	// for whoever reads its process's messages, and for others when nobody does.
	told map[int]int
}

// run runs the demo. The error is about what kept it from running to its end or,
// if it did, about the promises broken.
func run(ctx context.Context, args []string, stdout *os.File) (err error) {
	options, err := parseFlags(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d := &demo{options: options, screen: newScreen(stdout), links: make(map[pair]*link), died: make(chan error, 1)}
	if d.dir, err = os.MkdirTemp("", "multiregion"); err != nil {
		return err
	}
	defer os.RemoveAll(d.dir)
	d.logs = d.dir
	if options.logs != "" {
		d.logs = options.logs
		if err := os.MkdirAll(d.logs, 0o755); err != nil {
			return err
		}
		old, _ := filepath.Glob(filepath.Join(d.logs, "*.log"))
		for _, log := range old {
			os.Remove(log) // processes append, for those that are restarted
		}
	}
	go func() { cancel(<-d.died) }()

	play := d.scenes()
	if options.e2e > 0 {
		play = d.endToEnd()
	}
	names := make([]string, len(play))
	for i, s := range play {
		names[i] = s.name
	}
	d.ledger = newLedger(options.ttl, options.patience, names)

	defer d.killAll()
	if err := d.start(ctx); err != nil {
		return cause(ctx, err)
	}
	if err := d.play(ctx, play); err != nil {
		return cause(ctx, err)
	}
	if err := d.stop(); err != nil {
		return err
	}
	return d.conclude(play)
}

// cause prefers the reason why ctx ended, if it did, to what followed from it.
func cause(ctx context.Context, err error) error {
	switch why := context.Cause(ctx); {
	case why == nil:
		return err
	case errors.Is(why, context.Canceled):
		return errors.New("interrupted")
	default:
		return why
	}
}

// start starts everything and returns when all nodes are ready to read.
func (d *demo) start(ctx context.Context) error {
	keyFiles, err := d.prepareKeys()
	if err != nil {
		return err
	}
	addresses, err := loopback.FreeAddresses(1 + nodesPerRegion*len(regionNames))
	if err != nil {
		return err
	}
	for pair, delay := range d.options.delays {
		d.links[pair] = newLink(delay)
	}

	d.originConfig = originConfig{
		Listen: addresses[0],
		File:   filepath.Join(d.dir, "rows.db"),
		Rows:   d.options.rows + accounts,
		Query:  originQuery,
	}
	d.screen.say("the origin, a database file of %d rows, in %s; %v a query", d.options.rows, originRegion, originQuery)
	if err := d.startOrigin(ctx); err != nil {
		return err
	}
	if d.options.consul {
		d.screen.say("three Consul datacenters")
		if d.options.binary != "" {
			os.Setenv("GEOCACHE_CONSUL", d.options.binary) // where the test cluster looks first
		}
		if d.agents, err = consul.Start(ctx, "", regionNames...); err != nil {
			return err
		}
	}
	if err := d.layOut(addresses[1:], keyFiles); err != nil {
		return err
	}
	d.screen.say("nine nodes; one way eu–us %v, us–ap %v, eu–ap %v; rows live for %v", d.options.delays[pairOf("eu", "us")],
		d.options.delays[pairOf("us", "ap")], d.options.delays[pairOf("eu", "ap")], d.options.ttl)
	for _, n := range d.nodes {
		if err := d.startNode(n); err != nil {
			return err
		}
	}
	for _, n := range d.nodes {
		if err := d.awaitNode(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// prepareKeys writes the trace's keys for each node, if there is a trace, and
// sees to it that the origin has rows for them.
func (d *demo) prepareKeys() ([]string, error) {
	n := nodesPerRegion * len(regionNames)
	files := make([]string, n)
	if d.options.trace == "" {
		return files, nil
	}
	keys, distinct, err := readTrace(d.options.trace)
	if err != nil {
		return nil, err
	}
	d.options.rows = max(d.options.rows, distinct)
	d.screen.say("%s: %d reads of %d rows", filepath.Base(d.options.trace), len(keys), distinct)
	for i := range files {
		files[i] = filepath.Join(d.dir, fmt.Sprintf("keys%d", i))
		if err := writeKeys(files[i], keys, i, n); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// layOut makes the nodes' configurations, and the relays for what they reach in
// other regions.
func (d *demo) layOut(addresses, keyFiles []string) error {
	var all []regions.Node
	for _, region := range regionNames {
		for i := range nodesPerRegion {
			all = append(all, regions.Node{ID: fmt.Sprintf("%s-%d", region, i+1), Region: region, Address: addresses[len(all)]})
		}
	}
	routes := make(map[string]map[string]string) // by region and address
	for _, region := range regionNames {
		routes[region] = make(map[string]string)
		for _, target := range append(all, regions.Node{Region: originRegion, Address: d.originConfig.Listen}) {
			if target.Region == region {
				continue
			}
			r, err := startRelay(d.links[pairOf(region, target.Region)], target.Address)
			if err != nil {
				return err
			}
			d.relays = append(d.relays, r)
			routes[region][target.Address] = r.address()
		}
	}
	for i, n := range all {
		config := nodeConfig{
			ID: n.ID, Region: n.Region, Listen: n.Address, Peers: all,
			Routes:   routes[n.Region],
			Origin:   d.originConfig.Listen,
			Patience: d.options.patience,
			TTL:      d.options.ttl,
			Rows:     d.options.rows,
			Accounts: accounts,
			Rate:     d.options.rate / float64(len(all)),
			Zipf:     d.options.zipf,
			Seed:     uint64(i),
			Keys:     keyFiles[i],
			Debug:    d.options.logs != "",
		}
		if relay, ok := routes[n.Region][config.Origin]; ok {
			config.Origin = relay
		}
		if d.agents != nil {
			config.Consul = d.agents.Agent(n.Region).Address()
		}
		d.nodes = append(d.nodes, &node{config: config})
	}
	return nil
}

func (d *demo) startOrigin(ctx context.Context) (err error) {
	ready := make(chan struct{})
	d.origin, err = startProcess("origin", "origin", filepath.Join(d.logs, "origin.log"), d.originConfig, func(m originMessage) {
		if m.Load != nil {
			d.ledger.addLoad(int(d.scene.Load()), m.Load)
		}
		if m.Ready {
			close(ready)
		}
	})
	if err != nil {
		return err
	}
	return d.await(ctx, d.origin, ready)
}

func (d *demo) startNode(n *node) error {
	ready := make(chan struct{})
	n.ready = ready
	p, err := startProcess("node", n.config.ID, filepath.Join(d.logs, n.config.ID+".log"), n.config, func(m nodeMessage) {
		switch {
		case m.Ready:
			close(ready)
		case m.Tally != nil:
			d.ledger.addTally(n.config.Region, n.config.ID, m.Tally)
		default:
			d.heard(n, m)
		}
	})
	if err == nil {
		n.process.Store(p)
	}
	return err
}

func (d *demo) awaitNode(ctx context.Context, n *node) error {
	return d.await(ctx, n.process.Load(), n.ready)
}

// await waits until the process is ready, and has its unexpected end noticed
// from then on.
func (d *demo) await(ctx context.Context, p *process, ready <-chan struct{}) error {
	go func() {
		if err := p.watch(); err != nil {
			select {
			case d.died <- err:
			default: // not the first
			}
		}
	}()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Minute):
		return fmt.Errorf("%s did not get ready%s", p.name, p.lastWords())
	}
}

// stop ends the reading and all processes, as a service would end.
func (d *demo) stop() error {
	var errs []error
	for _, n := range d.nodes {
		n.process.Load().send(command{Stop: true})
	}
	for _, n := range d.nodes {
		errs = append(errs, n.process.Load().end(15*time.Second))
	}
	errs = append(errs, d.origin.end(5*time.Second))
	d.ledger.judge(time.Now())
	d.ledger.judgeAccounts()
	return errors.Join(errs...)
}

// killAll ends whatever still runs.
func (d *demo) killAll() {
	for _, n := range d.nodes {
		if p := n.process.Load(); p != nil {
			p.kill()
		}
	}
	if d.origin != nil {
		d.origin.kill()
	}
	for _, r := range d.relays {
		r.close()
	}
	if d.agents != nil {
		d.agents.Stop()
	}
}
