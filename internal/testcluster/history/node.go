package history

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// This file has what may happen to one node.

// stop stops a node. It closes its cache first, or crashes.
func (r *runner) stop(n *testcluster.Node, leaves bool) (endFault func()) {
	endFault = r.beginFault(&Fault{Kind: Down, A: n.Name})
	r.mu.Lock()
	was := r.lives[n.Name]
	delete(r.lives, n.Name)
	r.mu.Unlock()
	close(was.leaving)
	if leaves {
		_ = was.cache.Close() // it may not be able to say goodbye to all others
	}
	was.kill()
	n.Crash()
	was.callers.Wait()
	return endFault
}

// restart stops a node, and starts it again after a while, with other options if there are any.
func (r *runner) restart(n *testcluster.Node, leaves bool, down time.Duration, opts ...geocache.Option) {
	offset := r.offset(n.Name)
	r.snapshot(n)
	endFault := r.stop(n, leaves)
	r.pauseFor(down)
	n.Restart(offset, opts...)
	r.restore(n)
	endFault()
	r.begin(n)
}

// join adds a node to a region, which may be a new one.
func (r *runner) join(region string, opts ...geocache.Option) *testcluster.Node {
	r.mu.Lock()
	f := &Fault{Kind: Down, A: fmt.Sprintf("%s-%d", region, len(r.history.Nodes[region])+1), New: true}
	r.history.Nodes[region] = append(r.history.Nodes[region], f.A)
	r.mu.Unlock()
	endFault := r.beginFault(f)
	n := r.c.Add(region, opts...)
	endFault()
	r.begin(n)
	return n
}

// serving returns the serving nodes of the regions, or of all if none is given, sorted by name.
func (r *runner) serving(regions ...string) (nodes []*testcluster.Node) {
	for _, l := range r.living() {
		if len(regions) == 0 || slices.Contains(regions, l.region) {
			nodes = append(nodes, l.node)
		}
	}
	return nodes
}

// pick returns one of the elements.
func pick[T any](random *rand.Rand, of []T) T { return of[random.IntN(len(of))] }

// upTo returns a random duration up to most.
func upTo(random *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(random.Float64() * float64(most))
}

// snapshot takes a snapshot of the node if there is none yet, and sometimes a new one. So what is
// restored may be old.
func (r *runner) snapshot(n *testcluster.Node) {
	r.mu.Lock()
	has := r.snapshots[n.Name] != nil
	r.mu.Unlock()
	if !r.config.Snapshots || has && r.now()%3 > 0 {
		return
	}
	var b bytes.Buffer
	if err := n.Group.Snapshot(&b); err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.snapshots[n.Name] = b.Bytes()
	}
}

// restore restores the snapshot of its former life, if there is one, on a node that has been
// started.
func (r *runner) restore(n *testcluster.Node) {
	r.mu.Lock()
	b := r.snapshots[n.Name]
	r.mu.Unlock()
	if b != nil {
		_, _ = n.Group.Restore(bytes.NewReader(b)) // what cannot be restored is left out
	}
}

// oddRemoval removes a prefix or a tag with an odd name, which few entries have.
func (r *runner) oddRemoval(random *rand.Rand, n *testcluster.Node) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if name := choose(random, oddNames...); random.IntN(2) == 0 {
		_ = n.Group.RemovePrefix(ctx, name) // it does not matter who learns of it: what is removed is loaded again
	} else {
		_ = n.Group.RemoveTag(ctx, name)
	}
}

// pauses stops a node for a while, as SIGSTOP does, with its callers and its clock.
func (r *runner) pauses(n *testcluster.Node, d time.Duration) {
	r.mu.Lock()
	was := r.lives[n.Name]
	was.frozen = true
	r.mu.Unlock()
	endFault := r.beginFault(&Fault{Kind: Frozen, A: n.Name})
	n.Pause()
	r.pauseFor(d)
	n.Resume()
	endFault()
	r.mu.Lock()
	was.frozen = false
	r.mu.Unlock()
}
