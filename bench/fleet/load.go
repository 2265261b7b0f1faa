package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// callTimeout is how long a read or a write may take. One that takes longer has failed.
const callTimeout = 20 * time.Second

// A client reads and writes through one process's cache, and checks what it reads.
type client struct {
	id     string // of the process
	origin origin
	get    func(ctx context.Context, key string) ([]byte, error)
	put    func(ctx context.Context, key string, value []byte) error

	mu    sync.Mutex
	tally tally // guarded by mu
}

// read reads a key. What it gets must not be older than what was acknowledged before it began.
func (c *client) read(key int) {
	acked := c.origin.acked(key)
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	begun := time.Now()
	value, err := c.get(ctx, keyName(key))
	t := tally{Reads: 1, SlowestRead: time.Since(begun)}
	switch version := versionOf(value); {
	case err != nil:
		t.Failed, t.Example = 1, c.id+": "+err.Error()
	case version < acked:
		t.Stale = 1
		t.Example = fmt.Sprintf("%s read key %d at version %d after version %d had been acknowledged",
			c.id, key, version, acked)
	}
	c.count(t)
}

// write writes the next version of a key, to the origin first. No other write of the key may be
// under way, in any process.
func (c *client) write(key int) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	version := c.origin.written(key) + 1
	c.origin.setWritten(key, version)
	begun := time.Now()
	err := c.put(ctx, keyName(key), valueOf(version))
	t := tally{Writes: 1, SlowestWrite: time.Since(begun)}
	if err != nil {
		t.Failed, t.Example = 1, c.id+": "+err.Error()
	} else {
		c.origin.setAcked(key, version)
	}
	c.count(t)
}

func (c *client) count(t tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tally.add(t)
}

// take returns what has been counted since the last call.
func (c *client) take() (t tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, c.tally = c.tally, tally{}
	return t
}

// each does something for keys, by so many callers at once.
func each(keys []int, callers int, do func(key int)) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for key := range next {
				do(key)
			}
		})
	}
	for _, key := range keys {
		next <- key
	}
	close(next)
	wg.Wait()
}

// A load is steady reads and writes.
type load struct {
	stopped context.Context
	stop    context.CancelFunc
	under   sync.WaitGroup // the calls that are under way, and who starts them
}

// startLoad begins to read and to write keys, so many in a second: to read any of readable, and to
// write those of writable in turns. Whoever starts a load that writes must have the writable keys to itself.
func (c *client) startLoad(reads, writes float64, readable, writable []int) *load {
	l := new(load)
	l.stopped, l.stop = context.WithCancel(context.Background())
	l.steadily(reads, func() { c.read(readable[rand.IntN(len(readable))]) })
	free := make(chan int, len(writable)) // no write of these is under way
	for _, key := range writable {
		free <- key
	}
	l.steadily(writes, func() {
		key := <-free
		c.write(key)
		free <- key
	})
	return l
}

// atOnce is how many reads of a load a process has under way at most, and how many writes.
const atOnce = 64

// steadily makes so many calls in a second, however long they take. Those that would be too many at once are
// left out: a service that goes on to pile them up does not recover.
func (l *load) steadily(rate float64, do func()) {
	if rate <= 0 {
		return
	}
	begun, due := time.Now(), 0
	slots := make(chan struct{}, atOnce)
	call := func() {
		do()
		<-slots
	}
	l.under.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-l.stopped.Done():
				return
			case <-tick.C:
			}
			for ; float64(due) < rate*time.Since(begun).Seconds(); due++ {
				select {
				case slots <- struct{}{}:
					l.under.Go(call)
				default:
				}
			}
		}
	})
}

// end ends the load and waits for the calls that are under way.
func (l *load) end() {
	if l != nil {
		l.stop()
		l.under.Wait()
	}
}

// verdict returns an error that says what readers and writers should not have seen.
func (t *tally) verdict() error {
	var errs []error
	if t.Failed > 0 {
		errs = append(errs, fmt.Errorf("%d of %d reads and writes failed", t.Failed, t.Reads+t.Writes))
	}
	if t.Stale > 0 {
		errs = append(errs, fmt.Errorf("%d of %d reads were stale", t.Stale, t.Reads))
	}
	if errs == nil {
		return nil
	}
	return fmt.Errorf("%w; for example: %s", errors.Join(errs...), t.Example)
}
