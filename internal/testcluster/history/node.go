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

// This file is what may happen to one node, whoever plans it.

// stop stops a node: it leaves, or it crashes.
func (r *runner) stop(n *testcluster.Node, leaves bool) (endFault func()) {
	endFault = r.beginFault(&Fault{Kind: Down, A: n.Name})
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
	return endFault
}

// restart stops a node and starts it after a while, with other options if there are any.
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

// join adds a node to a region, which may be new.
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
func pick[T any](random *rand.Rand, of []T) T { return of[random.IntN(len(of))] }

// upTo returns a time up to most.
func upTo(random *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(random.Float64() * float64(most))
}

// snapshot keeps a snapshot of the node, if it has none or by chance. So what is restored may be old.
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

// restore gives a node that has been started the snapshot that there is of its former life.
func (r *runner) restore(n *testcluster.Node) {
	r.mu.Lock()
	b := r.snapshots[n.Name]
	r.mu.Unlock()
	if b != nil {
		_, _ = n.Group.Restore(bytes.NewReader(b)) // what cannot be taken in is not
	}
}

// oddRemoval removes what few have, by names that look like something else.
func (r *runner) oddRemoval(random *rand.Rand, n *testcluster.Node) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if name := choose(random, oddNames...); random.IntN(2) == 0 {
		_ = n.Group.RemovePrefix(ctx, name) // whether that is known does not matter: what is gone is loaded
	} else {
		_ = n.Group.RemoveTag(ctx, name)
	}
}

// pauses stops a node for a while, as SIGSTOP does: its callers and its clock too.
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
