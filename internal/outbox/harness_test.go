package outbox

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

// second is the instant one second after zero.
const second = expiry.Instant(time.Second)

// set returns the write of a Set with a value of n bytes.
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

// to returns a Target that sends every write to node.
func to(node string) Target {
	return func(*message.Write) (string, bool) { return node, true }
}

// byKey is a Target by which a key's owner is its first letter. A Clear goes to "a".
func byKey(w *message.Write) (string, bool) { return (w.Key + "a")[:1], true }

// nowhere is a Target by which no key has an owner.
func nowhere(*message.Write) (string, bool) { return "", false }

// next returns the batch that o has to send, and requires that it has one.
func next(t *testing.T, o *Outbox, now expiry.Instant, target Target) Batch {
	t.Helper()
	b, ok := o.Next(now, target)
	require.True(t, ok, "there is something to send")
	for _, w := range b.Push.Writes {
		if !w.HasValue {
			bare := message.Write{
				Group: w.Group, Key: w.Key, Scope: w.Scope, Clear: w.Clear, Collapsed: w.Collapsed, Stamp: w.Stamp,
			}
			require.Equal(t, bare, w, "nothing is left of a dropped value")
		}
	}
	check(t, o)
	return b
}

// nothing requires that o has nothing to send.
func nothing(t *testing.T, o *Outbox, now expiry.Instant, target Target) {
	t.Helper()
	b, ok := o.Next(now, target)
	require.False(t, ok, "there is nothing to send, but: %+v", b.Push)
	check(t, o)
}

// summary describes each write of b: its key, or ! for a Clear, its generation, and v if it has a value.
func summary(b Batch) []string {
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

// check checks the invariants of o.
func check(t require.TestingT, o *Outbox) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var bytes, inFlightBytes int64
	inFlight, queued, last := 0, 0, expiry.Instant(-1)
	for e := o.pending.Front(); e != nil; e = e.Next() {
		it := e.Value.(*item)
		require.Same(t, e, it.pendingElem)
		require.GreaterOrEqual(t, it.since, last, "pending is ordered by since")
		last = it.since
		bytes += size(&it.write)
		sl := o.slots[idOf(&it.write)]
		require.NotNil(t, sl)
		if it.queue != nil {
			queued++
			require.Same(t, it, sl.queued)
			require.Equal(t, it.write.Clear, it.collapsibleElem == nil)
			require.Equal(t, it.write.HasValue, it.valuedElem != nil)
			for _, f := range sl.inFlight {
				require.True(t, it.covers(&f.write), "the queued item covers those in flight")
			}
		} else {
			inFlight++
			inFlightBytes += size(&it.write)
			require.Contains(t, sl.inFlight, it)
			require.Nil(t, it.collapsibleElem)
			require.Nil(t, it.valuedElem)
		}
		for w := range it.waiters {
			require.Contains(t, w.on, it)
		}
	}
	require.Equal(t, bytes, o.bytes)
	require.Equal(t, inFlightBytes, o.inFlightBytes)
	require.Equal(t, inFlight, o.stats.InFlight)

	slots := 0
	for id, sl := range o.slots {
		if sl.queued != nil {
			require.Equal(t, id, idOf(&sl.queued.write))
			slots++
		}
		slots += len(sl.inFlight)
		require.True(t, sl.queued != nil || len(sl.inFlight) > 0, "empty slots are removed")
	}
	require.Equal(t, o.pending.Len(), slots)

	inQueues := o.unassigned.Len()
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
		require.LessOrEqual(t, len(s.pushes), o.config.window)
		require.True(t, s.active != nil || s.queue.Len()+len(s.pushes) == 0)
	}
	require.Equal(t, queued, inQueues)
	require.Equal(t, inFlight, pushed)

	if o.bytes > o.config.MaxBytes {
		require.Zero(t, o.collapsible.Len(), "an outbox over its bound has nothing left that could make room")
	}
}
