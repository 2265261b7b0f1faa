package geocache_test

import (
	"context"
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
