// Package history holds the writes of a cluster to their promises: it runs a
// cluster through a random history of reads, writes and failures, all of it made
// from a seed, records what every caller saw, and checks the record.
//
//	h := history.Run(t, history.ConfigOf(seed, ""))
//	for _, v := range h.Check() {
//		t.Error(v)
//	}
//
// Each seed has a [Theme]. One in four histories has a bit of everything; the others are short and
// about one thing, which happens all the time: so a few hundred find what it can break, and what
// they find can be read.
//
// The checks ([History.Check]) know nothing of how the cluster works. They need the true times
// of everything (one simulated process has them), values that say which
// write or load they are from, and what was broken when ([Fault]).
//
// # What is excused
//
// Who cannot know of a write need not: see [History.Coverage], which counts what is checked and
// what is not. Excused are
//
//   - a node that was cut off, stopped, or did not find others of its region, or was found by none of them,
//     until it has been in contact for the time of recovery; one that the directory has
//     dropped, itself only;
//   - a write that all who surely knew of it took down with them before others can have learned of it;
//   - counters, which no origin has, if two nodes of the home have gone since the last count, or one while
//     it counted, or the home was divided, or nodes remember little; and what regions count that do not know of each other;
//   - what a process returns that was stopped after it had looked;
//   - writes that wait for more than nodes that have died, and reads that fail with the origin.
//
// # Replaying
//
// What happens follows from the seed, but for two things. Which of the goroutines
// that are ready at the same virtual moment runs first is up to Go's scheduler; jitter in the network
// keeps such moments few. And the library draws some times and targets from
// math/rand, which has no seed. So a seed is a scenario, and not a run. A violation that needs a rare order
// comes back only after some tries of its seed.
package history

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/testcluster"
)

// A Kind is what an Op does.
type Kind string

// The kinds. Count and Increment are Get and Update of a counter, Update is that of a value.
const (
	Get       Kind = "get"
	GetItem   Kind = "getitem"
	GetMany   Kind = "getmany" // an Op for each key
	Peek      Kind = "peek"
	Set       Kind = "set"
	Remove    Kind = "remove"
	Clear     Kind = "clear"
	Update    Kind = "update"
	Count     Kind = "count"
	Increment Kind = "increment"
)

// An Outcome is how an Op ended.
type Outcome string

// The outcomes.
const (
	OK          Outcome = "ok"          // with a value, or with a write that came as far as was asked
	Empty       Outcome = "empty"       // a Peek that found nothing
	NotFound    Outcome = "notfound"    // the origin has nothing, a read was told
	Uncertain   Outcome = "uncertain"   // ErrUncertain, or its process died
	Unconfirmed Outcome = "unconfirmed" // ErrUnconfirmed
	Failed      Outcome = "failed"      // any other error
)

// An Op is one call of one caller. Times are true times since the history began,
// and no two are the same.
type Op struct {
	ID           int
	Node, Region string
	Kind         Kind
	How          string // of a Remove: as what it was asked for
	Key          string // empty for a Clear
	Begin, End   time.Duration
	Limit        time.Duration // that its caller gave it; 0 if it does not matter
	Outcome      Outcome
	Err          string

	// Value is what was read or set.
	Value testcluster.Value
	Stale bool // marked so
	// Number is what a counter had, or has after the Increment.
	Number int

	// Of writes:
	Generation expiry.Generation // 0 if not known
	Ack        geocache.AckLevel
	Confirmed  []string      // the regions that have it, as its caller was told
	Life       time.Duration // the most a value set may live

	// Version is what the origin had of the key at least when a write had ended, see
	// testcluster.Origin.Put; 0 if the write has nothing to do with that.
	Version int

	// Attempts are the calls of an Update's function.
	Attempts []Attempt
}

// An Attempt is a call of an Update's function.
type Attempt struct {
	Had        bool // there was a value
	Base       testcluster.Value
	By         string // of the value returned
	Begin, End time.Duration
}

func (o *Op) isRead() bool {
	return o.Kind == Get || o.Kind == GetItem || o.Kind == GetMany || o.Kind == Peek
}

func (o *Op) isWrite() bool {
	return o.Kind == Set || o.Kind == Remove || o.Kind == Clear || o.Kind == Update
}

// of reports whether o concerns the key.
func (o *Op) of(key string) bool { return o.Kind == Clear || o.Key == key }

