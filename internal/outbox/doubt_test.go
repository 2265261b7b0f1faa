package outbox

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

// doubted sends what is in the outbox, to a region that has no majority.
func doubted(t *testing.T, o *Outbox) {
	for have := uint64(1); ; have++ {
		b, ok := o.Next(0, to("x"))
		if !ok {
			return
		}
		o.Doubted(b, have, 0)
	}
}

// Of what a region has and has not confirmed nobody is told that it is confirmed until it is, when it is sent
// again, or a later write of the key is, or it does not matter any more.
func TestDoubted(t *testing.T) {
	for name, end := range map[string]func(o *Outbox){
		"confirmed": func(o *Outbox) {
			o.Add(set("a", 2, 10), 0)
			o.Answered(next(t, o, 0, to("x")), 2, 0)
		},
		"doubted again, and confirmed": func(o *Outbox) {
			o.Add(set("a", 2, 10), 0)
			doubted(t, o)
			o.Add(set("a", 3, 10), 0)
			o.Answered(next(t, o, 0, to("x")), 3, 0)
		},
		"asked for again": func(o *Outbox) {
			_, ok := o.Next(second-1, to("x"))
			require.False(t, ok)
			at, ok := o.NextAt(0)
			require.True(t, ok)
			require.Equal(t, second, at)
			b, ok := o.Next(at, to("x"))
			require.True(t, ok)
			require.Len(t, b.Push.Writes, 1)
			require.True(t, b.Push.Writes[0].HasValue)
			require.Equal(t, time.Second, b.Push.Writes[0].Age)
			o.Answered(b, 2, at)
		},
		"forgotten": func(o *Outbox) { o.Forget("g", 100) },
	} {
		o := New(Config{})
		o.Add(set("a", 1, 10), 0)
		before, _ := o.Confirmed("g", "a")
		doubted(t, o)
		require.Zero(t, o.Stats(0).Queued+o.Stats(0).InFlight, "it has arrived")
		require.Zero(t, o.Stats(0).Bytes)
		after, _ := o.Confirmed("g", "a")
		stopped, stop := o.Confirmed("g", "a")
		stop()
		other, _ := o.Confirmed("g", "b")
		require.True(t, closed(other))
		require.False(t, closed(before))
		require.False(t, closed(after))
		end(o)
		require.True(t, closed(before), name)
		require.True(t, closed(after), name)
		require.False(t, closed(stopped), name)
		require.Empty(t, o.slots)
		require.Zero(t, o.doubts.list.Len())
	}
}

// What nobody waits for is not sent again, and keeps no value.
func TestDoubtedAndNotWaitedFor(t *testing.T) {
	o := New(Config{})
	o.Add(set("a", 1, 10), 0)
	o.Add(set("b", 1, 10), 0)
	_, stop := o.Confirmed("g", "a")
	doubted(t, o)
	value := func(key expiry.Subject) bool {
		return o.slots[id{group: "g", subject: key}].doubted.write.HasValue
	}
	require.True(t, value("a"))
	require.False(t, value("b"))
	stop()
	_, ok := o.Next(second, to("x"))
	require.False(t, ok)
	require.False(t, value("a"))
}

// A write that is older than what was doubted does not confirm it.
func TestAnEarlierWriteConfirmsNothing(t *testing.T) {
	o := New(Config{})
	o.Add(set("a", 1, 10), 0)
	first := next(t, o, 0, to("x"))
	o.Add(set("a", 2, 10), 0)
	doubted(t, o)
	o.Answered(first, 2, 0)
	done, _ := o.Confirmed("g", "a")
	require.False(t, closed(done))
}

// A doubted write whose key is written again meanwhile is covered by that.
func TestDoubtedAndCovered(t *testing.T) {
	o := New(Config{})
	o.Add(set("a", 1, 10), 0)
	done, _ := o.Confirmed("g", "a")
	first := next(t, o, 0, to("x"))
	o.Add(set("a", 2, 10), 0)
	second := next(t, o, 0, to("x"))
	o.Doubted(first, 1, 0)
	require.Zero(t, o.doubts.list.Len())
	require.False(t, closed(done))
	o.Answered(second, 2, 0)
	require.True(t, closed(done))
	require.Empty(t, o.slots)
}

// Of writes that were too many to remember nobody is told that they are confirmed.
func TestTooManyDoubts(t *testing.T) {
	o := New(Config{})
	for i := range maxDoubts + 10 {
		o.Add(set(fmt.Sprint(i), expiry.Generation(i+1), 0), 0)
	}
	waits, _ := o.Confirmed("g", "0")
	doubted(t, o)
	require.Equal(t, maxDoubts, o.doubts.list.Len())
	asks, _ := o.Confirmed("g", "0")
	another, _ := o.Confirmed("another", "0")
	require.False(t, closed(waits))
	require.False(t, closed(asks))
	require.True(t, closed(another))
	o.Forget("g", 1<<40)
	asks, _ = o.Confirmed("g", "0")
	require.True(t, closed(asks))
	require.Empty(t, o.slots)
}
