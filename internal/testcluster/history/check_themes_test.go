package history

import (
	"fmt"
	"testing"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/testcluster"
)

// update adds an Update with one call of its function, which ends when the Update does. The Update
// takes half a second.
func (b *book) update(at float64, node string, base *Op) *Op {
	o := b.op(at, node, Update, base.Key)
	o.Begin = seconds(at - 0.5)
	o.Value = testcluster.Value{Key: o.Key, Begun: b.h.Start.Add(o.Begin), By: fmt.Sprint("update ", o.ID)}
	o.Generation, o.Life, o.Confirmed = expiry.At(b.h.Start.Add(o.End)), b.h.Config.TTL, []string{o.Region}
	o.Attempts = []Attempt{{Had: true, Base: base.Value, By: o.Value.By, Begin: o.Begin, End: o.End - 1}}
	return o
}

// load adds a load that succeeds.
func (b *book) load(region, key string, from, to float64) *testcluster.Load {
	begun, ended := b.h.Start.Add(seconds(from)), b.h.Start.Add(seconds(to))
	load := testcluster.Load{Key: key, Region: region, Begun: begun, Ended: ended, OK: true}
	b.h.Loads = append(b.h.Loads, load)
	return &b.h.Loads[len(b.h.Loads)-1]
}

// removedThenPut has the origin remove key after one second, and get it back after five.
func (b *book) removedThenPut(key string) {
	at := func(s float64) time.Time { return b.h.Start.Add(seconds(s)) }
	b.h.Truth = map[string][]testcluster.Version{key: {{By: "", From: at(1)}, {By: "x", From: at(5)}}}
}

// setUp makes the history one that Register checks: one region, long lives.
func (b *book) setUp(s *Op) *Op {
	b.h.Config.Regions, b.h.Config.TTL = []string{"eu"}, time.Hour
	s.Life = time.Hour
	return s
}

func TestChecksOfConfirmedRegions(t *testing.T) {
	runChecks(t, []checkTest{
		{"3 read", "a region in the receipt does not have the write", func(b *book) {
			s := b.set(1, "us-1", "k")
			b.set(2, "eu-1", "k").Confirmed = []string{"eu", "us"}
			b.read(3, "us-2", s)
		}},
		{"", "a region that is not in the receipt does not have the write", func(b *book) {
			s := b.set(1, "us-1", "k")
			b.set(2, "eu-1", "k").Ack = geocache.AckWorld
			b.read(3, "us-2", s)
		}},
		{"2 ", "a region is in the receipt although not all have the write", func(b *book) {
			w := b.remove(2, "eu-1", "k")
			w.Outcome, w.Confirmed = Unconfirmed, []string{"us"}
			b.readLoad(3, "us-2", "k", 0)
		}},
	})
}

func TestCausalityChecks(t *testing.T) {
	runChecks(t, []checkTest{
		{"5 order", "a value comes back", func(b *book) {
			s := b.set(1, "eu-1", "k")
			// it was retried
			s.End, s.Ack, s.Generation = seconds(5), geocache.AckWorld, expiry.At(b.h.Start.Add(seconds(5)))
			b.read(1.2, "eu-2", s)
			b.set(2, "eu-2", "k")
			b.read(6, "eu-3", s)
		}},
		{"", "a value appears that nobody had seen", func(b *book) {
			s := b.set(1, "eu-1", "k")
			s.End, s.Ack, s.Generation = seconds(5), geocache.AckWorld, expiry.At(b.h.Start.Add(seconds(5)))
			b.set(2, "eu-2", "k")
			b.read(6, "eu-3", s)
		}},
		{"", "a value appears that was seen after the write had begun", func(b *book) {
			s := b.set(1, "eu-1", "k")
			s.End, s.Ack, s.Generation = seconds(5), geocache.AckWorld, expiry.At(b.h.Start.Add(seconds(5)))
			w := b.set(2, "eu-2", "k")
			b.read(2.05, "eu-2", s)
			w.End = seconds(2.2)
			b.read(6, "eu-3", s)
		}},
		{"", "a value comes that was seen in another region, where the writer did not see it", func(b *book) {
			s := b.set(1, "us-1", "k")
			s.End, s.Ack, s.Generation = seconds(5), geocache.AckWorld, expiry.At(b.h.Start.Add(seconds(5)))
			b.read(1.2, "us-1", s)
			b.set(2, "eu-2", "k")
			b.read(6, "eu-3", s)
		}},
		{"", "the node that saw it was restarted before it wrote", func(b *book) {
			s := b.set(1, "eu-1", "k")
			s.End, s.Ack, s.Generation = seconds(5), geocache.AckWorld, expiry.At(b.h.Start.Add(seconds(5)))
			b.read(1.2, "eu-2", s)
			b.fault(Down, "eu-2", "", 1.4, 1.6)
			b.set(2, "eu-2", "k")
			b.read(6, "eu-3", s)
		}},
	})
}