// after reports whether o began when p had ended.
func (o *Op) after(p *Op) bool { return o.Begin > p.End }

func (o *Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "#%d %v–%v %s %s", o.ID, o.Begin, o.End, o.Node, o.Kind)
	if o.How != "" {
		fmt.Fprintf(&b, " (%s)", o.How)
	}
	if o.Key != "" {
		fmt.Fprintf(&b, " %s", o.Key)
	}
	switch {
	case o.Kind == Count || o.Kind == Increment:
		fmt.Fprintf(&b, " = %d", o.Number)
	case o.Value.By != "":
		fmt.Fprintf(&b, " = %q", o.Value.By)
	}
	if o.isWrite() {
		fmt.Fprintf(&b, ", ack %s", [...]string{"region", "owner", "world"}[o.Ack])
	}
	fmt.Fprintf(&b, ": %s", o.Outcome)
	if o.Generation != 0 {
		fmt.Fprintf(&b, " at %v", o.Generation)
	}
	if o.Err != "" {
		fmt.Fprintf(&b, " (%s)", o.Err)
	}
	return b.String()
}

// A History is the record of a run.
type History struct {
	Config Config
	Start  time.Time // of all times
	Ops    []*Op     // in no particular order
	Faults []*Fault
	Nodes  Nodes // by region: all that there ever were

	// Healed is when all was well again, everybody could reach everybody, and the
	// time had passed that promise 4 allows. There are no writes after
	// it. In the last round, from Last on, every node reads every key.
	Healed, Last time.Duration

	// Loads are all calls of getters.
	Loads []testcluster.Load
	// Truth is what the origin had of each key.
	Truth map[string][]testcluster.Version

	// Mangled is how many messages were lost, duplicated and delayed.
	Mangled [3]int64
	Log     string // of the nodes

	keys       map[string][]*Op // see byKey
	sets       map[string]*Op   // by what they set
	attempts   map[string]*Op   // Updates, by each value that their functions have returned
	separating []*Fault         // Faults, and Alone where a node was started while the directory was out
}

// joinWait is how long a start may have taken: the default of geocache.WithJoinWait and some.
const joinWait = 6 * time.Second

// index prepares h for being checked.
func (h *History) index() {
	h.sets, h.attempts = make(map[string]*Op), make(map[string]*Op)
	for _, o := range h.Ops {
		for _, a := range o.Attempts {
			h.attempts[a.By] = o
		}
		switch {
		case o.Kind == Set || o.Kind == Update && o.Outcome == OK:
			h.sets[o.Value.By] = o
		case o.Kind == Update:
			for _, a := range o.Attempts {
				h.sets[a.By] = o
			}
		}
	}
	for _, o := range h.Ops {
		h.versionOf(o)
	}
	h.separating = slices.Clone(h.Faults)
	for _, start := range h.Faults {
		for _, out := range h.Faults {
			if start.Kind == Down && out.Kind == Directory && start.To != forEver && out.overlaps(start.To-joinWait, start.To) {
				h.separating = append(h.separating, &Fault{Kind: Alone, A: start.A, From: start.To - joinWait, To: out.To})
			}
		}
	}
	slices.SortFunc(h.Ops, func(a, b *Op) int { return int(a.Begin - b.Begin) })
	h.keys = h.indexKeys()
}

// begun returns when the load or write began that made what r has read.
func (h *History) begun(r *Op) time.Duration { return r.Value.Begun.Sub(h.Start) }

// A Violation is a promise that was not kept.
type Violation struct {
	Promise string
	What    string
	Ops     []*Op // that show it
}

func (v Violation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", v.Promise, v.What)
	for _, o := range v.Ops {
		fmt.Fprintf(&b, "\n\t%v", o)
	}
	return b.String()
}

// Summary says in a few words what the history had in it.
func (h *History) Summary() string {
	kinds, outcomes := map[Kind]int{}, map[Outcome]int{}
	for _, o := range h.Ops {
		kinds[o.Kind]++
		if o.isWrite() || o.Kind == Increment {
			outcomes[o.Outcome]++
		}
	}
	c := h.Coverage()[Writes]
	return fmt.Sprintf("%d faults, messages lost %d, duplicated %d, delayed %d; ops %v, writes %v; reads checked %d, excused %d",
		len(h.Faults), h.Mangled[0], h.Mangled[1], h.Mangled[2], kinds, outcomes, c.Checked, c.Excused)
}
