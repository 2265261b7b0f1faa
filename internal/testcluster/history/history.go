// Package history checks that a cluster keeps its promises under random faults. It runs a cluster
// through a random history of reads, writes and failures, all of it derived from a seed, records
// what every caller saw, and checks the record.
//
//	h := history.Run(t, history.ConfigOf(seed, ""))
//	for _, v := range h.Check() {
//		t.Error(v)
//	}
//
// Each seed has a [Theme]. About a quarter of the histories are a mix of everything. The others are
// short and about one thing that happens all the time: so a few hundred of them find what it can
// break, and a failure can be read.
//
// The checks ([History.Check]) know nothing of how the cluster works. They need the true times of
// all events (a single simulated process has them), values that say which write or load they are
// from, and what was broken when ([Fault]). They do not check performance, or anything that needs
// real processes.
//
// # What is excused
//
// A node that cannot know of a write need not know of it. [History.Coverage] counts what is checked
// and what is excused. Excused are
//
//   - what is marked as unconfirmed, at a node that was cut off, stopped, or did not find others of
//     its region or was not found by them, until it has been in contact for the recovery time; and
//     what was written in such a part; a node that the directory has dropped, itself only;
//   - a write that was lost with all nodes that surely knew of it, before others can have learned
//     of it;
//   - counters, which no origin has, if two nodes of the home region have gone since the last
//     count, or one while it counted, or the home was divided, or nodes remember little; and what
//     regions count that do not know of each other;
//   - what a paused process returns that it had read before the pause;
//   - writes that wait for more than dead nodes, and reads that fail with the origin.
//
// # Replaying
//
// What happens follows from the seed, except for two things. Which of several goroutines that are
// ready at the same virtual moment runs first is up to Go's scheduler; jitter in the network keeps
// such moments few. And the library draws some times and targets from math/rand, which has no seed.
// So a seed is a scenario, not a run. A violation that needs a rare order comes back only after
// some runs of its seed.
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
	GetMany   Kind = "getmany" // one Op for each key
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
	OK          Outcome = "ok"          // a read with a value, or a write that was acknowledged as asked
	Empty       Outcome = "empty"       // a Peek found nothing
	NotFound    Outcome = "notfound"    // a read was told that there is no value
	Uncertain   Outcome = "uncertain"   // ErrUncertain, or its process died
	Unconfirmed Outcome = "unconfirmed" // ErrUnconfirmed
	Failed      Outcome = "failed"      // any other error
)

// An Op is one call of one caller. Times are true times since the history began, and no two are the
// same.
type Op struct {
	ID           int
	Node, Region string
	Kind         Kind
	How          string // of a Remove: by which method
	Key          string // empty for a Clear
	Begin, End   time.Duration
	Limit        time.Duration // the caller's timeout; 0 if it does not matter
	Outcome      Outcome
	Err          string

	// Value is what was read or set.
	Value testcluster.Value
	Stale bool // Value was marked stale

	// Unconfirmed says that the node saw no majority of its region, or marked the value so.
	Unconfirmed bool
	// Number is the value of a counter, after the Increment if it is one.
	Number int

	After *Op // the write that a read was told not to be older than, see geocache.After

	// Of writes:
	written    geocache.Written
	Generation expiry.Generation // 0 if unknown
	Ack        geocache.AckLevel
	Confirmed  []string      // the regions that have it, according to the caller's receipt
	Life       time.Duration // the longest that a value that was set may live

	// Version is which version of the key the origin had at least when a write had ended (see
	// testcluster.Origin.Put); 0 if the write does not concern the origin.
	Version int

	// Attempts are the calls of an Update's function.
	Attempts []Attempt
}

// An Attempt is one call of an Update's function.
type Attempt struct {
	Had        bool // the function was given a value
	Base       testcluster.Value
	By         string // of the value that it returned
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

// after reports whether o began after p had ended.
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
	if o.After != nil {
		fmt.Fprintf(&b, ", after #%d", o.After.ID)
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
	Start  time.Time // times count from here
	Ops    []*Op     // in no particular order
	Faults []*Fault
	Nodes  Nodes // by region: all nodes that ever were

	// Healed is when all was well again, all nodes could reach each other, and the time that
	// promise 4 allows had passed. There are no writes after it. In the last round, which begins at
	// Last, every node reads every key.
	Healed, Last time.Duration

	// Loads are all calls of getters.
	Loads []testcluster.Load
	// Truth has the versions of each key that the origin had.
	Truth map[string][]testcluster.Version

	// Mangled counts the messages that were lost, duplicated and delayed.
	Mangled [3]int64
	Log     string // of the nodes

	// by key: the operations that concern it, Clears included, in order of their beginnings
	keys       map[string][]*Op
	sets       map[string]*Op // by the value that they set
	attempts   map[string]*Op // Updates by each value that their functions returned
	separating []*Fault       // Faults, plus Alone where a node was started while the directory was down
}

// joinWait is how long starting a node may take: the default of geocache.WithJoinWait, plus some.
const joinWait = 6 * time.Second

// index prepares h for the checks.
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
			if start.Kind == Down && out.Kind == Directory && start.To != forEver &&
				out.overlaps(start.To-joinWait, start.To) {
				h.separating = append(h.separating,
					&Fault{Kind: Alone, A: start.A, From: start.To - joinWait, To: out.To})
			}
		}
	}
	slices.SortFunc(h.Ops, func(a, b *Op) int { return int(a.Begin - b.Begin) })
	h.keys = make(map[string][]*Op)
	for _, o := range h.Ops {
		if o.Key != "" && (o.isRead() || o.isWrite()) {
			h.keys[o.Key] = nil
		}
	}
	for _, o := range h.Ops {
		for key := range h.keys {
			if (o.isRead() || o.isWrite()) && o.of(key) {
				h.keys[key] = append(h.keys[key], o)
			}
		}
	}
}

// begun returns when the load or write began that r has read.
func (h *History) begun(r *Op) time.Duration { return r.Value.Begun.Sub(h.Start) }

// A Violation is a promise that was broken.
type Violation struct {
	Promise string
	What    string
	Ops     []*Op // the operations that show it
}

func (v Violation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", v.Promise, v.What)
	for _, o := range v.Ops {
		fmt.Fprintf(&b, "\n\t%v", o)
	}
	return b.String()
}

// Summary describes the history in a few words.
func (h *History) Summary() string {
	kinds, outcomes := map[Kind]int{}, map[Outcome]int{}
	for _, o := range h.Ops {
		kinds[o.Kind]++
		if o.isWrite() || o.Kind == Increment {
			outcomes[o.Outcome]++
		}
	}
	c := h.Coverage()[Writes]
	return fmt.Sprintf("%d faults, messages lost %d, duplicated %d, delayed %d; ops %v, writes %v; "+
		"reads checked %d, excused %d",
		len(h.Faults), h.Mangled[0], h.Mangled[1], h.Mangled[2], kinds, outcomes, c.Checked, c.Excused)
}
