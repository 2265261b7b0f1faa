package geocache_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// A value that is dead by its tag is not what a Swap expects, though it is in memory yet and its stamp
// is the one that was read: else what has been removed lives on in what an Update has made of it.
func TestMechanismASwapOfAValueThatIsDeadByItsTag(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		owner := c.Node("eu-1")
		for _, n := range c.Nodes() {
			key := c.KeyOf(owner.Name)
			_, err := owner.Set(key, "removed", geocache.WithTags("red"))
			require.NoError(t, err)
			read, removed := make(chan struct{}), make(chan struct{})
			var updating sync.WaitGroup
			updating.Go(func() {
				var seen []string
				what, _, err := n.Update(key, func(was string, _ bool) (string, error) {
					if seen = append(seen, was); len(seen) == 1 {
						close(read)
						<-removed
					}
					return was + "updated", nil
				})
				require.NoError(t, err)
				require.Empty(t, seen[len(seen)-1], "by %s", n.Name)
				require.Equal(t, "updated", what)
			})
			<-read
			require.NoError(t, c.Node("eu-2").Group.RemoveTag(c.T.Context(), "red"))
			close(removed)
			updating.Wait()
			for _, reader := range c.Nodes() {
				require.Equal(t, "updated", text(t, reader, key), "by %s, at %s", n.Name, reader.Name)
			}
		}
	})
}
