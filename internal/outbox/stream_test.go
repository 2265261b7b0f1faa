package outbox

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

// send adds one write for each key, and sends each in a push of its own.
func send(t *testing.T, o *Outbox, now expiry.Instant, keys ...string) []Batch {
	t.Helper()
	var bs []Batch
	for _, key := range keys {
		o.Add(set(key, expiry.Generation(1+now), 10), now)
		bs = append(bs, next(t, o, now, to("x")))
	}
	return bs
}

func TestBatches(t *testing.T) {
	o := New(Config{batchBytes: 300, Epoch: 7})
	o.Add(set("big", 1, 1000), 0)
	o.Add(set("a", 2, 100), 0)
	o.Add(set("b", 3, 100), 0)
	o.Add(set("c", 4, 100), 0)
	b := next(t, o, 0, to("x"))
	require.Equal(t, []string{"big1v"}, summary(b), "a write larger than a batch goes alone")
	require.Equal(t, "x", b.Target)
	require.EqualValues(t, 7, b.Push.Epoch)
	require.Equal(t, []string{"a2v", "b3v"}, summary(next(t, o, 0, to("x"))))
	require.Equal(t, []string{"c4v"}, summary(next(t, o, 0, to("x"))))

	o = New(Config{})
	for g := range maxWrites + 1 {
		o.Add(remove(string(rune('0'+g)), expiry.Generation(g+1)), 0)
	}
	require.Len(t, next(t, o, 0, to("x")).Push.Writes, maxWrites)
	require.Len(t, next(t, o, 0, to("x")).Push.Writes, 1)
}

func TestEachTargetHasItsOwnStream(t *testing.T) {
	o := New(Config{window: 1})
	for i, key := range []string{"a1", "b1", "a2", "c1"} {
		o.Add(set(key, expiry.Generation(i+1), 10), 0)
	}
	got := map[string]Batch{}
	for range 3 {
		b := next(t, o, 0, byKey)
		require.EqualValues(t, 1, b.Push.Number)
		require.EqualValues(t, 1, b.Push.Low)
		got[b.Target] = b
	}
	require.Len(t, got, 3)
	require.Len(t, got["a"].Push.Writes, 2)
	o.Add(set("a3", 9, 10), 0)
	o.Add(set("b3", 9, 10), 0)
	nothing(t, o, 0, byKey)
	o.Answered(got["b"], 1, 0)
	b := next(t, o, 0, byKey)
	require.Equal(t, []string{"b39v"}, summary(b), "a full window does not hold up other targets")
	require.EqualValues(t, 2, b.Push.Number)
	require.EqualValues(t, 2, b.Push.Low)
}

func TestTargetIsLookedUpAgain(t *testing.T) {
	o := New(Config{window: 1})
	send(t, o, 0, "a")
	o.Add(set("b", 2, 10), 0)
	nothing(t, o, 0, to("x")) // b is in the queue for x
	nothing(t, o, 0, nowhere)
	b := next(t, o, 0, to("y"))
	require.Equal(t, "y", b.Target)
	nothing(t, o, 0, to("z"))
}

// The write is in the queue for x, whose window opens only after the owner has changed.
func TestOwnerChangesBehindFullWindow(t *testing.T) {
	o := New(Config{window: 1})
	one := send(t, o, 0, "a")[0]
	o.Add(set("b", 2, 10), 0)
	nothing(t, o, 0, to("x"))
	o.Answered(one, 1, 0)
	b := next(t, o, 0, to("y"))
	require.Equal(t, "y", b.Target)
	require.Equal(t, []string{"b2v"}, summary(b))
}

func TestLow(t *testing.T) {
	o := New(Config{})
	bs := send(t, o, 0, "a", "b", "c")
	o.Answered(bs[1], 3, 0)
	require.EqualValues(t, 1, send(t, o, 0, "d")[0].Push.Low)
	o.Answered(bs[0], 3, 0)
	require.EqualValues(t, 3, send(t, o, 0, "e")[0].Push.Low)
	o.Failed(bs[2], 0)
	b := next(t, o, second/2, to("y"))
	require.Equal(t, []string{"c1v"}, summary(b))
	b = send(t, o, second/2, "f")[0]
	require.EqualValues(t, 6, b.Push.Number)
	require.EqualValues(t, 4, b.Push.Low)
}