func TestAtomicityChecks(t *testing.T) {
	runChecks(t, []checkTest{
		{"update: an Update", "of what was removed meanwhile", func(b *book) {
			s := b.set(1, "eu-1", "k")
			b.remove(3.8, "eu-2", "k")
			b.update(4, "eu-1", s)
		}},
		{"update: an Update", "of what was removed before", func(b *book) {
			s := b.set(1, "eu-1", "k")
			b.remove(2, "eu-2", "k")
			b.update(4, "eu-1", s)
		}},
		{"", "of what is removed at the same time", func(b *book) {
			s := b.set(1, "eu-1", "k")
			b.remove(4.05, "eu-2", "k")
			b.update(4, "eu-1", s)
		}},
		{"", "of what was removed elsewhere", func(b *book) {
			s := b.set(1, "eu-1", "k")
			b.remove(3.8, "us-2", "k")
			b.update(4, "eu-1", s)
		}},
		{"", "of what was set since the removal", func(b *book) {
			b.remove(1, "eu-2", "k")
			b.update(4, "eu-1", b.set(2, "eu-1", "k"))
		}},
		{"", "while the home was divided", func(b *book) {
			s := b.set(1, "eu-1", "k")
			b.fault(Cut, "eu-1", "eu-2", 3, 3.5)
			b.remove(3.8, "eu-2", "k")
			b.update(4, "eu-1", s)
		}},
		{"", "on another one that was executed together with it", func(b *book) {
			first := b.update(4, "eu-1", b.set(2, "eu-1", "k"))
			second := b.update(4, "eu-1", first)
			second.Generation = first.Generation
			b.set(3, "eu-1", "k").Confirmed = nil // not known to be before the Updates
		}},
	})
}

func TestChecksOfLostWrites(t *testing.T) {
	runChecks(t, []checkTest{
		{"", "a region is lost with a write", func(b *book) {
			b.h.Config.TTL = time.Hour
			b.remove(5, "us-1", "k")
			b.fault(World, "eu", "us", 4, 20)
			b.fault(Down, "us-1", "", 6, 30)
			b.fault(Down, "us-2", "", 7, 30)
			b.readLoad(1001, "eu-1", "k", 4)
		}},
		{"4 ", "a region is lost after it had told others", func(b *book) {
			b.h.Config.TTL = time.Hour
			b.remove(5, "us-1", "k")
			b.fault(Down, "us-1", "", 15, 30)
			b.fault(Down, "us-2", "", 16, 30)
			b.readLoad(1001, "eu-1", "k", 4)
		}},
		{"4 ", "a region is lost node by node", func(b *book) {
			b.h.Config.TTL = time.Hour
			b.remove(5, "us-1", "k")
			b.fault(World, "eu", "us", 4, 60)
			b.fault(Down, "us-1", "", 6, 7)
			b.fault(Down, "us-2", "", 20, 30)
			b.readLoad(1001, "eu-1", "k", 4)
		}},
		{"", "a region is lost node by node, too fast", func(b *book) {
			b.h.Config.TTL = time.Hour
			b.remove(5, "us-1", "k")
			b.fault(World, "eu", "us", 4, 60)
			b.fault(Down, "us-1", "", 6, 7)
			b.fault(Down, "us-2", "", 8, 30)
			b.readLoad(1001, "eu-1", "k", 4)
		}},
	})
}

