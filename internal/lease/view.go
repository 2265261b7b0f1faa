package lease

import (
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/geocache/geocache/expiry"
)

// A View is what a node takes for its region.
type View struct {
	Hash   uint64   // equal for equal views, see HashOf
	Others []string // the IDs of its other nodes
	Guest  bool     // this node is a guest of the region, and not among its nodes
}

// Guest is the hash of a guest's view.
const Guest = gone - 1

// gone is the view of a node that leaves: it uses no lease any more, and is to be forgotten at once.
// Otherwise its last view would keep the others from granting each other leases until they forget it.
const gone = ^uint64(0)

// HashOf makes a view's hash of any other: it is never 0, which is no view, nor Guest, nor that of a node that leaves.
func HashOf(hash uint64) uint64 { return min(max(hash, 1), Guest-1) }

// IsMember reports whether a hash that a ping carried is that of a node that counts itself among its region's.
func IsMember(hash uint64) bool { return hash < Guest }

// IsLeaving reports whether a hash that a ping carried says that its node leaves.
func IsLeaving(hash uint64) bool { return hash == gone }

// Config is what a Table works with.
type Config struct {
	Length time.Duration // of a lease
	Grace  time.Duration // for which a node that was counted may be missing before it is told so

	// Retry is the longest pause between two attempts of a node that is refused. It counts as heard for twice as long.
	Retry time.Duration

	// Started is when this process started, by Now: no earlier one under the node's ID has granted leases since.
	// Default: when the Table is made.
	Started time.Time

	// Discovers says that a discovery is still to say who else is in the region, see Table.Found.
	Discovers bool

	Clock *expiry.Clock    // of the leases that are held
	Now   func() time.Time // monotonic, of those that are granted; default time.Now
}

// A Table has the leases that a node has granted, and those that it holds. Its methods are safe for concurrent use.
type Table struct {
	config Config
	view   atomic.Pointer[present]
	grants grants
	peers  *xsync.Map[string, *Peer]
	hold   hold
	quorum quorum
}

// present is a view that was set. One that is set again after another is a new view, told apart from the first by
// its address: in between, the others may have granted leases under the other.
type present struct {
	hash  uint64
	stays int // how often this node had been a guest by then
}

// New returns a Table of a node that has no view yet, holds no leases, and has granted none.
func New(config Config) *Table {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Started.IsZero() {
		config.Started = config.Now()
	}
	t := &Table{config: config, peers: xsync.NewMap[string, *Peer]()}
	t.grants.table = t
	t.grants.to = make(map[string]*grant)
	t.grants.unknown = make(map[string]time.Time)
	t.quorum.seen, t.quorum.ended = make(map[string]bool), make(map[string]bool)
	t.quorum.unlisted = make(map[string]time.Time)
	t.quorum.found = !config.Discovers
	t.hold.looked.Store(!config.Discovers)
	t.quorum.unconfirmed.Store(config.Discovers)
	t.view.Store(new(present))
	return t
}

// Length returns how long a lease is.
func (t *Table) Length() time.Duration { return t.config.Length }

// Hash returns the hash of the present view; 0 before the first.
func (t *Table) Hash() uint64 { return t.view.Load().hash }

// IsGuest reports whether the present view is a guest's.
func (t *Table) IsGuest() bool { return t.Hash() == Guest }

// Prepare takes in a view that SetView is about to set. A node that was alone and sees others now no longer serves
// as if it were. Whether what it serves is confirmed goes by the new view from now on.
func (t *Table) Prepare(v View) {
	t.quorum.view(v)
	h := &t.hold
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lone = len(v.Others) == 0 && !v.Guest; !h.lone {
		h.endAloneLocked(t.config.Clock.Instant())
	}
}

// SetView sets the view by its hash, and reports whether it is another one than before. The caller pings the others then.
// A node without a view is granted no leases, and keeps those that hear it from granting any to others.
// A node must not set a guest's view before it has called BecomeGuest. After Leave SetView does nothing.
func (t *Table) SetView(hash uint64) (changed bool) {
	for {
		last := t.view.Load()
		if last.hash == hash || last.hash == gone {
			return false
		}
		next := &present{hash, last.stays}
		if hash == Guest {
			next.stays++
		}
		if t.view.CompareAndSwap(last, next) {
			return true
		}
	}
}

// Leave sets the view of a node that leaves. The caller pings the others for the last time then.
func (t *Table) Leave() { t.view.Store(&present{hash: gone}) }