func TestLostPushIsSentAgain(t *testing.T) {
	o := New(Config{})
	bs := send(t, o, 0, "a", "b", "c", "d")
	o.Answered(bs[2], 1, second/2) // b is lost; d was sent later and may still be under way
	b := next(t, o, second/2, to("x"))
	require.EqualValues(t, 2, b.Push.Number)
	require.Equal(t, []string{"b1v"}, summary(b))
	require.Equal(t, time.Second/2, b.Push.Writes[0].Age)
	nothing(t, o, second/2, to("x"))
	require.EqualValues(t, 1, o.Stats(0).Lost)

	o.Answered(bs[0], 1, second/2) // a was sent before b, both times
	nothing(t, o, second/2, to("x"))
	o.Answered(bs[3], 1, second/2) // d was sent before b was sent again
	nothing(t, o, second/2, to("x"))
	late := send(t, o, second/2, "e")[0]
	o.Answered(late, 1, second/2) // b is lost again
	again := next(t, o, second/2, to("x"))
	require.EqualValues(t, 2, again.Push.Number)
	o.Failed(b, second/2) // an earlier batch of the same push
	nothing(t, o, second/2, to("x"))
	o.Answered(b, 5, second/2)
	o.Answered(again, 5, second/2)
	require.Zero(t, o.Stats(0).Bytes)
}

func TestSilentTargetIsProbed(t *testing.T) {
	o := New(Config{})
	_, ok := o.NextAt(0)
	require.False(t, ok)
	bs := send(t, o, 0, "a", "b")
	at, ok := o.NextAt(0)
	require.True(t, ok)
	require.Equal(t, second, at)
	o.Answered(bs[0], 1, second/2)
	nothing(t, o, second, to("x"))
	at, _ = o.NextAt(second)
	require.Equal(t, second*3/2, at)

	probe := next(t, o, at, to("x"))
	require.Empty(t, probe.Push.Writes)
	require.EqualValues(t, 2, probe.Push.Number)
	require.EqualValues(t, 2, probe.Push.Low)
	nothing(t, o, at, to("x"))
	again, _ := o.NextAt(at)
	require.Equal(t, at+second, again)
	o.Failed(probe, at)
	require.Equal(t, 1, o.Stats(at).InFlight, "a failed probe changes nothing")
	o.Answered(probe, 1, at)
	require.Equal(t, 1, o.Stats(at).InFlight, "the answer to a probe confirms nothing")
	b := next(t, o, at, to("x"))
	require.Equal(t, []string{"b1v"}, summary(b))
	o.Answered(b, 2, at)
	_, ok = o.NextAt(at)
	require.False(t, ok)
}

func TestLostAnswer(t *testing.T) {
	o := New(Config{})
	send(t, o, 0, "a")
	var again []expiry.Instant
	for now := second; now < 100*second; {
		b, ok := o.Next(now, to("x"))
		if !ok {
			now, _ = o.NextAt(now)
			continue
		}
		if len(b.Push.Writes) == 0 {
			o.Answered(b, 1, now) // a has arrived
		} else {
			again = append(again, now/second)
		}
	}
	require.Equal(t, []expiry.Instant{2, 6, 14, 30, 62, 94}, again)
}

// The highest number that any answer gives counts, not that of the last answer.
func TestAnswersOutOfOrder(t *testing.T) {
	o := New(Config{})
	bs := send(t, o, 0, "a", "b", "c")
	o.Answered(bs[2], 3, second)
	o.Answered(bs[0], 1, second)
	nothing(t, o, second, to("x"))
	require.Empty(t, next(t, o, 2*second, to("x")).Push.Writes)
	require.Equal(t, []string{"b1v"}, summary(next(t, o, 2*second, to("x"))))
}

func TestPauseAfterFailure(t *testing.T) {
	o := New(Config{})
	o.Failed(send(t, o, 0, "a")[0], 0)
	nothing(t, o, 0, to("x"))
	at, ok := o.NextAt(0)
	require.True(t, ok)
	require.Equal(t, second/8, at)
	require.Equal(t, []string{"a1v"}, summary(next(t, o, at, to("x"))))
}

func TestNoTarget(t *testing.T) {
	o := New(Config{})
	o.Add(set("a", 1, 10), 0)
	nothing(t, o, 0, nowhere)
	_, ok := o.NextAt(0)
	require.False(t, ok)
	require.Equal(t, time.Second, o.Stats(second).Oldest)
	next(t, o, second, to("x"))
}