func TestChecksOfUnlistedNodes(t *testing.T) {
	runChecks(t, []checkTest{
		{"2 ", "a node that is not listed", func(b *book) {
			b.fault(Unlisted, "eu-2", "", 0, 30)
			b.remove(15, "eu-2", "k")
			b.readLoad(16, "eu-2", "k", 0)
		}},
		{"2 ", "another node than the one that is not listed", func(b *book) {
			b.fault(Unlisted, "eu-2", "", 0, 30)
			b.remove(15, "eu-1", "k")
			b.readLoad(16, "eu-3", "k", 0)
		}},
	})
}

func TestChecksOfCosts(t *testing.T) {
	runChecks(t, []checkTest{
		{"3 time", "a write takes a second for no reason", func(b *book) {
			b.set(1, "eu-1", "k").End = seconds(2)
		}},
		{"", "a write waits for a node that has died", func(b *book) {
			b.fault(Down, "eu-3", "", 1, 30)
			b.set(1, "eu-1", "k").End = seconds(3)
		}},
		{"3 time", "a write waits for long for a node that has died", func(b *book) {
			b.fault(Down, "eu-3", "", 1, 30)
			b.set(1, "eu-1", "k").End = seconds(6)
		}},
		{"", "a write waits for another region", func(b *book) {
			w := b.set(1, "eu-1", "k")
			w.Ack, w.End = geocache.AckWorld, seconds(6)
		}},
		{"6 one", "a value that lives is loaded again", func(b *book) {
			b.load("eu", "k", 1, 1.1)
			b.load("eu", "k", 40, 40.1)
		}},
		{"6 one", "a value is loaded twice at a time", func(b *book) {
			b.load("eu", "k", 1, 1.1)
			b.load("eu", "k", 1.05, 1.2)
		}},
		{"", "a value is loaded when it has expired, and elsewhere, and when it was written", func(b *book) {
			b.load("eu", "k", 1, 1.1)
			b.load("us", "k", 30, 30.1)
			b.load("eu", "k", 58, 58.1)
			b.remove(60, "eu-1", "k")
			b.load("eu", "k", 61, 61.1)
		}},
		{"", "a value was loaded from a replica that may lack a write", func(b *book) {
			b.h.Config.Home, b.h.Config.ReplicaLag = "eu", 2*time.Second
			b.remove(10, "eu-1", "k")
			b.load("us", "k", 13, 13.1)
			b.load("us", "k", 20, 20.1)
		}},
		{"6 one", "a value was loaded from the origin that has every write", func(b *book) {
			b.h.Config.Home, b.h.Config.ReplicaLag = "us", 2*time.Second
			b.remove(10, "eu-1", "k")
			b.load("us", "k", 13, 13.1)
			b.load("us", "k", 20, 20.1)
		}},
		{"", "a value is loaded by a new owner", func(b *book) {
			b.load("eu", "k", 1, 1.1)
			b.fault(Down, "eu-1", "", 20, 30)
			b.load("eu", "k", 40, 40.1)
		}},
		{"", "a value is loaded for a region whose own load has failed", func(b *book) {
			b.load("eu", "k", 1, 1.1)
			b.load("us", "k", 1.5, 2).OK = false
			b.load("eu", "k", 2.1, 2.2)
		}},
		{"7 ", "a read fails for no reason", func(b *book) {
			b.fault(Down, "eu-2", "", 0.5, 30)
			r := b.op(1, "eu-1", Get, "k")
			r.Outcome, r.Limit = Failed, 10*time.Second
		}},
		{"", "reads fail with the origin, with little time, or paused", func(b *book) {
			b.load("eu", "k", 1, 2).OK = false
			r := b.op(1.5, "eu-1", Get, "k")
			r.Outcome, r.Limit = Failed, 10*time.Second
			r = b.op(5, "eu-1", Get, "k")
			r.Outcome, r.Limit = Failed, 100*time.Millisecond
			b.fault(Frozen, "eu-2", "", 6, 30)
			r = b.op(7, "eu-2", Get, "k")
			r.Outcome, r.Limit = Failed, 10*time.Second
		}},
	})
}

