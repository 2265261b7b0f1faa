package geocache_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/internal/testcluster"
)

func TestKilledOwnerCausesNoReadErrors(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		readAll(c.Node("eu-2"), keys(300))
		c.Node("eu-1").Crash()
		slowest := readAll(c.Node("eu-2"), keys(600))
		require.Less(t, slowest, 100*time.Millisecond, "a killed process resets its connections")
	})
}

func TestVanishedOwnerDelaysReadersOnce(t *testing.T) {
	for name, vanish := range map[string]func(c *testcluster.Cluster){
		"machine gone":   func(c *testcluster.Cluster) { c.Net.Cut("eu-1", "eu"); c.Node("eu-1").Crash() },
		"process frozen": func(c *testcluster.Cluster) { c.Node("eu-1").Freeze() },
		"cut one way":    func(c *testcluster.Cluster) { c.Net.CutOneWay("eu-1", "eu") },
		"cut other way":  func(c *testcluster.Cluster) { c.Net.CutOneWay("eu", "eu-1") },
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
				readAll(c.Node("eu-2"), keys(100))
				vanish(c)
				fresh := keys(300)[100:]
				require.LessOrEqual(t, readAll(c.Node("eu-2"), fresh), detectionTime)
				require.Less(t, readAll(c.Node("eu-2"), keys(600)[300:]), 10*time.Millisecond,
					"by now it is known to be gone")
				require.Less(t, readAll(c.Node("eu-3"), fresh), 10*time.Millisecond)
			})
		})
	}
}

func TestFrozenOwnerReturns(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		key := c.KeyOf("eu-1")
		c.Node("eu-1").Freeze()
		c.Settle()
		require.NotEqual(t, "eu-1", c.Node("eu-2").Group.Locate(key)[0].Owner.ID)
		c.Node("eu-1").Thaw()
		c.Settle()
		require.Equal(t, "eu-1", c.Node("eu-2").Group.Locate(key)[0].Owner.ID)
		readAll(c.Node("eu-2"), keys(100))
	})
}

func TestRollingRestartDoesNotDelayReaders(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 5}, func(c *testcluster.Cluster) {
		// The origin takes its time, so that the cost of fills shows.
		c.Origin.Behave(testcluster.After(20 * time.Millisecond))
		reader := c.Node("eu-5")
		var reading sync.WaitGroup
		done := make(chan struct{})
		reading.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
				begun := time.Now()
				if _, err := reader.Get(fmt.Sprintf("key-%d", i%200)); err != nil {
					t.Errorf("%v", err)
				}
				if took := time.Since(begun); took > 100*time.Millisecond {
					t.Errorf("a read took %v", took)
				}
			}
		})
		for i := range 4 {
			n := c.Node(fmt.Sprintf("eu-%d", i+1))
			n.Close()
			c.Settle()
			n.Restart(0)
			c.Settle()
		}
		close(done)
		reading.Wait()
	})
}

// A node that is restarted delays nobody's writes for longer than two leases, whatever it then sees
// of the others.
func TestRestartsDoNotDelayWrites(t *testing.T) {
	for name, fault := range map[string]func(c *testcluster.Cluster){
		"rolling":      func(*testcluster.Cluster) {},
		"cannot call":  func(c *testcluster.Cluster) { c.Net.CutOneWay("eu-1", "eu-3") },
		"is not heard": func(c *testcluster.Cluster) { c.Net.CutOneWay("eu-3", "eu-1") },
		"is cut off":   func(c *testcluster.Cluster) { c.Net.Cut("eu-1", "eu-3") },
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{Nodes: 3}, func(c *testcluster.Cluster) {
				time.Sleep(untilLeased)
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
