package lease

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

const length = time.Second

// table returns a table with a view, in a bubble, of a process that started long ago.
func table(view uint64) *Table {
	t := New(Config{
		Length: length, Grace: 10 * time.Second, Retry: 2 * time.Second,
		Started: time.Now().Add(-time.Hour), Clock: expiry.NewClock(time.Now, time.Millisecond),
	})
	t.SetView(view)
	return t
}

// pinged has a node ping a table, and returns the lease that it is granted.
func (t *Table) pinged(from string, view uint64) time.Duration {
	a, _ := t.Pinged(from, 1, view)
	return a.Lease
}

func TestALeaseIsGrantedToTheSameView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := table(7)
		require.Zero(t, table.pinged("a", 8), "another view")
		require.Zero(t, table.pinged("b", 7), "a has another view")
		time.Sleep(2*length + 1)
		require.Equal(t, length, table.pinged("b", 7), "a's view is forgotten")
		require.Equal(t, length, table.pinged("a", 7))
		require.Zero(t, table.pinged("c", 0), "it has no view")
		require.Zero(t, table.pinged("b", 7), "c has no view, which is another one")
	})
}

func TestANodeWithoutAViewGrantsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		require.Zero(t, table(0).pinged("a", 7))
		require.Zero(t, table(0).pinged("a", 0))
	})
}

func TestWhatWasGrantedUnderAnotherViewRunsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := table(7)
		require.Equal(t, length, table.pinged("a", 7))
		granted := time.Now()
		time.Sleep(length / 4)
		table.SetView(8)
		require.Equal(t, granted.Add(length), table.OwnEnd(8))
		require.Zero(t, table.OwnEnd(7))
		a, ok := table.Pinged("b", 1, 8)
		require.True(t, ok)
		require.Equal(t, Answer{Others: length * 3 / 4}, a, "a's last ping had the old view")
		require.Equal(t, length, table.pinged("a", 8))
		require.Zero(t, table.OwnEnd(8), "a is in the view")
	})
}

func TestPingsOfAnOlderConnectionDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := table(2)
		_, ok := table.Pinged("a", 1, 1)
		require.True(t, ok)
		a, ok := table.Pinged("a", 2, 2)
		require.True(t, ok)
		require.Equal(t, length, a.Lease)
		_, ok = table.Pinged("a", 1, 1)
		require.False(t, ok)
		require.False(t, table.OtherViews(2))
		_, ok = table.Pinged("a", 1, gone)
		require.False(t, ok)
		require.True(t, table.Hears("a"))
	})
}

func TestGuestsAndNodesThatLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := table(7)
		require.Equal(t, length, table.pinged("a", 7))
		require.Zero(t, table.pinged("a", Guest))
		require.True(t, table.HearsGuest("a"))
		require.Zero(t, table.OwnEnd(8), "it uses no lease")
		require.Equal(t, length, table.pinged("b", 7), "its view is in nobody's way")
		require.Zero(t, table.UnknownEnd(func(id string) bool { return id == "b" }), "nor does anybody wait for it")
		require.Zero(t, table.pinged("b", gone))
		require.False(t, table.Hears("b"), "forgotten at once")
		require.Zero(t, table.OwnEnd(8))
		table.SetView(Guest)
		require.Zero(t, table.pinged("c", Guest), "a guest grants nothing")
	})
}

// A process that has ended keeps nobody from granting leases. The lease that it was granted runs on.
func TestANodeWhoseProcessHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := table(7)
		require.Equal(t, length, table.pinged("a", 7))
		granted := time.Now()
		table.SetView(8)
		require.Zero(t, table.pinged("b", 8), "a has another view")
		table.Ended("a")
		table.Ended("nobody")
		require.Equal(t, length, table.pinged("b", 8))
		require.Equal(t, granted.Add(length), table.OwnEnd(8))
		require.Zero(t, table.pinged("a", 7), "it is another process, or the same one after all")
		require.Zero(t, table.pinged("b", 8))
	})
}

// An earlier process under the same ID may have granted leases under any view.
func TestAProcessThatHasJustStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := New(Config{Length: length, Clock: expiry.NewClock(time.Now, time.Millisecond)})
		table.SetView(7)
		require.Equal(t, time.Now().Add(length), table.OwnEnd(7))
		a, _ := table.Pinged("a", 1, 7)
		require.Equal(t, Answer{Lease: length, Others: length}, a)
		time.Sleep(length)
		require.Zero(t, table.OwnEnd(7))
	})
}

// What unlisted nodes make a node remember is bounded.
func TestManyRefusedNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := table(7)
		for i := range 3 * maxUnknown {
			table.Refused(string(rune(i)))
		}
		require.LessOrEqual(t, len(table.grants.unknown), maxUnknown+1)
		nobody := func(string) bool { return false }
		require.Equal(t, 4*time.Second, time.Until(table.UnknownEnd(nobody)), "until it would try again")
		time.Sleep(4 * time.Second)
		require.Zero(t, table.UnknownEnd(nobody))
	})
}

// A node that has not been counted for the grace period is told so, sooner if it never was.
func TestStanding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := table(7)
		require.Equal(t, Unknown, table.Standing("a", true, true), "it is not there")
		after := func(d time.Duration, counts, known bool) Standing {
			for range d / (length / 4) {
				time.Sleep(length / 4)
				table.pinged("a", 7)
			}
			return table.Standing("a", counts, known)
		}
		require.Equal(t, Unknown, after(time.Minute, false, false))
		require.Equal(t, Unknown, after(length, false, true))
		require.Equal(t, Uncounted, after(2*length, false, true), "never was")
		require.Equal(t, Counted, after(length, true, true))
		require.Equal(t, Unknown, after(length, false, true))
		require.Equal(t, Unknown, after(10*time.Second-length, false, true))
		require.Equal(t, Uncounted, after(length, false, true))
		require.Equal(t, Unknown, after(time.Minute, false, false), "it can no longer tell")
		require.Equal(t, Unknown, after(length, false, true), "the time begins anew")
	})
}
