package geocache_test

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// within reports whether a function with this end of its name is on the caller's stack.
func within(name string) bool {
	callers := make([]uintptr, 64)
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers)])
	for {
		frame, more := frames.Next()
		if strings.HasSuffix(frame.Function, name) {
			return true
		}
		if !more {
			return false
		}
	}
}

// A node that stands still between looking at how long a write has been under way and stamping it does not
// bring it back after the caller has had the next owner do it, and has written something else.
func TestAWriteWhoseOwnerStandsStill(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		var standsStill atomic.Bool
		var pauses atomic.Int64
		owner, writer := c.Add("eu", geocache.WithClock(func() time.Time {
			if standsStill.Load() && within("(*committer).stamp") {
				pauses.Add(1)
				time.Sleep(600 * time.Millisecond)
			}
			return time.Now()
		})), c.Node("eu-1")
		c.Settle()
		key := c.KeyOf(owner.Name)
		standsStill.Store(true)
		var writing sync.WaitGroup
		writing.Go(func() {
			for _, value := range []string{"first", "second"} {
				_, err := writer.Set(key, value, geocache.WithAck(geocache.AckOwner))
				require.NoError(t, err)
			}
		})
		time.Sleep(time.Millisecond)
		c.Net.CutOneWay(writer.Name, owner.Name) // it does not hear that its caller has hung up
		writer.Reject(owner.Name)
		writing.Wait()
		require.NotZero(t, pauses.Load())
		time.Sleep(3 * time.Second)
		standsStill.Store(false)
		c.Net.HealAll()
		writer.Admit(owner.Name)
		c.Settle()
		for _, n := range c.Nodes() {
			require.Equal(t, "second", text(t, n, key), n.Name)
		}
	})
}
