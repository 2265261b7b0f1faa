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

// A new owner that gets no answer from those that owned a key before does not know that there is no
// value: in a group without a getter nothing else would bring it back.
func TestANewOwnerThatHearsNothingOfTheFormerOnes(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		group := func(n *testcluster.Node) *geocache.Group[int] {
			g, err := geocache.NewGroup[int](n.Cache, "votes", nil, geocache.WithTTL(time.Hour))
			require.NoError(t, err)
			return g
		}
		var old *geocache.Group[int]
		for _, n := range c.Nodes() {
			old = group(n)
		}
		time.Sleep(standing)
		for i := range 40 {
			require.NoError(t, old.Set(c.T.Context(), fmt.Sprint(i), 5))
		}
		owner := c.Add("eu")
		votes := group(owner)
		c.Settle()
		key := ""
		for i := 0; key == ""; i++ {
			if c.Owner("eu", fmt.Sprint(i)) == owner {
				key = fmt.Sprint(i)
			}
		}
		c.Net.Cut(owner.Name, "eu") // for less than a lease
		time.AfterFunc(400*time.Millisecond, c.Net.HealAll)
		ctx, cancel := context.WithTimeout(c.T.Context(), 5*time.Second)
		defer cancel()
		n, err := geocache.Increment(ctx, votes, key, 1)
		require.NoError(t, err)
		require.Equal(t, 6, n)
	})
}
