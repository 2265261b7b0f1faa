package geocache_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// lagging is a configuration whose origins in other regions than eu lag by a minute,
// much longer than values live.
func lagging() testcluster.Config {
	return testcluster.Config{
		Regions: []string{"eu", "us"},
		TTL:     5 * time.Second,
		Group:   []geocache.GroupOption{geocache.WithHomeRegion("eu"), geocache.WithOriginLag(time.Minute), geocache.WithLoadTimeout(4 * time.Second)},
	}
}

func TestALaggingOriginIsNotAskedAfterAWrite(t *testing.T) {
	writes := map[string]func(n *testcluster.Node) error{
		"Set": func(n *testcluster.Node) error {
			_, err := n.Set("ada", "1", geocache.Ack(geocache.World))
			return err
		},
		"Remove": func(n *testcluster.Node) error { _, err := n.Remove("ada", geocache.Ack(geocache.World)); return err },
		"Clear":  func(n *testcluster.Node) error { _, err := n.Clear(geocache.Ack(geocache.World)); return err },
	}
	for name, write := range writes {
		for _, writer := range []string{"eu-1", "us-1"} {
			t.Run(name+" at "+writer, func(t *testing.T) {
				testcluster.Run(t, lagging(), func(c *testcluster.Cluster) {
					time.Sleep(standing)
					for _, n := range c.Nodes("us") {
						require.Equal(t, "load 1 in us", text(t, n, "ada"))
					}
					require.NoError(t, write(c.Node(writer)))
					before := c.Origin.Total("us")
					for range 11 {
						for _, n := range c.Nodes("us") {
							require.NotContains(t, text(t, n, "ada"), "in us", n.Name)
						}
						time.Sleep(testcluster.TTL / 12)
					}
					require.Equal(t, before, c.Origin.Total("us"))
					time.Sleep(testcluster.TTL / 2)
					for _, n := range c.Nodes("us") {
						require.Contains(t, text(t, n, "ada"), "in us", "the origin has it by now")
					}
				})
			})
		}
	}
}

func TestALaggingOriginWhileTheOtherIsCutOff(t *testing.T) {
	testcluster.Run(t, lagging(), func(c *testcluster.Cluster) {
		time.Sleep(standing)
		_, err := c.Node("eu-1").Remove("ada", geocache.Ack(geocache.World))
		require.NoError(t, err)
		c.Net.Cut("eu", "us")
		for _, n := range c.Nodes("us") {
			begun := time.Now()
			_, err := n.Get("ada")
			require.ErrorContains(t, err, "may not have that yet")
			require.Less(t, time.Since(begun), 6*time.Second)
			require.Contains(t, text(t, n, "bob"), "in us", "which has not been written")
		}
		require.Zero(t, c.Origin.Loads("ada"))
	})
}

// The region whose origin does not lag asks the others when that fails, and they must not ask
// theirs.
func TestALaggingOriginIsNotAskedForAnotherRegion(t *testing.T) {
	testcluster.Run(t, lagging(), func(c *testcluster.Cluster) {
		time.Sleep(standing)
		_, err := c.Node("eu-1").Remove("ada", geocache.Ack(geocache.World))
		require.NoError(t, err)
		c.Origin.Behave(testcluster.Failing(errDatabase), "eu")
		_, err = c.Node("eu-2").Get("ada")
		require.ErrorContains(t, err, "on strike")
		require.Zero(t, c.Origin.Total("us"))
	})
}