func TestOriginChecks(t *testing.T) {
	runChecks(t, []checkTest{
		{"2 fencing: a read of", "an origin without the write is loaded after it", func(b *book) {
			b.remove(5, "eu-1", "k").Version = 2
			b.readLoad(6, "eu-2", "k", 5.5).Value.By = "load 1 in eu, version 1"
		}},
		{"", "an origin with the write is loaded after it", func(b *book) {
			b.remove(5, "eu-1", "k").Version = 2
			b.readLoad(6, "eu-2", "k", 5.5).Value.By = "load 1 in eu, version 3"
			b.readLoad(6, "us-2", "k", 5.5).Value.By = "load 1 in us, version 1" // us has not confirmed the write
		}},
		{"2 fencing: a read of", "absent, in a version before the write", func(b *book) {
			b.removedThenPut("k")
			b.remove(5, "eu-1", "k").Version = 2
			b.op(6, "eu-2", Get, "k").Outcome = NotFound
		}},
		{"2 fencing: a read of", "absent, long after it was put back", func(b *book) {
			b.removedThenPut("k")
			b.op(60, "eu-2", Get, "k").Outcome = NotFound
		}},
		{"", "absent, and so it was", func(b *book) {
			b.removedThenPut("k")
			b.op(4, "eu-2", Get, "k").Outcome = NotFound
		}},
	})
}

func TestRegisterChecks(t *testing.T) {
	runChecks(t, []checkTest{
		{"3 linear", "a value that was loaded over is back", func(b *book) {
			s := b.setUp(b.set(1, "eu-1", "k"))
			b.readLoad(2, "eu-2", "k", 1.5)
			b.read(3, "eu-3", s)
		}},
		{"", "a value that was removed is loaded", func(b *book) {
			s := b.setUp(b.set(1, "eu-1", "k"))
			b.read(2, "eu-3", s)
			b.remove(3, "eu-2", "k")
			b.readLoad(3.05, "eu-2", "k", 3.04)
			b.read(3.07, "eu-3", s) // during the removal
			b.readLoad(4, "eu-2", "k", 3.5)
		}},
	})
}

func TestCounterChecks(t *testing.T) {
	runChecks(t, []checkTest{
		{"update: several", "two Increments return the same, wherever the home is", func(b *book) {
			b.h.Config.StableHome, b.h.Config.Home = false, ""
			b.increment(1, "eu-1", 1)
			b.increment(1, "eu-2", 2)
			b.increment(1, "us-1", 2)
		}},
		{"", "two Increments return the same after the counter was lost", func(b *book) {
			b.h.Config.StableHome = false
			b.fault(Down, "eu-1", "", 2, 30)
			b.fault(Down, "eu-2", "", 2, 30)
			b.increment(1, "eu-3", 1)
			b.increment(1.2, "eu-3", 2)
			b.increment(3, "eu-3", 1)
			b.increment(4, "eu-3", 2)
		}},
		{"", "regions do not know of each other", func(b *book) {
			b.h.Config.StableHome, b.h.Config.Home = false, ""
			b.fault(Unaware, "eu", "us", 0, 20)
			b.increment(1, "eu-1", 1)
			b.increment(1, "us-1", 1)
			b.count(30, "eu-1", 1)
		}},
		{"update: counter", "a count from before a region joined is lost", func(b *book) {
			b.h.Config.StableHome, b.h.Config.Home = false, ""
			b.increment(1, "eu-1", 1)
			b.fault(Unaware, "eu", "us", 10, 20)
			b.increment(15, "us-1", 1)
		}},
	})
}
