package outbox

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

// send adds one note for each key and sends each in a push of its own.
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
	o := New(Config{BatchBytes: 300, Epoch: 7})
	o.Add(set("big", 1, 1000), 0)
	o.Add(set("a", 2, 100), 0)
	o.Add(set("b", 3, 100), 0)
	o.Add(set("c", 4, 100), 0)
	b := next(t, o, 0, to("x"))
	require.Equal(t, []string{"big1v"}, names(b), "what is too large goes alone")
	require.Equal(t, "x", b.Target)
	require.EqualValues(t, 7, b.Push.Epoch)
	require.Equal(t, []string{"a2v", "b3v"}, names(next(t, o, 0, to("x"))))
	require.Equal(t, []string{"c4v"}, names(next(t, o, 0, to("x"))))

	o = New(Config{})
	for g := range maxNotes + 1 {
		o.Add(remove(string(rune('0'+g)), expiry.Generation(g+1)), 0)
	}
	require.Len(t, next(t, o, 0, to("x")).Push.Writes, maxNotes)
	require.Len(t, next(t, o, 0, to("x")).Push.Writes, 1)
}

func TestEachTargetHasItsOwnStream(t *testing.T) {
	o := New(Config{Window: 1})
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
	require.Equal(t, []string{"b39v"}, names(b), "one full window does not hold up the others")
	require.EqualValues(t, 2, b.Push.Number)
	require.EqualValues(t, 2, b.Push.Low)
}

func TestTheOwnerIsAskedForOnceMore(t *testing.T) {
	o := New(Config{Window: 1})
	send(t, o, 0, "a")
	o.Add(set("b", 2, 10), 0)
	nothing(t, o, 0, to("x")) // it is in the queue for x
	nothing(t, o, 0, nowhere)
	b := next(t, o, 0, to("y"))
	require.Equal(t, "y", b.Target)
	nothing(t, o, 0, to("z"))
}

// It has been addressed to x, whose window opens only after the owner has changed.
func TestTheOwnerChangesBehindAFullWindow(t *testing.T) {
	o := New(Config{Window: 1})
	one := send(t, o, 0, "a")[0]
	o.Add(set("b", 2, 10), 0)
	nothing(t, o, 0, to("x"))
	o.Answered(one, 1, 0)
	b := next(t, o, 0, to("y"))
	require.Equal(t, "y", b.Target)
	require.Equal(t, []string{"b2v"}, names(b))
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
	require.Equal(t, []string{"c1v"}, names(b))
	b = send(t, o, second/2, "f")[0]
	require.EqualValues(t, 6, b.Push.Number)
	require.EqualValues(t, 4, b.Push.Low)
}

func TestALostPushIsSentAgain(t *testing.T) {
	o := New(Config{})
	bs := send(t, o, 0, "a", "b", "c", "d")
	o.Answered(bs[2], 1, second/2) // b is lost; d was sent later and may be under way
	b := next(t, o, second/2, to("x"))
	require.EqualValues(t, 2, b.Push.Number)
	require.Equal(t, []string{"b1v"}, names(b))
	require.Equal(t, time.Second/2, b.Push.Writes[0].Age)
	nothing(t, o, second/2, to("x"))
	require.EqualValues(t, 1, o.Stats(0).Lost)

	o.Answered(bs[0], 1, second/2) // sent before b, both times
	nothing(t, o, second/2, to("x"))
	o.Answered(bs[3], 1, second/2) // sent before b was sent again
	nothing(t, o, second/2, to("x"))
	late := send(t, o, second/2, "e")[0]
	o.Answered(late, 1, second/2) // b is lost again
	again := next(t, o, second/2, to("x"))
	require.EqualValues(t, 2, again.Push.Number)
	o.Failed(b, second/2) // an earlier call for the same push
	nothing(t, o, second/2, to("x"))
	o.Answered(b, 5, second/2)
	o.Answered(again, 5, second/2)
	require.Zero(t, o.Stats(0).Bytes)
}

func TestASilentTargetIsAsked(t *testing.T) {
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

	ask := next(t, o, at, to("x"))
	require.Empty(t, ask.Push.Writes)
	require.EqualValues(t, 2, ask.Push.Number)
	require.EqualValues(t, 2, ask.Push.Low)
	nothing(t, o, at, to("x"))
	again, _ := o.NextAt(at)
	require.Equal(t, at+second, again)
	o.Failed(ask, at)
	require.Equal(t, 1, o.Stats(at).InFlight, "a question that fails means nothing")
	o.Answered(ask, 1, at)
	require.Equal(t, 1, o.Stats(at).InFlight, "nor does the answer confirm anything")
	b := next(t, o, at, to("x"))
	require.Equal(t, []string{"b1v"}, names(b))
	o.Answered(b, 2, at)
	_, ok = o.NextAt(at)
	require.False(t, ok)
}

func TestAnAnswerThatIsLost(t *testing.T) {
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
			o.Answered(b, 1, now) // it has arrived
		} else {
			again = append(again, now/second)
		}
	}
	require.Equal(t, []expiry.Instant{2, 6, 14, 30, 62, 94}, again)
}

