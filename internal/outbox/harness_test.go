package outbox

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

// second is an instant of the tests.
const second = expiry.Instant(time.Second)

// set returns the note of a Set that wrote n bytes.
func set(key string, g expiry.Generation, n int) message.Write {
	return message.Write{
		Group: "g", Key: key, Stamp: expiry.Stamp{Generation: g, Origin: 1},
		HasValue: true, Tagged: true, Value: make([]byte, n), Life: time.Hour,
	}
}

func remove(key string, g expiry.Generation) message.Write {
	return message.Write{Group: "g", Key: key, Stamp: expiry.Removal(g)}
}

func clearAll(g expiry.Generation) message.Write {
	return message.Write{Group: "g", Clear: true, Stamp: expiry.Removal(g)}
}

// to returns a Target that is always node.
func to(node string) Target {
	return func(*message.Write) (string, bool) { return node, true }
}

// byKey says that a key's owner is its first letter. That of a Clear is "a".
func byKey(w *message.Write) (string, bool) { return (w.Key + "a")[:1], true }

func nowhere(*message.Write) (string, bool) { return "", false }

// next returns what o has to send, which there must be.
func next(t *testing.T, o *Outbox, now expiry.Instant, target Target) Batch {
	t.Helper()
	b, ok := o.Next(now, target)
	require.True(t, ok, "there is something to send")
	for _, w := range b.Push.Writes {
		if !w.HasValue {
			require.Equal(t, message.Write{Group: w.Group, Key: w.Key, Scope: w.Scope, Clear: w.Clear, Collapsed: w.Collapsed, Stamp: w.Stamp}, w, "nothing of a value is left")
		}
	}
	check(t, o)
	return b
}

func nothing(t *testing.T, o *Outbox, now expiry.Instant, target Target) {
	t.Helper()
	b, ok := o.Next(now, target)
	require.False(t, ok, "there is nothing to send: %+v", b.Push)
	check(t, o)
}

// names returns the notes of b in short: the key, or ! for a Clear, the
// generation, and a v if it has a value.
func names(b Batch) []string {
	var s []string
	for _, w := range b.Push.Writes {
		name := w.Key
		if w.Clear {
			name = "!"
		}
		name += strconv.Itoa(int(w.Stamp.Generation))
		if w.HasValue {
			name += "v"
		}
		s = append(s, name)
	}
	return s
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// check holds o against its invariants.
func check(t require.TestingT, o *Outbox) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var bytes, flying int64
	inFlight, queued, last := 0, 0, expiry.Instant(-1)
	for e := o.pending.Front(); e != nil; e = e.Next() {
		it := e.Value.(*item)
		require.Same(t, e, it.age)
		require.GreaterOrEqual(t, it.since, last, "pending is in the order of since")
		last = it.since
		bytes += size(&it.write)
		sl := o.slots[idOf(&it.write)]
		require.NotNil(t, sl)
		if it.queue != nil {
			queued++
			require.Same(t, it, sl.queued)
			require.Equal(t, it.write.Clear, it.folded == nil)
			require.Equal(t, it.write.HasValue, it.valued != nil)
			for _, f := range sl.flying {
				require.True(t, it.covers(&f.write), "what is queued is above what is in flight")
			}
		} else {
			inFlight++
			flying += size(&it.write)
			require.Contains(t, sl.flying, it)
			require.Nil(t, it.folded)
			require.Nil(t, it.valued)
		}
		for w := range it.waiters {
			require.Contains(t, w.on, it)
		}
	}
	require.Equal(t, bytes, o.bytes)
	require.Equal(t, flying, o.flying)
	require.Equal(t, inFlight, o.stats.InFlight)

	slots := 0
	for id, sl := range o.slots {
		if sl.queued != nil {
			require.Equal(t, id, idOf(&sl.queued.write))
			slots++
		}
		slots += len(sl.flying)
		require.True(t, sl.queued != nil || len(sl.flying) > 0, "empty slots are removed")
	}
	require.Equal(t, o.pending.Len(), slots)

	inQueues := o.unaddressed.Len()
	pushed := 0
	for _, s := range o.streams {
		inQueues += s.queue.Len()
		number := uint64(0)
		for _, p := range s.pushes {
			require.Greater(t, p.number, number)
			number = p.number
			pushed += len(p.items)
			require.NotEmpty(t, p.items)
		}
		require.LessOrEqual(t, number, s.last)
		require.LessOrEqual(t, len(s.pushes), o.config.Window)
		require.True(t, s.active != nil || s.queue.Len()+len(s.pushes) == 0)
	}
	require.Equal(t, queued, inQueues)
	require.Equal(t, inFlight, pushed)

	if o.bytes > o.config.MaxBytes {
		require.Zero(t, o.foldable.Len(), "what can be saved is saved")
	}
}
