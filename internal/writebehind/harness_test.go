package writebehind

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

var errOrigin = errors.New("the origin is down")

// A bench is a queue before an origin, in a synctest bubble. Goroutines that the
// queue would leave behind make the bubble fail.
type bench struct {
	*Queue
	origin *origin
	begin  time.Time
	end    context.CancelCauseFunc
	warned *warnings

	mu     sync.Mutex
	closed bool // Spawn starts nothing any more
	stored []Write
}

// newBench returns a bench whose origin does what handle says.
func newBench(config Config, handle func(ctx context.Context, w Write) error) *bench {
	b := &bench{origin: newOrigin(handle), begin: time.Now(), warned: &warnings{}}
	config.Store = b.origin.store
	config.Stored = func(w Write) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.stored = append(b.stored, w)
	}
	config.Now = func() expiry.Instant { return expiry.Instant(time.Since(b.begin)) }
	config.Spawn = func(f func()) bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.closed {
			return false
		}
		go f()
		return true
	}
	config.Context, b.end = context.WithCancelCause(context.Background())
	config.Logger = slog.New(b.warned)
	b.Queue = New(config)
	return b
}

func (b *bench) lastFailure() error {
	b.Queue.mu.Lock()
	defer b.Queue.mu.Unlock()
	return b.failure
}

// An origin records what it is told and holds it to the order of writes.
type origin struct {
	handle func(ctx context.Context, w Write) error

	mu      sync.Mutex
	running map[string]bool
	highest map[string]expiry.Stamp // that a call began with
	values  map[string]Write        // what is there
	calls   []Write
	wrong   []string // broken promises
}

func newOrigin(handle func(context.Context, Write) error) *origin {
	return &origin{handle: handle, running: map[string]bool{}, highest: map[string]expiry.Stamp{}, values: map[string]Write{}}
}

func (o *origin) store(ctx context.Context, w Write) error {
	o.mu.Lock()
	if o.running[w.Key] {
		o.wrong = append(o.wrong, fmt.Sprintf("%s is stored twice in parallel", w.Key))
	}
	if w.Stamp.Below(o.highest[w.Key]) {
		o.wrong = append(o.wrong, fmt.Sprintf("%s at %v after %v", w.Key, w.Stamp, o.highest[w.Key]))
	}
	o.running[w.Key] = true
	o.highest[w.Key] = w.Stamp
	o.calls = append(o.calls, w)
	handle := o.handle
	o.mu.Unlock()

	defer func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.running[w.Key] = false
	}()
	if err := handle(ctx, w); err != nil {
		return err
	}
	o.land(w)
	return nil
}

// set changes what the origin does.
func (o *origin) set(handle func(context.Context, Write) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.handle = handle
}

func (o *origin) land(w Write) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.values[w.Key] = w
}

// told returns the generations that the origin was told for key.
func (o *origin) told(key string) (all []int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range o.calls {
		if w.Key == key {
			all = append(all, int(w.Stamp.Generation))
		}
	}
	return all
}

type warnings struct {
	mu  sync.Mutex
	all []slog.Record
}

func (w *warnings) Enabled(context.Context, slog.Level) bool { return true }
func (w *warnings) WithAttrs([]slog.Attr) slog.Handler       { return w }
func (w *warnings) WithGroup(string) slog.Handler            { return w }
func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, r)
	return nil
}

func at(g int) expiry.Stamp { return expiry.Stamp{Generation: expiry.Generation(g), Origin: 7} }

func write(key string, g int) Write {
	return Write{Key: key, Stamp: at(g), Value: fmt.Appendf(nil, "%s@%d", key, g)}
}

// sized is a write that is charged n bytes.
func sized(key string, g int, n int64) Write {
	return Write{Key: key, Stamp: at(g), Value: make([]byte, n-overhead-int64(len(key)))}
}

func healthy(context.Context, Write) error { return nil }
func down(context.Context, Write) error    { return errOrigin }

// gate returns an origin whose calls wait for one receive each on open.
func gate() (handle func(context.Context, Write) error, open chan error) {
	open = make(chan error)
	return func(context.Context, Write) error { return <-open }, open
}

// check holds a queue at rest to its invariants.
func check(t require.TestingT, q *Queue) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var queued, held usage
	running, due := 0, 0
	for key, it := range q.items {
		require.Equal(t, key, it.write.Key)
		if it.held {
			require.Nil(t, it.running, "%s is held and running", key)
			held.writes++
			held.bytes += it.write.charge()
			continue
		}
		queued.writes++
		queued.bytes += it.write.charge()
		if it.running == nil {
			due++
			require.True(t, it.index < len(q.due) && q.due[it.index] == it, "%s is queued and not due", key)
			require.False(t, it.obsolete)
			continue
		}
		running++
		require.False(t, it.write.Stamp.Below(it.running.write.Stamp))
		if !it.storing() {
			queued.bytes += it.running.write.charge()
		}
	}
	require.Len(t, q.due, due)
	require.Equal(t, queued, q.queued)
	require.Equal(t, held, q.held)
	require.LessOrEqual(t, queued.bytes+held.bytes, 2*q.config.MaxBytes)
	require.LessOrEqual(t, len(q.active), q.config.Parallel)
	require.LessOrEqual(t, len(q.active), running)
	if due+len(q.active) > 0 && !q.stopped {
		require.True(t, q.scheduled, "nobody looks after what is queued")
	}
	for _, w := range q.line {
		if it := q.items[w.write.Key]; it != nil {
			require.True(t, it.write.Stamp.Below(w.write.Stamp), "%s waits without need", w.write.Key)
		}
	}
}
