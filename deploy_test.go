package geocache_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/internal/testcluster"
)

// A node that is restarted holds up nobody's writes for longer than two leases, whatever it then
// sees of the others.
func TestADeployHoldsUpNoWrites(t *testing.T) {
	for name, fault := range map[string]func(c *testcluster.Cluster){
		"rolling":      func(*testcluster.Cluster) {},
		"cannot call":  func(c *testcluster.Cluster) { c.Net.CutOneWay("eu-1", "eu-3") },
		"is not heard": func(c *testcluster.Cluster) { c.Net.CutOneWay("eu-3", "eu-1") },
		"is cut off":   func(c *testcluster.Cluster) { c.Net.Cut("eu-1", "eu-3") },
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{Nodes: 3}, func(c *testcluster.Cluster) {
				time.Sleep(standing)
				for _, restarted := range c.Nodes() {
					done := make(chan struct{})
					var writing sync.WaitGroup
					for i := range 6 {
						for _, n := range c.Nodes() {
							if n == restarted {
								continue
							}
							writing.Go(func() {
								for {
									select {
									case <-done:
										return
									case <-time.After(100 * time.Millisecond):
									}
									begun := time.Now()
									_, err := n.Set(fmt.Sprint(i), "written")
									require.NoError(t, err)
									require.LessOrEqual(t, time.Since(begun), 2*time.Second, "of %d at %s", i, n.Name)
								}
							})
						}
					}
					restarted.Close()
					time.Sleep(500 * time.Millisecond)
					fault(c)
					restarted.Restart(0)
					time.Sleep(5 * time.Second)
					close(done)
					writing.Wait()
				}
			})
		})
	}
}
