package history

import (
	"math/rand/v2"
	"sync"
	"time"
)

// This file is about owners that are killed while they execute a write.

// shapeKills has few keys, which many callers read and then set.
func shapeKills(c *Config, random *rand.Rand) {
	quiet(c, 10*time.Second)
	c.Regions = choose(random, []string{"eu"}, []string{"eu"}, []string{"eu", "us"})
	c.Nodes = 3
	c.Keys = 1 + random.IntN(2)
	c.Callers, c.Think = 2, 50*time.Millisecond
	c.Writes, c.ReadBeforeSet = 0.5, 0.8
	c.OriginLag = 10 * time.Millisecond
	c.Latency = choose(random, 0, 2*time.Millisecond, 5*time.Millisecond)
	if random.IntN(2) == 0 {
		c.Mangle.Delay = 0.3
	}
}

// kills kills the owner of a key now and then, shortly after another node has begun to set it. The
// owner returns at once or after a while. Another one may be killed before that.
func (r *runner) kills() {
	random := source(r.config.Seed, "kills")
	var down sync.WaitGroup
	defer down.Wait()
	for r.pauseFor(500*time.Millisecond + upTo(random, 2*time.Second)) {
		region := choose(random, r.config.Regions...)
		serving := r.serving(region)
		if len(serving) < 2 || len(serving) < 3 && random.IntN(3) > 0 {
			continue
		}
		random.Shuffle(len(serving), func(i, j int) { serving[i], serving[j] = serving[j], serving[i] })
		for _, owner := range serving {
			after := upTo(random, 6*max(r.config.Latency, 2*time.Millisecond))
			back := choose(random, 0, time.Second, upTo(random, 4*time.Second))
			key, begins := r.sets.wait(func(l *life, key string) bool {
				return l.region == region && l.node != owner && l.group.Locate(key)[0].Owner.ID == owner.Name
			})
			select {
			case <-begins:
			case <-time.After(500 * time.Millisecond):
				key()
				continue
			case <-r.over:
				key()
				return
			}
			time.Sleep(after)
			down.Go(func() { r.restart(owner, false, back) })
			break
		}
	}
}

// A watch tells one waiter of Sets that begin.
type watch struct {
	mu     sync.Mutex
	wanted func(l *life, key string) bool // nil if nobody waits
	begins chan struct{}
}

// wait returns a channel that is closed when a Set begins that wanted accepts. stop ends the wait.
func (w *watch) wait(wanted func(l *life, key string) bool) (stop func(), begins <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wanted, w.begins = wanted, make(chan struct{})
	return func() { w.mu.Lock(); defer w.mu.Unlock(); w.wanted = nil }, w.begins
}

// notify tells the waiter of a Set.
func (w *watch) notify(l *life, key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wanted != nil && w.wanted(l, key) {
		w.wanted = nil
		close(w.begins)
	}
}
