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

// A fixture is a queue with a fake origin, in a synctest bubble. The bubble fails if the queue leaves
// goroutines behind.
type fixture struct {
	*Queue
	origin *origin
	begin  time.Time
	end    context.CancelCauseFunc
	log    *recorder

	mu     sync.Mutex
	closed bool // Spawn starts nothing
	stored []Write
}

// newFixture returns a fixture whose origin calls handle for each write.
func newFixture(config Config, handle func(ctx context.Context, w Write) error) *fixture {
	f := &fixture{origin: newOrigin(handle), begin: time.Now(), log: &recorder{}}
	config.Store = f.origin.store
	config.Stored = func(w Write) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.stored = append(f.stored, w)
	}
	config.Now = func() expiry.Instant { return expiry.Instant(time.Since(f.begin)) }
	config.Spawn = func(run func()) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.closed {
			return false
		}
		go run()
		return true
	}
	config.Context, f.end = context.WithCancelCause(context.Background())
	config.Logger = slog.New(f.log)
	f.Queue = New(config)
	return f
}

// lastFailure returns the error of the last call of Store that failed.
func (f *fixture) lastFailure() error {
	f.Queue.mu.Lock()
	defer f.Queue.mu.Unlock()
	return f.failure
}

// An origin records its calls and checks the order of writes.
type origin struct {
	handle func(ctx context.Context, w Write) error

	mu         sync.Mutex
	running    map[string]bool
	highest    map[string]expiry.Stamp // the highest stamp that a call began with
	values     map[string]Write
	calls      []Write
	violations []string // promises that the queue broke
}

func newOrigin(handle func(context.Context, Write) error) *origin {
	return &origin{
		handle:  handle,
		running: map[string]bool{},
		highest: map[string]expiry.Stamp{},
		values:  map[string]Write{},
	}
}

func (o *origin) store(ctx context.Context, w Write) error {
	o.mu.Lock()
	if o.running[w.Key] {
		o.violations = append(o.violations, fmt.Sprintf("two calls store %s at once", w.Key))
	}
	if w.Stamp.Below(o.highest[w.Key]) {
		o.violations = append(o.violations,
			fmt.Sprintf("%s is stored at %v after %v", w.Key, w.Stamp, o.highest[w.Key]))
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

// set makes the origin call handle from now on.
func (o *origin) set(handle func(context.Context, Write) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.handle = handle
}

// land puts w into the origin.
func (o *origin) land(w Write) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.values[w.Key] = w
}

// generations returns the generations of the writes of key that the origin was called with, in order.
func (o *origin) generations(key string) (all []int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range o.calls {
		if w.Key == key {
			all = append(all, int(w.Stamp.Generation))
		}
	}
	return all
}

// A recorder is a slog.Handler that keeps the records.
type recorder struct {
	mu      sync.Mutex
	records []slog.Record
}

func (w *recorder) Enabled(context.Context, slog.Level) bool { return true }
func (w *recorder) WithAttrs([]slog.Attr) slog.Handler       { return w }
func (w *recorder) WithGroup(string) slog.Handler            { return w }
func (w *recorder) Handle(_ context.Context, r slog.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.records = append(w.records, r)
	return nil
}

func stampOf(g int) expiry.Stamp { return expiry.Stamp{Generation: expiry.Generation(g), Origin: 7} }

func write(key string, g int) Write {
	return Write{Key: key, Stamp: stampOf(g), Value: fmt.Appendf(nil, "%s@%d", key, g)}
}

// sized returns a write that counts for n bytes.
func sized(key string, g int, n int64) Write {
	return Write{Key: key, Stamp: stampOf(g), Value: make([]byte, n-overhead-int64(len(key)))}
}

func healthy(context.Context, Write) error { return nil }
func down(context.Context, Write) error    { return errOrigin }

// gate returns a handler for an origin. Each of its calls returns the next error sent to open.
func gate() (handle func(context.Context, Write) error, open chan error) {
	open = make(chan error)
	return func(context.Context, Write) error { return <-open }, open
}

// check checks the invariants of a queue at rest.
func check(t require.TestingT, q *Queue) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var queued, held usage
	running, due := 0, 0
	for key, it := range q.items {
		require.Equal(t, key, it.write.Key)
		if it.held {
			require.Nil(t, it.running, "%s is held but running", key)
			held.writes++
			held.bytes += it.write.charge()
			continue
		}
		queued.writes++
		queued.bytes += it.write.charge()
		if it.running == nil {
			due++
			require.True(t, it.index < len(q.due) && q.due[it.index] == it, "%s is queued but not in due", key)
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
	require.LessOrEqual(t, len(q.active), q.config.parallel)
	require.LessOrEqual(t, len(q.active), running)
	if due+len(q.active) > 0 && !q.stopped {
		require.True(t, q.scheduled, "the scheduler runs while anything is queued")
	}
	for _, w := range q.waiting {
		if it := q.items[w.write.Key]; it != nil {
			require.True(t, it.write.Stamp.Below(w.write.Stamp), "the waiting write of %s is needed", w.write.Key)
		}
	}
}
