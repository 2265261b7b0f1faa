package history

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// This file is what may happen to one node, whoever plans it.

// stop stops a node: it leaves, or it crashes.
func (r *runner) stop(n *testcluster.Node, leaves bool) (mended func()) {
	mended = r.broken(&Fault{Kind: Down, A: n.Name})
	r.mu.Lock()
	was := r.lives[n.Name]
	delete(r.lives, n.Name)
	r.mu.Unlock()
	close(was.leaving)
	if leaves {
		_ = was.cache.Close() // it may not be able to take its leave of all
	}
	was.kill()
	n.Crash()
	was.callers.Wait()
	return mended
}

// restart stops a node and starts it after a while, with other options if there are any.
func (r *runner) restart(n *testcluster.Node, leaves bool, down time.Duration, opts ...geocache.Option) {
	offset := r.offset(n.Name)
	mended := r.stop(n, leaves)
	r.pauseFor(down)
	n.Restart(offset, opts...)
	mended()
	r.begin(n)
}

// join adds a node to a region, which may be new.
func (r *runner) join(region string, opts ...geocache.Option) *testcluster.Node {
	r.mu.Lock()
	f := &Fault{Kind: Down, A: fmt.Sprintf("%s-%d", region, len(r.history.Nodes[region])+1), New: true}
	r.history.Nodes[region] = append(r.history.Nodes[region], f.A)
	r.mu.Unlock()
	mended := r.broken(f)
	n := r.c.Add(region, opts...)
	mended()
	r.begin(n)
	return n
}

// serving returns the nodes of the regions, or of all, that serve, by name.
func (r *runner) serving(regions ...string) (nodes []*testcluster.Node) {
	for _, l := range r.living() {
		if len(regions) == 0 || slices.Contains(regions, l.region) {
			nodes = append(nodes, l.node)
		}
	}
	return nodes
}

// any returns one of the nodes.
func any1[T any](random *rand.Rand, of []T) T { return of[random.IntN(len(of))] }

// upTo returns a time up to most.
func upTo(random *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(random.Float64() * float64(most))
}
