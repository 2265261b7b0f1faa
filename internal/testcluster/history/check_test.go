package history

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/testcluster"
)

// A book builds a history by hand. Times are in seconds; each operation takes a tenth of a second.
type book struct{ h *History }

func newBook() *book {
	return &book{&History{
		Config: Config{TTL: time.Minute, Regions: []string{"eu", "us"}, Home: "eu", StableHome: true},
		Start:  time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		Nodes:  map[string][]string{"eu": {"eu-1", "eu-2", "eu-3"}, "us": {"us-1", "us-2"}},
		Healed: 1000 * time.Second,
		Last:   1100 * time.Second,
	}}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func (b *book) op(at float64, node string, kind Kind, key string) *Op {
	o := &Op{
		ID: len(b.h.Ops) + 1, Node: node, Region: node[:2], Kind: kind, Key: key,
		Begin: seconds(at), End: seconds(at + 0.1), Outcome: OK,
	}
	b.h.Ops = append(b.h.Ops, o)
	return o
}

// set sets key, with a generation of about the time of the call.
func (b *book) set(at float64, node, key string) *Op {
	o := b.op(at, node, Set, key)
	o.Value = testcluster.Value{Key: key, Begun: b.h.Start.Add(o.Begin), By: fmt.Sprint("set ", o.ID)}
	o.Generation = expiry.At(b.h.Start.Add(o.Begin))
	o.Life = b.h.Config.TTL
	o.Confirmed = []string{o.Region}
	return o
}

func (b *book) remove(at float64, node, key string) *Op {
	o := b.op(at, node, Remove, key)
	o.Generation = expiry.At(b.h.Start.Add(o.Begin))
	o.Confirmed = []string{o.Region}
	return o
}

func (b *book) clear(at float64, node string) *Op {
	o := b.remove(at, node, "")
	o.Kind = Clear
	return o
}

// read reads what s has set.
func (b *book) read(at float64, node string, s *Op) *Op {
	o := b.op(at, node, Get, s.Key)
	o.Value = s.Value
	return o
}

// readLoad reads a value whose load began at the given time.
func (b *book) readLoad(at float64, node, key string, loaded float64) *Op {
	o := b.op(at, node, GetItem, key)
	o.Value = testcluster.Value{Key: key, Begun: b.h.Start.Add(seconds(loaded)), By: "load 1 in eu"}
	return o
}

func (b *book) fault(kind FaultKind, x, y string, from, to float64) {
	b.h.Faults = append(b.h.Faults, &Fault{Kind: kind, A: x, B: y, From: seconds(from), To: seconds(to)})
}

func (b *book) count(at float64, node string, n int) *Op {
	o := b.op(at, node, Count, "n")
	o.Number = n
	return o
}

func (b *book) increment(at float64, node string, n int) *Op {
	o := b.op(at, node, Increment, "n")
	o.Number = n
	return o
}

// A checkTest is a history that is good, or breaks one promise.
type checkTest struct {
	want string // the beginning of the violation, or ""
	name string
	make func(b *book)
}

func (test *checkTest) run(t *testing.T) {
	b := newBook()
	test.make(b)
	found := b.h.Check()
	if test.want == "" {
		require.Empty(t, found)
		return
	}
	require.NotEmpty(t, found)
	for _, v := range found {
		require.True(t, strings.HasPrefix(v.String(), test.want), "%v", v)
		require.True(t, len(v.Ops) > 0 || test.want == "6 one", "%v", v)
	}
}

// runChecks runs each of the tests as a subtest.
func runChecks(t *testing.T, tests []checkTest) {
	t.Helper()
	for _, test := range tests {
		t.Run(strings.TrimSpace(test.want)+": "+test.name, func(t *testing.T) { test.run(t) })
	}
}

// Each history is good if want is empty, and otherwise breaks the promise that want begins.
func TestChecks(t *testing.T) {
	runChecks(t, []checkTest{
		{"", "nothing happened", func(b *book) {}},
		{"", "what is set is read, in the region at once", func(b *book) {
			b.readLoad(0, "eu-1", "k", 0)
			s := b.set(1, "eu-1", "k")
			b.readLoad(1.05, "eu-2", "k", 0) // the write is in progress
			b.read(1.2, "eu-1", s)
			b.read(1.2, "eu-2", s)
			b.readLoad(1.2, "us-1", "k", 0) // it is in transit to there
			b.readLoad(1.2, "eu-3", "k", 1.15)
			b.read(2, "us-1", s)
		}},

		{"values", "of another key", func(b *book) {
			b.readLoad(0, "eu-1", "k", 0).Value.Key = "j"
		}},
		{"values", "loaded later", func(b *book) { b.readLoad(0, "eu-1", "k", 3) }},
		{"values", "set later", func(b *book) { b.read(1, "eu-1", b.set(3, "eu-1", "k")) }},
		{"values", "set by nobody", func(b *book) {
			r := b.readLoad(1, "eu-1", "k", 0)
			r.Value.By = "x"
		}},
		{"values", "set by a Set that failed", func(b *book) {
			s := b.set(1, "eu-1", "k")
			s.Outcome = Failed
			b.read(2, "eu-1", s)
		}},
		{"values", "a write without a generation", func(b *book) { b.set(1, "eu-1", "k").Generation = 0 }},
		{"", "a Set that may have happened", func(b *book) {
			s := b.set(1, "eu-1", "k")
			s.Outcome, s.Generation = Uncertain, 0
			b.read(2, "eu-1", s)
			b.readLoad(3, "eu-1", "k", 0)
		}},

		{"1 ", "an old load", func(b *book) { b.readLoad(61, "eu-1", "k", 0.9) }},
		{"1 ", "an old Set", func(b *book) { b.read(61, "eu-1", b.set(0.9, "us-1", "k")) }},
		{"1 ", "a Set with a life of its own", func(b *book) {
			s := b.set(0, "eu-1", "k")
			s.Life = time.Second
			b.read(1.1, "eu-1", s)
		}},
		{"", "a Set that took its time", func(b *book) {
			s := b.set(0, "eu-1", "k")
			s.End, s.Life, s.Ack = seconds(5), time.Second, geocache.AckWorld
			b.read(5.5, "eu-1", s)
		}},
		{"", "a GetMany that waited for another key", func(b *book) {
			r := b.readLoad(1, "eu-1", "k", 1)
			r.Kind, r.End = GetMany, seconds(62)
		}},
		{"1 ", "a GetMany with an old one", func(b *book) { b.readLoad(61, "eu-1", "k", 0.9).Kind = GetMany }},
		{"", "an old one that says so", func(b *book) { b.readLoad(70, "eu-1", "k", 0).Stale = true }},

		{"2 ", "the node that wrote", func(b *book) {
			b.set(1, "eu-1", "k")
			b.readLoad(2, "eu-1", "k", 0.9)
		}},
		{"2 ", "another node, a load that was running", func(b *book) {
			b.remove(1, "eu-1", "k")
			b.readLoad(5, "eu-2", "k", 0.9)
		}},
		{"2 ", "a Clear is for every key", func(b *book) {
			b.clear(1, "eu-1")
			b.readLoad(5, "eu-2", "k", 0.9)
		}},
		{"", "another key", func(b *book) {
			b.remove(1, "eu-1", "j")
			b.readLoad(5, "eu-2", "k", 0.9)
		}},
		{"", "another region", func(b *book) {
			b.remove(1, "eu-1", "k")
			b.readLoad(1.2, "us-2", "k", 0.9)
		}},
		{"2 ", "another region that has confirmed", func(b *book) {
			b.remove(1, "eu-1", "k").Confirmed = []string{"eu", "us"}
			b.readLoad(5, "us-2", "k", 0.9)
		}},
		{"", "a write that the owner alone has", func(b *book) {
			b.remove(1, "eu-1", "k").Confirmed = nil
			b.readLoad(5, "eu-2", "k", 0.9)
		}},
		{"", "a write that is not confirmed", func(b *book) {
			w := b.remove(1, "eu-1", "k")
			w.Outcome, w.Confirmed = Unconfirmed, nil
			b.readLoad(5, "eu-2", "k", 0.9)
		}},
		{"", "loaded while the write was in progress", func(b *book) {
			b.remove(1, "eu-1", "k")
			b.readLoad(5, "eu-2", "k", 1.05)
		}},

		{"3 read", "an older Set", func(b *book) {
			s := b.set(1, "eu-1", "k")
			b.set(2, "eu-2", "k")
			b.read(3, "eu-3", s)
		}},
		{"3 read", "a Set that was removed", func(b *book) {
			s := b.set(1, "eu-1", "k")
			b.remove(2, "eu-2", "k")
			b.read(3, "eu-1", s)
		}},
		{"3 read", "a Set that was cleared", func(b *book) {
			s := b.set(1, "eu-1", "k")
			b.clear(2, "eu-2")
			b.read(3, "eu-1", s)
		}},
		{"", "a Set at the same time and a higher generation", func(b *book) {
			s := b.set(1, "us-1", "k")
			b.set(1.05, "eu-2", "k").Generation = s.Generation - 1
			b.read(3, "eu-3", s)
		}},
		{"", "two at the same generation: what decides is not known here", func(b *book) {
			s := b.set(1, "us-1", "k")
			b.set(1.05, "eu-2", "k").Generation = s.Generation
			b.read(3, "eu-3", s)
		}},
		{"3 order", "a later Set with a lower generation", func(b *book) {
			s := b.set(1, "eu-1", "k")
			b.set(2, "eu-2", "k").Generation = s.Generation - 1
			b.read(3, "eu-3", s)
		}},

		// Excuses.
		{"", "a node cut off during the write, until it has caught up", func(b *book) {
			b.fault(Cut, "eu-1", "eu-2", 0, 10)
			b.remove(5, "eu-1", "k")
			b.readLoad(6, "eu-2", "k", 0).Unconfirmed = true
			b.readLoad(15, "eu-2", "k", 0).Unconfirmed = true
		}},
		{"2 ", "a node cut off that does not say so", func(b *book) {
			b.fault(Cut, "eu-1", "eu-2", 0, 10)
			b.remove(5, "eu-1", "k")
			b.readLoad(6, "eu-2", "k", 0)
		}},
		{"2 ", "a node cut off that has had time", func(b *book) {
			b.fault(Cut, "eu-1", "eu-2", 0, 10)
			b.remove(5, "eu-1", "k")
			b.readLoad(17, "eu-2", "k", 0)
		}},
		{"2 ", "a node cut off that has had time, and is cut off again", func(b *book) {
			b.fault(Cut, "eu-1", "eu-2", 0, 10)
			b.remove(5, "eu-1", "k")
			b.fault(Cut, "eu-1", "eu-2", 20, 30)
			b.readLoad(25, "eu-2", "k", 0)
		}},
		{"2 ", "a node cut off after it was told", func(b *book) {
			b.remove(5, "eu-1", "k")
			b.fault(Cut, "eu-1", "eu-2", 5.2, 30)
			b.readLoad(6, "eu-2", "k", 0)
			b.readLoad(25, "eu-2", "k", 0)
		}},
		{"2 ", "a node on the writer's side of a cut", func(b *book) {
			b.fault(Cut, "eu-1", "eu-3", 0, 30)
			b.fault(Cut, "eu-2", "eu-3", 0, 30)
			b.remove(15, "eu-1", "k")
			b.readLoad(16, "eu-2", "k", 0)
		}},
		{"", "a node cut off from one that may own the key", func(b *book) {
			b.fault(Cut, "eu-2", "eu-3", 0, 30)
			b.remove(15, "eu-1", "k")
			b.readLoad(16, "eu-2", "k", 0).Unconfirmed = true
		}},
		{"2 ", "the writer's own node is cut off", func(b *book) {
			b.fault(Cut, "eu-1", "eu-3", 0, 30)
			b.fault(Cut, "eu-1", "eu-2", 0, 30)
			b.remove(15, "eu-1", "k")
			b.readLoad(16, "eu-1", "k", 0)
		}},
		{"2 ", "a node that has had time since the write, and is cut off again", func(b *book) {
			b.fault(Cut, "eu-1", "eu-2", 0, 4)
			b.remove(5, "eu-1", "k")
			b.fault(Cut, "eu-1", "eu-2", 20, 30)
			b.readLoad(25, "eu-2", "k", 0)
		}},
		{"2 ", "a node in contact long enough before the read", func(b *book) {
			b.fault(Cut, "eu-1", "eu-2", 0, 0.1)
			b.remove(5, "eu-1", "k")
			b.readLoad(6.5, "eu-2", "k", 0)
		}},
		{"", "the writer is frozen", func(b *book) {
			b.fault(Frozen, "eu-1", "", 0, 30)
			b.remove(15, "eu-1", "k")
			b.readLoad(16, "eu-2", "k", 0)
		}},
		{"", "a frozen node", func(b *book) {
			b.fault(Frozen, "eu-2", "", 0, 10)
			b.remove(5, "eu-1", "k")
			b.readLoad(10.5, "eu-2", "k", 0).Unconfirmed = true
		}},
		{"2 ", "a frozen node that does not say so", func(b *book) {
			b.fault(Frozen, "eu-2", "", 0, 10)
			b.remove(5, "eu-1", "k")
			b.readLoad(10.5, "eu-2", "k", 0)
		}},
		{"2 ", "another node than the frozen one", func(b *book) {
			b.fault(Frozen, "eu-3", "", 0, 10)
			b.remove(5, "eu-1", "k")
			b.readLoad(5.2, "eu-2", "k", 0)
		}},
		{"2 ", "another node than the one that has crashed", func(b *book) {
			b.fault(Down, "eu-3", "", 4.9, 10)
			b.remove(5, "eu-1", "k")
			b.readLoad(5.2, "eu-2", "k", 0)
			b.readLoad(10.2, "eu-2", "k", 0)
		}},
		{"2 ", "a writer that has just been started", func(b *book) {
			b.fault(Down, "eu-1", "", 1, 4.9)
			b.remove(5, "eu-1", "k")
			b.readLoad(5.2, "eu-2", "k", 0)
		}},
		{"", "a node that has just been started", func(b *book) {
			b.remove(5, "eu-1", "k")
			b.fault(Down, "eu-2", "", 6, 7)
			b.readLoad(8, "eu-2", "k", 0).Unconfirmed = true
		}},
		{"2 ", "a node that was started a while ago", func(b *book) {
			b.remove(5, "eu-1", "k")
			b.fault(Down, "eu-2", "", 6, 7)
			b.readLoad(14, "eu-2", "k", 0)
		}},
		{"", "a node started without a directory", func(b *book) {
			b.fault(Directory, "", "", 3, 20)
			b.fault(Down, "eu-1", "", 1, 4)
			b.remove(15, "eu-1", "k")
			b.readLoad(16, "eu-2", "k", 0)
		}},
		{"", "a write by a node cut off is not known to others before it is seen", func(b *book) {
			b.fault(Cut, "eu-1", "eu-2", 0, 10)
			b.fault(Cut, "eu-1", "eu-3", 0, 10)
			first := b.set(5, "eu-1", "k")
			first.Unconfirmed = true
			b.set(6, "eu-2", "k").Generation = first.Generation - 1
		}},
		{"4 after", "a read after a write elsewhere", func(b *book) {
			w := b.remove(5, "us-1", "k")
			b.readLoad(5.05, "eu-1", "k", 4).After = w
		}},
		{"", "a read that need not be after a write elsewhere", func(b *book) {
			b.remove(5, "us-1", "k")
			b.readLoad(5.05, "eu-1", "k", 4)
		}},

		{"4 ", "a load older than a write elsewhere", func(b *book) {
			b.remove(990, "us-1", "k")
			b.readLoad(1001, "eu-1", "k", 989)
		}},
		{"4 ", "a Set lower than a write elsewhere", func(b *book) {
			s := b.set(988, "eu-1", "k")
			b.set(990, "us-1", "k")
			b.read(1001, "eu-1", s)
		}},
		{"4 ", "a Clear elsewhere", func(b *book) {
			s := b.set(988, "eu-1", "k")
			b.clear(990, "us-1")
			b.read(1001, "eu-1", s)
		}},
		{"4 ", "a node that was cut off", func(b *book) {
			b.fault(Cut, "eu-1", "eu-2", 900, 980)
			b.remove(970, "eu-1", "k")
			b.readLoad(1001, "us-2", "k", 960)
		}},

		{"5 ", "two values", func(b *book) {
			s := b.set(1088, "eu-1", "k")
			u := b.set(1088.05, "us-1", "k")
			s.Outcome, u.Outcome = Unconfirmed, Uncertain
			u.Generation = 0
			b.read(1101, "eu-1", s)
			b.read(1101, "us-1", u)
		}},
		{"5 ", "a value and what was loaded before", func(b *book) {
			s := b.set(1088, "eu-1", "k")
			s.Outcome = Unconfirmed
			b.read(1101, "eu-1", s)
			b.readLoad(1101, "us-1", "k", 1087)
		}},
		{"", "a value and what was loaded since", func(b *book) {
			s := b.set(1088, "eu-1", "k")
			s.Outcome = Unconfirmed
			b.read(1101, "eu-1", s)
			b.readLoad(1101, "us-1", "k", 1090)
		}},

		{"", "counters", func(b *book) {
			b.increment(1, "eu-1", 1)
			b.increment(1.05, "us-1", 2)
			b.count(2, "eu-1", 2)
			b.count(2, "us-1", 1) // it is in transit to there
			lost := b.increment(3, "us-1", 0)
			lost.Outcome = Uncertain
			b.count(4, "eu-1", 2)
			b.count(1001, "eu-1", 3)
			b.count(1001, "us-1", 0) // it was loaded again
			failed := b.increment(1002, "us-1", 0)
			failed.Outcome = Failed
		}},
		{"update", "counted twice", func(b *book) {
			b.increment(1, "eu-1", 1)
			b.count(2, "eu-1", 2)
		}},
		{"update", "an Update was lost", func(b *book) {
			b.increment(1, "us-1", 1)
			b.count(1001, "eu-1", 0)
		}},
		{"update", "not seen at home", func(b *book) {
			b.increment(1, "eu-1", 1)
			b.count(2, "eu-2", 0)
		}},
		{"update", "two Increments return the same", func(b *book) {
			b.increment(1, "eu-1", 1)
			b.increment(1, "eu-2", 1)
		}},
		{"update", "not in the order of the calls", func(b *book) {
			b.increment(1, "eu-1", 2)
			b.increment(2, "eu-2", 1)
		}},
	})
}

func TestCoverage(t *testing.T) {
	b := newBook()
	b.readLoad(0, "eu-1", "k", 0) // no write before it
	b.fault(Cut, "eu-1", "eu-2", 1, 10)
	b.remove(5, "eu-1", "k")
	b.readLoad(6, "eu-1", "k", 5.5)
	b.readLoad(6, "eu-2", "k", 5.5).Unconfirmed = true
	b.readLoad(6, "us-1", "k", 5.5)
	b.readLoad(20, "eu-2", "k", 5.5)
	require.Equal(t, Tally{Checked: 2, Excused: 1}, b.h.Coverage()[Writes])
}

func TestACounterMayBeLost(t *testing.T) {
	b := newBook()
	b.fault(Down, "eu-1", "", 2, 3)
	b.fault(Down, "eu-2", "", 4, 5)
	b.increment(1, "us-1", 1)
	b.count(1001, "eu-1", 0)
	require.Empty(t, b.h.Check())
	b.count(1001, "eu-1", 2)
	require.Len(t, b.h.Check(), 1, "but it is never higher than was counted")
}

func TestScenariosFollowFromTheSeed(t *testing.T) {
	require.Equal(t, ConfigOf(7, ""), ConfigOf(7, ""))
	require.NotEqual(t, ConfigOf(7, ""), ConfigOf(8, ""))
}