func TestUnreachableTargetDoesNotHoldUpOthers(t *testing.T) {
	o := New(Config{})
	down := "a"
	target := func(w *message.Write) (string, bool) { return w.Key, w.Key != down }
	o.Add(set("a", 1, 10), 0)
	o.Add(set("b", 2, 10), 0)
	require.Equal(t, []string{"b2v"}, summary(next(t, o, 0, target)))
	nothing(t, o, 0, target)
	nothing(t, o, 0, nowhere)
	down = ""
	require.Equal(t, []string{"a1v"}, summary(next(t, o, 0, target)))
}

func TestFailedWritesGoToTheFront(t *testing.T) {
	o := New(Config{batchBytes: 250})
	for i, key := range []string{"a", "b", "c", "d"} {
		o.Add(set(key, expiry.Generation(i+1), 60), 0)
	}
	one := next(t, o, 0, to("x"))
	require.Equal(t, []string{"a1v", "b2v"}, summary(one))
	old, _ := o.Confirmed("g", "a")
	kept, _ := o.Confirmed("g", "b")
	o.Add(set("a", 5, 60), 0)
	o.Failed(one, 0)
	check(t, o)

	two := next(t, o, second/2, to("x"))
	require.Equal(t, []string{"b2v", "c3v"}, summary(two), "a5 replaces a1 and keeps its own place")
	require.EqualValues(t, 2, two.Push.Number, "numbers are not reused")
	three := next(t, o, second/2, to("x"))
	require.Equal(t, []string{"d4v", "a5v"}, summary(three))
	o.Answered(two, 2, 0)
	require.True(t, closed(kept))
	require.False(t, closed(old), "it waits for the write that replaced it")
	o.Answered(three, 3, 0)
	require.True(t, closed(old))
	require.EqualValues(t, 1, o.Stats(0).Resent)
}

func TestFailedWritesKeepTheirOrder(t *testing.T) {
	o := New(Config{})
	for i, key := range []string{"a", "b", "c"} {
		o.Add(set(key, expiry.Generation(i+1), 1), 0)
	}
	o.Failed(next(t, o, 0, to("x")), 0)
	o.Add(set("d", 4, 1), 0)
	require.Equal(t, []string{"a1v", "b2v", "c3v", "d4v"}, summary(next(t, o, 0, to("y"))))
}

func TestFailedWriteIsCoveredByOneInFlight(t *testing.T) {
	o := New(Config{})
	o.Add(set("a", 1, 10), 0)
	one := next(t, o, 0, to("x"))
	done, _ := o.Confirmed("g", "a")
	o.Add(set("a", 2, 10), 0)
	two := next(t, o, 0, to("x"))
	o.Failed(one, 0)
	nothing(t, o, second/2, to("y"))
	o.Failed(two, second/2)
	require.False(t, closed(done))
	three := next(t, o, second/2, to("y"))
	require.Equal(t, []string{"a2v"}, summary(three))
	o.Answered(three, 1, second/2)
	require.True(t, closed(done))
}

// When the newer of two writes fails first, it is queued while the older is in flight.
func TestNewerOfTwoInFlightFailsFirst(t *testing.T) {
	o := New(Config{})
	o.Add(set("a", 1, 10), 0)
	one := next(t, o, 0, to("x"))
	o.Add(set("a", 2, 10), 0)
	two := next(t, o, 0, to("x"))
	o.Failed(two, 0)
	o.Failed(one, 0)
	require.Equal(t, []string{"a2v"}, summary(next(t, o, 0, to("y"))))
	nothing(t, o, 0, to("y"))
}

func TestAges(t *testing.T) {
	o := New(Config{})
	a, b := set("a", 1, 10), set("b", 2, 10)
	a.Age, a.Life = time.Second, 3*time.Second
	b.Age, b.Life, b.Dirty = time.Second, 3*time.Second, true
	o.Add(a, second)
	o.Add(b, second)
	one := next(t, o, 2*second, to("x"))
	require.Equal(t, 2*time.Second, one.Push.Writes[0].Age)
	o.Failed(one, 2*second)
	two := next(t, o, 3*second, to("x"))
	require.Equal(t, []string{"a1", "b2v"}, summary(two), "a dirty value is still needed when it has expired")
	require.Zero(t, two.Push.Writes[0].Life)
	require.Equal(t, 3*time.Second, two.Push.Writes[1].Age)
}
