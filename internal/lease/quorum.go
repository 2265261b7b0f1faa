package lease

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A quorum tells whether the nodes that this one sees are a majority of its region. If the network
// divides a region, each part may settle by itself, and write what the others do not hear of. At most one
// part has a majority, and only that one can rely on having been told of every write. What another part
// serves is unconfirmed.
//
// The region is what the discovery lists and what this node has seen, less those of whom it knows that
// they are gone: they have left, have ended, or have not been listed for the grace period. A node that is
// silent may be alive and counts; so does a guest, which belongs to its part again once it is alone
// there. So a killed process is not taken for a partition, while a host that vanishes counts until the
// discovery has dropped it.
//
// Invariant: any two majorities of the region, by what any two nodes take for it, have a node in common.
// That relies on the discovery: it must have listed a newcomer to all others before the network divides.
type quorum struct {
	mu     sync.Mutex      // guards the following, up to doubted
	others []string        // of the present view
	seen   map[string]bool // the other nodes of the region
	found  bool            // whether it is known who else may be there

	unlisted map[string]time.Time // those in seen that are not listed, since when
	ended    map[string]bool      // nodes that are listed, and known to be gone

	// doubted says that a node of the view has no majority. It counts until agreed: before that, this
	// node has no knowledge of its own.
	doubted bool

	agreed      atomic.Bool // whether all nodes of a view with a majority have ever held it
	minority    atomic.Bool // whether this node sees no majority, by its own knowledge
	unconfirmed atomic.Bool
}

// Unconfirmed reports whether this node sees no majority of its region: other nodes, which it does not
// see, may write what it is not told of. It concerns what is served under the lease, too.
func (t *Table) Unconfirmed() bool { return t.quorum.unconfirmed.Load() }

// LacksMajority reports what this node is to tell others: whether it sees no majority, by its own
// knowledge.
func (t *Table) LacksMajority() bool { return t.quorum.minority.Load() }

// Found notes that it is known who else may be in the region: the discovery has said so. Before that
// nothing that the node serves is confirmed, see Config.Discovers.
func (t *Table) Found() {
	q := &t.quorum
	q.mu.Lock()
	defer q.mu.Unlock()
	q.found = true
	q.decideLocked()
}

// Listed takes in which nodes of the region are listed. Call it about once a second. A node that is no
// longer listed, and not in the view, counts for the grace period all the same: a discovery that has lost
// its data may list each node a little later.
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

// ponged takes in what the nodes of the view have said in their last pongs: whether all of them hold it,
// too, and whether one sees no majority.
func (q *quorum) ponged(all, doubted bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.doubted = doubted
	q.decideLocked()
	if all && len(q.others) > 0 && !q.unconfirmed.Load() {
		q.agreed.Store(true)
	}
}

func (q *quorum) decideLocked() {
	there := 1 // this node
	for _, id := range q.others {
		if q.seen[id] {
			there++
		}
	}
	minority := 2*there <= 1+len(q.seen)
	q.minority.Store(minority)
	q.unconfirmed.Store(!q.found || minority || q.doubted && !q.agreed.Load())
}
