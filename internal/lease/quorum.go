package lease

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A quorum tells whether the nodes that this one sees are a majority of its region. If the network divides a region,
// each part may settle by itself, and write what the others do not hear of. At most one part has a majority, and only that
// one can rely on having been told of every write. What another part serves is unconfirmed.
//
// The region is what the discovery lists and what this node has seen, less those of whom it knows that they are gone:
// they have left, have ended, or have not been listed for the grace period. A node that is silent may be alive and
// counts; so does a guest, which belongs to its part again once it is alone there. So a killed process is not
// taken for a partition, while a host that vanishes counts until the discovery has dropped it.
//
// Invariant: any two majorities of the region, by what any two nodes take for it, have a node in common. While nodes
// come, others may not have seen them yet. So a majority is needed of the nodes that all have agreed on, and
// of all that have been seen since. As soon as one node has agreed, the others have at least seen the new ones.
// Not covered: nodes that come while the network is divided, and that the discovery does not list to the others.
type quorum struct {
	mu     sync.Mutex
	others []string        // of the present view
	agreed map[string]bool // the other nodes that a view contained which all of its nodes held; guarded by mu
	seen   map[string]bool // those, and all that have been listed or in a view since; guarded by mu
	found  bool            // whether it is known who else may be there; guarded by mu

	unlisted map[string]time.Time // nodes in seen that are not listed, since when; guarded by mu
	ended    map[string]bool      // nodes that are known to be gone; guarded by mu

	// doubted says that a node of the view has no majority. It counts as long as this node has agreed
	// with nobody: then it has no knowledge of its own. Guarded by mu.
	doubted bool

	unconfirmed atomic.Bool
}

// Unconfirmed reports whether this node sees no majority of its region: other nodes, which it does not see, may
// write what it is not told of. It concerns what is served under the lease, too.
func (t *Table) Unconfirmed() bool { return t.quorum.unconfirmed.Load() }

// LacksMajority reports what this node is to tell others: whether it sees no majority, by its own knowledge.
func (t *Table) LacksMajority() bool {
	q := &t.quorum
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.majorityLocked()
}

// Found notes that it is known who else may be in the region: the discovery has said so. Before that nothing that
// the node serves is confirmed, see Config.Discovers.
func (t *Table) Found() {
	q := &t.quorum
	q.mu.Lock()
	defer q.mu.Unlock()
	q.found = true
	q.decideLocked()
}

// Listed takes in which nodes of the region are listed. Call it about once a second. A node that is no longer listed,
// and not in the view, counts for the grace period all the same: a discovery that has lost its data may list each node
// a little later.
func (t *Table) Listed(ids []string) {
	q, now := &t.quorum, t.config.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	listed := make(map[string]bool, len(ids))
	for _, id := range ids {
		listed[id] = true
		if !q.ended[id] {
			q.seen[id] = true
		}
	}
	maps.DeleteFunc(q.ended, func(id string, _ bool) bool { return !listed[id] })
	for id := range q.seen {
		since, out := q.unlisted[id]
		switch {
		case listed[id] || slices.Contains(q.others, id):
			delete(q.unlisted, id)
		case !out:
			q.unlisted[id] = now
		case now.Sub(since) >= t.config.Grace:
			q.forgetLocked(id)
		}
	}
	q.decideLocked()
}

// gone forgets a node that has left or has ended. If it lives it comes back into the view.
func (q *quorum) gone(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.forgetLocked(id)
	q.ended[id] = true
	q.decideLocked()
}

func (q *quorum) forgetLocked(id string) {
	delete(q.agreed, id)
	delete(q.seen, id)
	delete(q.unlisted, id)
}

// view takes in a view before others are told of it.
func (q *quorum) view(v View) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.others = v.Others
	for _, id := range v.Others {
		q.seen[id] = true
		delete(q.ended, id)
	}
	q.decideLocked()
}

// ponged takes in what the nodes of v have said in their last pongs: whether all of them hold v, and whether one has
// no majority.
func (q *quorum) ponged(all, doubted bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if all && len(q.agreed) < len(q.seen) && q.majorityLocked() {
		q.agreed = maps.Clone(q.seen)
	}
	q.doubted = doubted
	q.decideLocked()
}

func (q *quorum) decideLocked() {
	q.unconfirmed.Store(!q.found || !q.majorityLocked() || q.doubted && len(q.agreed) == 0)
}

func (q *quorum) majorityLocked() bool {
	majority := func(of map[string]bool) bool {
		there := 1 // this node
		for _, id := range q.others {
			if of[id] {
				there++
			}
		}
		return 2*there > 1+len(of)
	}
	return majority(q.agreed) && majority(q.seen)
}
