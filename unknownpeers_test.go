package geocache_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// A node whose discovery tells it of nobody for longer than the grace period, while others see it and
// ping it, completes no writes by itself: those others would go on serving what is older.
func TestANodeThatIsNeverToldOfTheOthers(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Counters: true}, func(c *testcluster.Cluster) {
		lonely := c.Add("eu", geocache.WithDiscovery(blinkered{c.Directory, nil}), geocache.WithJoinWait(0))
		time.Sleep(2 * time.Minute)
		old := c.Node("eu-1")
		key := c.KeyOf(old.Name)
		old.MustGet(key)
		if _, err := lonely.Set(key, "written"); err == nil {
			require.Equal(t, "written", text(t, old, key))
		}
		ctx, cancel := context.WithTimeout(c.T.Context(), 5*time.Second)
		defer cancel()
		if _, err := geocache.Increment(ctx, lonely.Counters, key, 1); err == nil {
			n, err := old.Counters.Get(c.T.Context(), key)
			require.NoError(t, err)
			require.Equal(t, 1, n)
		}
	})
}

// A node that its keys' owner cannot reach reaches that one. It does not ask it for writes, which it
// would not be told of itself: what it owns may be what it removes.
func TestANodeThatTheOwnerCannotReach(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		c.Node("eu-3").Reject("eu-1")
		time.Sleep(standing)
		key := c.KeyOf("eu-1")
		for i := range 20 { // some of which are eu-3's to remove
			tag := fmt.Sprint("tag ", i)
			_, err := c.Node("eu-1").Set(key, "written", geocache.WithTags(tag))
			require.NoError(t, err)
			require.NoError(t, c.Node("eu-1").Group.RemoveTag(c.T.Context(), tag))
			require.NotEqual(t, "written", text(t, c.Node("eu-1"), key))
			require.NotEqual(t, "written", text(t, c.Node("eu-2"), key))
		}
	})
}
