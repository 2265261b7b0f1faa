package geocache_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
	"github.com/geocache/geocache/regions"
)

// A database is an origin that setters and removers write to, shared by all nodes.
type database struct {
	mu     sync.Mutex // guards the following
	rows   map[string]string
	log    []string // "key=what" or "key removed", in order
	behave func(ctx context.Context, key, what string) error
}

// does sets a function that runs before each write. Its error is the write's.
func (d *database) does(behave func(ctx context.Context, key, what string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.behave = behave
}

func (d *database) fails(err error) {
	d.does(func(context.Context, string, string) error { return err })
}

func (d *database) write(ctx context.Context, key, what string, do func()) error {
	d.mu.Lock()
	behave := d.behave
	d.mu.Unlock()
	if behave != nil {
		if err := behave(ctx, key, what); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	do()
	return nil
}

func (d *database) set(ctx context.Context, key, value string) error {
	v, _ := testcluster.ParseValue(value)
	return d.write(ctx, key, v.By, func() {
		d.rows[key] = v.By
		d.log = append(d.log, key+"="+v.By)
	})
}

func (d *database) remove(ctx context.Context, key string) error {
	return d.write(ctx, key, "", func() {
		delete(d.rows, key)
		d.log = append(d.log, key+" removed")
	})
}

func (d *database) row(key string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rows[key]
}

func (d *database) history() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.log)
}

func (d *database) options(more ...geocache.GroupOption) []geocache.GroupOption {
	return append([]geocache.GroupOption{geocache.WithSetter(d.set), geocache.WithRemover(d.remove)}, more...)
}

func newDatabase() *database { return &database{rows: map[string]string{}} }

var errDatabase = errors.New("the database is on strike")

// recordingGetter is a BatchGetter that records the keys it is asked for.
type recordingGetter struct {
	mu      sync.Mutex
	batches [][]string                                     // guarded by mu
	singles []string                                       // guarded by mu
	behave  func(ctx context.Context, keys []string) error // guarded by mu
}

// does sets a function that runs before q answers. Its error is the answer's.
func (q *recordingGetter) does(behave func(ctx context.Context, keys []string) error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.behave = behave
}

func (q *recordingGetter) Get(ctx context.Context, key string) (string, error) {
	q.mu.Lock()
	q.singles = append(q.singles, key)
	q.mu.Unlock()
	m, err := q.answer(ctx, []string{key})
	if err == nil && len(m) == 0 {
		err = geocache.ErrNotFound
	}
	return m[key], err
}

func (q *recordingGetter) GetBatch(ctx context.Context, keys []string) (map[string]string, error) {
	q.mu.Lock()
	q.batches = append(q.batches, keys)
	q.mu.Unlock()
	return q.answer(ctx, keys)
}

func (q *recordingGetter) answer(ctx context.Context, keys []string) (map[string]string, error) {
	q.mu.Lock()
	behave := q.behave
	q.mu.Unlock()
	if behave != nil {
		if err := behave(ctx, keys); err != nil {
			return nil, err
		}
	}
	m := map[string]string{"another": "that nobody asked for"}
	for _, key := range keys {
		if !strings.HasPrefix(key, "none") {
			m[key] = "value of " + key
		}
	}
	if len(keys) == 1 {
		delete(m, "another")
	}
	return m, nil
}

// sizes returns the sizes of all batches, sorted.
func (q *recordingGetter) sizes() (sizes []int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, b := range q.batches {
		sizes = append(sizes, len(b))
	}
	slices.Sort(sizes)
	return sizes
}

// loaded returns all keys that were asked for, sorted.
func (q *recordingGetter) loaded() (all []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	all = slices.Concat(append(q.batches, q.singles)...)
	slices.Sort(all)
	return all
}

// A culprit stands for user code that misbehaves where and when it is told to.
type culprit struct {
	mu    sync.Mutex
	where string
	do    func()
	left  int // how many more times
}

// next has the culprit call do the next times that it comes to a place.
func (u *culprit) next(times int, where string, do func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.where, u.do, u.left = where, do, times
}

// at is called by the user code at each of its places.
func (u *culprit) at(where string) {
	u.mu.Lock()
	do := u.do
	if u.where != where || u.left == 0 {
		do = func() {}
	} else {
		u.left--
	}
	u.mu.Unlock()
	do()
}

// isolatedDiscovery lists its node, and tells it of no others until opens is closed.
type isolatedDiscovery struct {
	regions.Discovery
	opens <-chan struct{}
}

func (b isolatedDiscovery) Run(
	ctx context.Context, self regions.Node, healthy func() error, found func(regions.View),
) error {
	return b.Discovery.Run(ctx, self, healthy, func(v regions.View) {
		select {
		case <-b.opens:
		default:
			v = regions.View{Nodes: []regions.Node{self}}
		}
		found(v)
	})
}

// scriptedDiscovery tells each node what the test says.
type scriptedDiscovery struct {
	mu    sync.Mutex // guards the following
	nodes map[string][]regions.Node
	found map[string]func(regions.View)
}

func (l *scriptedDiscovery) Region(context.Context) (string, error) { return "", nil }

func (l *scriptedDiscovery) Run(
	ctx context.Context, self regions.Node, _ func() error, found func(regions.View),
) error {
	l.mu.Lock()
	l.found[self.ID] = found
	found(regions.View{Nodes: l.nodes[self.ID]})
	l.mu.Unlock()
	<-ctx.Done()
	return nil
}

// announce sets the nodes that a node finds from now on.
func (l *scriptedDiscovery) announce(node string, nodes ...regions.Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes[node] = nodes
	if found := l.found[node]; found != nil {
		found(regions.View{Nodes: nodes})
	}
}

func newScriptedDiscovery() *scriptedDiscovery {
	return &scriptedDiscovery{nodes: map[string][]regions.Node{}, found: map[string]func(regions.View){}}
}

// nodesOf returns nodes with these names, as a discovery lists them.
func nodesOf(names ...string) (nodes []regions.Node) {
	for _, name := range names {
		nodes = append(nodes, regions.Node{ID: name, Region: name[:2], Address: name + ":7946", Weight: 1})
	}
	return nodes
}

// A sharedDiscovery is one by which the nodes of a test find each other, along with some others.
type sharedDiscovery struct {
	others []regions.Node

	mu     sync.Mutex // guards the following
	nodes  []regions.Node
	joined []func(regions.View)
}

func (*sharedDiscovery) Region(context.Context) (string, error) { return "eu", nil }

func (l *sharedDiscovery) Run(
	ctx context.Context, self regions.Node, _ func() error, found func(regions.View),
) error {
	l.mu.Lock()
	l.nodes, l.joined = append(l.nodes, self), append(l.joined, found)
	for _, tell := range l.joined {
		tell(regions.View{Nodes: append(append([]regions.Node{}, l.nodes...), l.others...)})
	}
	l.mu.Unlock()
	<-ctx.Done()
	return nil
}

// inRegion is a Discovery that knows the region and nothing else; if it is empty, not even that.
type inRegion string

func (r inRegion) Region(context.Context) (string, error) {
	if r == "" {
		return "", errors.New("no leader")
	}
	return string(r), nil
}

func (r inRegion) Run(
	ctx context.Context, self regions.Node, healthy func() error, found func(regions.View),
) error {
	return regions.Static().Run(ctx, self, healthy, found)
}

// emptyDiscovery is a Discovery that finds nothing.
type emptyDiscovery struct{}
