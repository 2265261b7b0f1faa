package engine

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/lease"
	"github.com/geocache/geocache/internal/store"
)

// facts are what is to be known of an entry.
type facts struct {
	owned, foreign bool // held as an owner; of a key that this node does not own now
	absent         bool
	holdsLease     bool
	age            string // "alive", "revalidating", "stale" or "dead"
	write          string // what came after it: "", "key", "group" or "scope"
}

// TestFreshness holds every use of an entry against every combination of facts.
func TestFreshness(t *testing.T) {
	uses := map[string]func(f *freshness, e *store.Entry) bool{
		"serves": func(f *freshness, e *store.Entry) bool { return f.serves(e, f.clock.Instant()) },
		"hit":    func(f *freshness, e *store.Entry) bool { return f.servesHit(e) },
		"as owner": func(f *freshness, e *store.Entry) bool {
			return f.servesAsOwner(e, f.floors.Floor("ada"), f.clock.Instant())
		},
		"stale": func(f *freshness, e *store.Entry) bool {
			return f.servesStale(e, f.floors.Floor("ada"), f.clock.Instant())
		},
		"revalidating": func(f *freshness, e *store.Entry) bool {
			return f.servesRevalidating(e, f.floors.Floor("ada"), f.clock.Instant())
		},
		"passes on": func(f *freshness, e *store.Entry) bool { return f.passesOn(e, f.clock.Instant()) },
	}
	may := func(use string, f facts) bool {
		superseded := f.write != ""
		switch use {
		case "serves", "hit": // it leaves the key's own floor to those who raise it
			return f.age == "alive" && (!superseded || f.write == "key") && f.holdsLease
		case "as owner":
			return f.age == "alive" && !superseded && (f.owned || f.holdsLease)
		case "stale":
			return f.age != "dead" && !superseded && !f.absent && (!f.foreign || f.holdsLease)
		case "revalidating":
			return f.age == "revalidating" && !superseded && !f.absent && f.owned && !f.foreign
		}
		return f.age == "alive" && !superseded && !f.absent && f.owned && !f.foreign // passes on
	}
	ages := map[string]time.Duration{"alive": 0, "revalidating": time.Second, "stale": 2 * time.Second, "dead": 3 * time.Second}
	bools := []bool{false, true}
	synctest.Test(t, func(t *testing.T) {
		for age, past := range ages {
			for _, write := range []string{"", "key", "group", "scope"} {
				for n := range 16 {
					f := facts{bools[n&1], bools[n>>1&1], bools[n>>2&1], bools[n>>3&1], age, write}
					if !f.owned && !f.foreign {
						continue // a copy is always of a key of another node
					}
					fresh, e := fresh(f, past)
					for use, is := range uses {
						require.Equal(t, may(use, f), is(fresh, e), "%s: %+v", use, f)
					}
				}
			}
		}
	})
}

// fresh returns a freshness and an entry that the facts are true of; its life ended past ago, or has not.
func fresh(f facts, past time.Duration) (*freshness, *store.Entry) {
	clock := expiry.NewClock(time.Now, time.Millisecond)
	time.Sleep(time.Minute)
	coarse := &coarseClock{exact: clock}
	coarse.now.Store(noCoarse)
	fresh := &freshness{floors: expiry.NewFloors(10), clock: clock, coarse: coarse, maxDrift: time.Millisecond, staleness: 3 * time.Second,
		revalidate: 2 * time.Second, leases: lease.New(lease.Config{Length: time.Minute, Clock: clock})}
	if f.holdsLease {
		view := lease.View{Hash: 7, Others: []string{"other"}}
		fresh.leases.SetView(view.Hash)
		fresh.leases.Register("other").Ponged(fresh.leases.Ping(), lease.Answer{Lease: time.Minute})
		fresh.leases.Renew(view)
		fresh.leases.FinishResume(fresh.leases.BeginResume(), true)
		fresh.caughtUp.Store(true)
	}
	item := store.Item{Key: "ada", Stamp: expiry.Loaded(clock.Now()), Born: clock.Instant().Add(-10 * time.Second), Absent: f.absent}
	item.Expires = clock.Instant().Add(time.Second)
	if past > 0 {
		item.Expires = clock.Instant().Add(-past)
	}
	item.Class = store.Copy
	if f.owned {
		item.Class = store.Owned
	}
	e := store.New(store.Config{MaxBytes: 1 << 20}).NewEntry(item)
	e.SetLeased(f.foreign)
	e.SetSeen(fresh.floors.ScopeSeq())
	at := clock.Now()
	switch f.write {
	case "key":
		fresh.floors.Raise(expiry.Key("ada"), expiry.Removal(at), clock.Elapsed(), 0)
	case "group":
		fresh.floors.RaiseGroup(at, clock.Elapsed())
	case "scope":
		fresh.floors.Raise(expiry.Prefix("a"), expiry.Removal(at), clock.Elapsed(), 0)
	}
	return fresh, e
}

// What may be older than a write is admitted only if it is younger than the time for which the write has
// been known, and a loaded value whose generation is high enough is beyond doubt.
func TestFreshnessOfWhatMayBeOlder(t *testing.T) {
	const drift = time.Millisecond
	for _, c := range []struct {
		ahead, age time.Duration // the generation beyond the write's; how old it is when the write is 10 ms old
		set, want  bool
	}{
		{ahead: drift, age: 9 * time.Millisecond, want: true},
		{ahead: drift, age: 10 * time.Millisecond, want: false},
		{ahead: 2 * drift, age: 10 * time.Millisecond, want: false},
		{ahead: 2*drift + time.Microsecond, age: time.Hour, want: true},
		{ahead: drift, age: time.Hour, set: true, want: true},
		{ahead: -drift, age: 0, want: false},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fresh, _ := fresh(facts{}, 0)
				write := fresh.clock.Now()
				fresh.floors.Raise(expiry.Key("ada"), expiry.Removal(write), fresh.clock.Elapsed(), 0)
				time.Sleep(10 * time.Millisecond)
				item := store.Item{Key: "ada", Stamp: expiry.Loaded(write.Add(c.ahead)), Born: fresh.clock.Instant().Add(-c.age)}
				if c.set {
					item.Stamp.Origin = 7
				}
				e := store.New(store.Config{MaxBytes: 1 << 20}).NewEntry(item)
				require.Equal(t, c.want, fresh.admissible(e, provenance{exact: true}, anySeq))
				require.EqualValues(t, !c.want && c.ahead > 0, fresh.rejected.Load() > 0)
			})
		})
	}
}