// It is known to have arrived by the answer that has come furthest, not by the last.
func TestAnswersInAnyOrder(t *testing.T) {
	o := New(Config{})
	bs := send(t, o, 0, "a", "b", "c")
	o.Answered(bs[2], 3, second)
	o.Answered(bs[0], 1, second)
	nothing(t, o, second, to("x"))
	require.Empty(t, next(t, o, 2*second, to("x")).Push.Writes)
	require.Equal(t, []string{"b1v"}, names(next(t, o, 2*second, to("x"))))
}

func TestATargetThatFailedGetsAPause(t *testing.T) {
	o := New(Config{})
	o.Failed(send(t, o, 0, "a")[0], 0)
	nothing(t, o, 0, to("x"))
	at, ok := o.NextAt(0)
	require.True(t, ok)
	require.Equal(t, second/8, at)
	require.Equal(t, []string{"a1v"}, names(next(t, o, at, to("x"))))
}

func TestNobodyToTell(t *testing.T) {
	o := New(Config{})
	o.Add(set("a", 1, 10), 0)
	nothing(t, o, 0, nowhere)
	_, ok := o.NextAt(0)
	require.False(t, ok)
	require.Equal(t, time.Second, o.Stats(second).Oldest)
	next(t, o, second, to("x"))
}

func TestOneWhoCannotBeToldDoesNotHoldUpTheOthers(t *testing.T) {
	o := New(Config{})
	down := "a"
	target := func(w *message.Write) (string, bool) { return w.Key, w.Key != down }
	o.Add(set("a", 1, 10), 0)
	o.Add(set("b", 2, 10), 0)
	require.Equal(t, []string{"b2v"}, names(next(t, o, 0, target)))
	nothing(t, o, 0, target)
	nothing(t, o, 0, nowhere)
	down = ""
	require.Equal(t, []string{"a1v"}, names(next(t, o, 0, target)))
}

func pushOf(number, low uint64) message.Push {
	return message.Push{Epoch: 1, Number: number, Low: low, Writes: []message.Write{remove("a", 1)}}
}

func TestInbox(t *testing.T) {
	var in Inbox
	require.EqualValues(t, 1, in.Receive("x", pushOf(1, 1), 0))
	require.EqualValues(t, 1, in.Receive("x", pushOf(1, 1), 0), "once more")
	require.EqualValues(t, 1, in.Receive("x", pushOf(3, 1), 0))
	require.EqualValues(t, 1, in.Receive("x", pushOf(4, 1), 0))
	require.EqualValues(t, 1, in.Lost())
	require.EqualValues(t, 4, in.Receive("x", pushOf(2, 2), 0))
	require.EqualValues(t, 8, in.Receive("x", pushOf(9, 9), 0)-1, "5 to 8 were given up")
	require.EqualValues(t, 1, in.Lost())
	require.EqualValues(t, 0, in.Receive("y", pushOf(2, 1), 0), "another stream")
	require.EqualValues(t, 2, in.Lost())

	ask := message.Push{Epoch: 1, Number: 11, Low: 10}
	require.EqualValues(t, 9, in.Receive("x", ask, 0), "a question is not what it asks about")
	require.EqualValues(t, 3, in.Lost())
	require.EqualValues(t, 9, in.Receive("x", ask, 0))
	require.EqualValues(t, 3, in.Lost())
	require.EqualValues(t, 10, in.Receive("x", pushOf(10, 10), 0))
}

func TestInboxEpochs(t *testing.T) {
	var in Inbox
	in.Receive("x", pushOf(1, 1), 0)
	in.Receive("x", pushOf(2, 1), 0)
	restarted := pushOf(1, 1)
	restarted.Epoch = 2
	require.EqualValues(t, 1, in.Receive("x", restarted, 0))
	require.EqualValues(t, 0, in.Receive("x", pushOf(3, 1), 0), "an old one comes late")
	restarted.Number = 2
	require.EqualValues(t, 2, in.Receive("x", restarted, 0))
}

func TestInboxForgets(t *testing.T) {
	var in Inbox
	in.Receive("x", pushOf(1, 1), 1)
	in.Receive("y", pushOf(1, 1), 2)
	require.Equal(t, 1, in.Forget(2))
	require.Equal(t, 0, in.Forget(2))
	require.EqualValues(t, 5, in.Receive("x", pushOf(5, 5), 3))
	require.EqualValues(t, 1, in.Receive("y", pushOf(3, 1), 3))
}

func TestInboxIsBounded(t *testing.T) {
	var in Inbox
	for n := uint64(2); n < 3*maxAhead; n++ {
		in.Receive("x", pushOf(n, 1), 0)
	}
	require.Len(t, in.origins["x"].ahead, maxAhead-1, "2 to 4,096")
	require.EqualValues(t, 3*maxAhead, in.Receive("x", pushOf(3*maxAhead, 3*maxAhead), 0))
	require.Empty(t, in.origins["x"].ahead)

	in = Inbox{}
	for n := uint64(2); n < 3*maxAhead; n++ {
		in.Receive("x", pushOf(n, 1), 0)
	}
	require.EqualValues(t, maxAhead, in.Receive("x", pushOf(1, 1), 0))
}
