package peers

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A guest has no say in what the others grant each other, and is granted nothing.
func TestGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, nodes := memoryRegion(t, nil, "a", "b", "c")
		for _, n := range nodes {
			n.SetView(7)
		}
		time.Sleep(time.Minute)
		require.Positive(t, nodes["c"].leased("a"))

		nodes["c"].SetView(Guest)
		synctest.Wait()
		require.True(t, nodes["a"].Peer("c").Guest(), "it says so at once")
		require.False(t, nodes["a"].Peer("b").Guest())
		nodes["a"].SetView(8)
		nodes["b"].SetView(8)
		synctest.Wait()
		require.False(t, nodes["a"].OwnLeasesEnd(8).After(time.Now().Add(time.Second)))
		time.Sleep(time.Minute)
		for range 100 {
			time.Sleep(10 * time.Millisecond)
			require.Positive(t, nodes["a"].leased("b"))
			require.Zero(t, nodes["c"].leased("a"))
			require.Zero(t, nodes["a"].leased("c"))
			require.False(t, nodes["a"].OtherViews(8))
			require.True(t, nodes["a"].StrangersEnd(func(id string) bool { return id == "b" }).IsZero())
		}

		nodes["c"].SetView(9)
		synctest.Wait()
		require.False(t, nodes["a"].Peer("c").Guest())
		require.True(t, nodes["a"].OtherViews(8))
		time.Sleep(time.Minute)
		require.Zero(t, nodes["a"].leased("b"), "it has a say again")
	})
}

// A lease that was granted before its holder became a guest is not waited for: it uses none.
func TestALeaseOfAGuestHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, nodes := memoryRegion(t, nil, "a", "b")
		for _, n := range nodes {
			n.SetView(7)
		}
		time.Sleep(time.Minute)
		nodes["a"].SetView(8)
		require.True(t, nodes["a"].OwnLeasesEnd(8).After(time.Now()))
		nodes["b"].SetView(Guest)
		synctest.Wait()
		require.False(t, nodes["a"].OwnLeasesEnd(8).After(time.Now()))
	})
}

// Who comes back uses none of the leases from before it was a guest: meanwhile the others did not wait for it.
func TestAGuestThatComesBackAtOnceHasNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, nodes := memoryRegion(t, nil, "a", "b")
		for _, n := range nodes {
			n.SetView(7)
		}
		time.Sleep(time.Minute)
		require.Positive(t, nodes["b"].leased("a"))
		nodes["a"].SetView(8) // and so grants none to the same view
		nodes["b"].SetView(Guest)
		nodes["b"].SetView(7)
		require.Zero(t, nodes["b"].leased("a"))
		nodes["a"].SetView(7)
		time.Sleep(time.Second)
		require.Positive(t, nodes["b"].leased("a"))
	})
}

// Who is not counted for the grace period is told so, sooner if it never has been.
func TestStanding(t *testing.T) {
	const grace = 10 * time.Second
	synctest.Test(t, func(t *testing.T) {
		var counts, known atomic.Bool
		_, nodes := memoryRegion(t, func(c *Config) {
			c.Grace = grace
			if c.ID == "a" {
				c.Counts = func(id string) (bool, bool) { return id == "b" && counts.Load(), known.Load() }
			}
		}, "a", "b")
		at := nodes["b"].Peer("a")
		standing := func(after time.Duration) Standing {
			time.Sleep(after)
			synctest.Wait()
			return at.Standing()
		}
		require.Equal(t, Unknown, standing(time.Minute), "it cannot tell")
		require.Equal(t, Unknown, nodes["a"].Peer("b").Standing())
		known.Store(true)
		require.Equal(t, Unknown, standing(time.Second))
		require.Equal(t, Uncounted, standing(2*time.Second), "never has")
		counts.Store(true)
		require.Equal(t, Counted, standing(time.Second))
		counts.Store(false)
		require.Equal(t, Unknown, standing(time.Second))
		known.Store(false)
		time.Sleep(time.Minute)
		known.Store(true)
		require.Equal(t, Unknown, standing(grace-time.Second), "the time counts in which it could tell")
		require.Equal(t, Uncounted, standing(2*time.Second))
		counts.Store(true)
		require.Equal(t, Counted, standing(time.Second))
	})
}
