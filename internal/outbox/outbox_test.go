package outbox

import (
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

func TestANewerNoteTakesThePlaceOfAnOlderOne(t *testing.T) {
	o := New(Config{})
	o.Add(set("a", 1, 10), 0)
	o.Add(set("b", 2, 10), 0)
	first, _ := o.Confirmed("g", "a")
	o.Add(remove("a", 4), 0)
	o.Add(set("a", 3, 10), 0) // comes late
	second, _ := o.Confirmed("g", "a")
	check(t, o)
	require.Equal(t, 2, o.Stats(0).Queued)
	require.EqualValues(t, 2, o.Stats(0).Coalesced)

	b := next(t, o, 0, to("x"))
	require.Equal(t, []string{"a4", "b2v"}, names(b), "in the place of the older one")
	require.False(t, closed(first))
	o.Answered(b, 1, 0)
	require.True(t, closed(first))
	require.True(t, closed(second))
	require.Zero(t, o.Stats(0).Bytes)
}

func TestANoteOfTheSameStampIsWantedForItsValueOnly(t *testing.T) {
	o := New(Config{})
	floor := set("a", 1, 10)
	strip(&floor)
	o.Add(floor, 0)
	o.Add(set("a", 1, 10), 0)
	o.Add(floor, 0)
	b := next(t, o, 0, to("x"))
	require.Equal(t, []string{"a1v"}, names(b))
	o.Add(set("a", 1, 10), 0)
	nothing(t, o, 0, to("x"))
}

func TestANewerNoteDoesNotWaitForTheOneInFlight(t *testing.T) {
	o := New(Config{})
	o.Add(set("a", 1, 10), 0)
	old, _ := o.Confirmed("g", "a")
	one := next(t, o, 0, to("x"))
	o.Add(set("a", 2, 10), 0)
	both, _ := o.Confirmed("g", "a")
	two := next(t, o, 0, to("x"))
	require.EqualValues(t, 2, two.Push.Number)

	o.Answered(two, 2, 0)
	require.False(t, closed(old), "the older one may yet fail")
	require.False(t, closed(both))
	o.Add(set("a", 1, 10), 0) // covered by what is in flight
	nothing(t, o, 0, to("x"))
	o.Answered(one, 2, 0)
	require.True(t, closed(old))
	require.True(t, closed(both))
}

func TestWhatFailedGoesToTheFront(t *testing.T) {
	o := New(Config{BatchBytes: 250})
	for i, key := range []string{"a", "b", "c", "d"} {
		o.Add(set(key, expiry.Generation(i+1), 60), 0)
	}
	one := next(t, o, 0, to("x"))
	require.Equal(t, []string{"a1v", "b2v"}, names(one))
	old, _ := o.Confirmed("g", "a")
	kept, _ := o.Confirmed("g", "b")
	o.Add(set("a", 5, 60), 0)
	o.Failed(one, 0)
	check(t, o)

	two := next(t, o, second/2, to("x"))
	require.Equal(t, []string{"b2v", "c3v"}, names(two), "a5 is newer, and has its own place")
	require.EqualValues(t, 2, two.Push.Number, "a number is not used twice")
	three := next(t, o, second/2, to("x"))
	require.Equal(t, []string{"d4v", "a5v"}, names(three))
	o.Answered(two, 2, 0)
	require.True(t, closed(kept))
	require.False(t, closed(old), "it waits for what has superseded it")
	o.Answered(three, 3, 0)
	require.True(t, closed(old))
	require.EqualValues(t, 1, o.Stats(0).Resent)
}

func TestWhatFailedKeepsItsOrder(t *testing.T) {
	o := New(Config{})
	for i, key := range []string{"a", "b", "c"} {
		o.Add(set(key, expiry.Generation(i+1), 1), 0)
	}
	o.Failed(next(t, o, 0, to("x")), 0)
	o.Add(set("d", 4, 1), 0)
	require.Equal(t, []string{"a1v", "b2v", "c3v", "d4v"}, names(next(t, o, 0, to("y"))))
}

func TestWhatFailedIsCoveredByWhatIsInFlight(t *testing.T) {
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
	require.Equal(t, []string{"a2v"}, names(three))
	o.Answered(three, 1, second/2)
	require.True(t, closed(done))
}

// When the newer of two fails first, it is queued while the older is in flight.
func TestTheNewerOfTwoInFlightFailsFirst(t *testing.T) {
	o := New(Config{})
	o.Add(set("a", 1, 10), 0)
	one := next(t, o, 0, to("x"))
	o.Add(set("a", 2, 10), 0)
	two := next(t, o, 0, to("x"))
	o.Failed(two, 0)
	o.Failed(one, 0)
	require.Equal(t, []string{"a2v"}, names(next(t, o, 0, to("y"))))
	nothing(t, o, 0, to("y"))
}

func TestAClearCoversItsGroup(t *testing.T) {
	o := New(Config{})
	o.Add(set("a", 1, 10), 0)
	other := set("a", 1, 10)
	other.Group = "h"
	o.Add(other, 0)
	done, _ := o.Confirmed("g", "a")
	o.Add(clearAll(3), 0)
	o.Add(set("b", 2, 10), 0)
	o.Add(set("c", 4, 10), 0)
	b := next(t, o, 0, to("x"))
	require.Equal(t, []string{"a1v", "!3", "c4v"}, names(b))
	require.Equal(t, "h", b.Push.Writes[0].Group)
	require.EqualValues(t, 2, o.Stats(0).Coalesced)
	require.False(t, closed(done))
	all, _ := o.Confirmed("g", "any")
	require.False(t, closed(all), "a Clear is about every key")
	o.Answered(b, 1, 0)
	require.True(t, closed(done))
	require.True(t, closed(all))
}

// What has a target already is covered, too.
func TestAClearCoversWhatWaitsForItsTarget(t *testing.T) {
	o := New(Config{Window: 1})
	o.Add(set("a", 1, 10), 0)
	one := next(t, o, 0, to("x"))
	o.Add(set("b", 2, 10), 0)
	nothing(t, o, 0, to("x"))
	o.Add(clearAll(3), 0)
	nothing(t, o, 0, to("x"))
	o.Answered(one, 1, 0)
	require.Equal(t, []string{"!3"}, names(next(t, o, 0, to("x"))))
}

func TestOldest(t *testing.T) {
	o := New(Config{})
	require.Zero(t, o.Stats(second).Oldest)
	o.Add(set("a", 1, 10), 0)
	one := next(t, o, 0, to("x"))
	o.Add(set("b", 1, 10), second)
	o.Add(set("a", 2, 10), 2*second)
	o.Failed(one, 2*second)
	check(t, o)
	require.Equal(t, 3*time.Second, o.Stats(3*second).Oldest, "a2 stands for a1")
	two := next(t, o, 3*second, to("x"))
	require.Equal(t, []string{"b1v", "a2v"}, names(two))
	o.Answered(two, 2, 3*second)
	require.Zero(t, o.Stats(3*second).Oldest)
}

func TestWhatFailedMakesRoomFirst(t *testing.T) {
	o := New(Config{MaxBytes: 2300})
	o.Add(set("a", 1, 500), 0)
	one := next(t, o, 0, to("x"))
	o.Add(set("b", 2, 500), 0)
	o.Failed(one, 0)
	o.Add(remove("c", 3), 0)
	require.Equal(t, []string{"a1", "b2v", "c3"}, names(next(t, o, 0, to("y"))))
}

func TestConfirmed(t *testing.T) {
	o := New(Config{})
	o.Add(set("a", 1, 10), 0)
	other, _ := o.Confirmed("g", "b")
	require.True(t, closed(other))
	done, stop := o.Confirmed("g", "a")
	require.False(t, closed(done))
	stop()
	stop()
	require.Empty(t, o.pending.Front().Value.(*item).waiters, "who has stopped leaves nothing behind")
	o.Answered(next(t, o, 0, to("x")), 1, 0)
	require.False(t, closed(done))
}

func TestFullStripsThenFolds(t *testing.T) {
	const notes = 10
	o := New(Config{MaxBytes: notes * (Overhead + 2 + 100)})
	for i := range notes {
		o.Add(set(fmt.Sprint(i), expiry.Generation(i+1), 100), expiry.Instant(i))
	}
	require.Zero(t, o.Stats(notes).DroppedValues)
	o.Add(remove("x", 20), notes)
	check(t, o)
	require.EqualValues(t, 6, o.Stats(notes).DroppedValues, "the oldest values make room for a floor")
	for i := range notes {
		o.Add(remove(fmt.Sprint("x", i), expiry.Generation(30+i)), notes)
	}
	done, _ := o.Confirmed("g", "0") // folded by now
	check(t, o)
	s := o.Stats(notes)
	require.EqualValues(t, 10, s.DroppedValues)
	require.NotZero(t, s.Collapsed)
	require.LessOrEqual(t, s.Bytes, o.config.MaxBytes)
	require.EqualValues(t, notes, s.Oldest, "of the first that was folded")

	b := next(t, o, notes, to("x"))
	require.True(t, b.Push.Writes[0].Clear, "the floor of the group goes first")
	g := b.Push.Writes[0].Stamp.Generation
	require.Equal(t, expiry.Removal(g), b.Push.Writes[0].Stamp)
	for _, w := range b.Push.Writes[1:] {
		require.Greater(t, w.Stamp.Generation, g)
	}
	require.Equal(t, len(b.Push.Writes), o.Stats(notes).InFlight)
	require.Zero(t, o.Stats(notes).Queued)
	require.False(t, closed(done))
	o.Answered(b, 1, notes)
	require.True(t, closed(done))
}

// What is in flight counts, and is left alone.
func TestFullWithWhatIsInFlight(t *testing.T) {
	o := New(Config{MaxBytes: 3000})
	o.Add(set("a", 1, 1000), 0)
	one := next(t, o, 0, to("x"))
	o.Add(set("b", 2, 200), 0)
	o.Add(set("c", 3, 1000), 0) // to strip b would not be enough
	check(t, o)
	require.EqualValues(t, 1, o.Stats(0).DroppedValues)
	require.True(t, o.valued.Front().Value.(*item).write.Key == "b")
	o.Add(remove("d", 4), 0)
	check(t, o)
	require.EqualValues(t, 2, o.Stats(0).Collapsed)
	require.Equal(t, []string{"a1v"}, names(one))
	o.Failed(one, 0)
	check(t, o)
	require.Equal(t, []string{"!3", "d4"}, names(next(t, o, 0, to("y"))), "a is covered by the floor")
}

// What could not be folded while it was in flight is when it has failed.
func TestFullAfterAFailure(t *testing.T) {
	o := New(Config{MaxBytes: 2000})
	o.Add(set("a", 9, 1000), 0)
	one := next(t, o, 0, to("x"))
	o.Add(remove("b", 2), 0)
	check(t, o)
	require.Greater(t, o.Stats(0).Bytes, int64(2000), "one Clear for the group has to be")
	o.Failed(one, 0)
	check(t, o)
	require.LessOrEqual(t, o.Stats(0).Bytes, int64(2000))
	require.Equal(t, []string{"a9", "!2"}, names(next(t, o, 0, to("y"))))
}

func TestANoteThatIsTooLarge(t *testing.T) {
	o := New(Config{MaxBytes: 4000})
	o.Add(set("a", 1, 2000), 0)
	o.Add(set("b", 2, 4000), 0)
	require.Equal(t, []string{"a1v", "b2"}, names(next(t, o, 0, to("x"))))
	require.EqualValues(t, 1, o.Stats(0).DroppedValues)
}

func TestForget(t *testing.T) {
	o := New(Config{})
	o.Add(set("a", 1, 10), 0)
	o.Add(set("b", 2, 10), 0)
	done, _ := o.Confirmed("g", "a")
	o.Forget("g", 2)
	o.Forget("g", 1)
	o.Forget("another group", 3)
	require.Equal(t, []string{"b2v"}, names(next(t, o, 0, to("x"))))
	require.True(t, closed(done))
	require.EqualValues(t, 1, o.Stats(0).Expired)
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
	require.Equal(t, []string{"a1", "b2v"}, names(two), "a dirty value is wanted beyond its life")
	require.Zero(t, two.Push.Writes[0].Life)
	require.Equal(t, 3*time.Second, two.Push.Writes[1].Age)
}

func TestWake(t *testing.T) {
	o := New(Config{})
	woken := func() bool {
		select {
		case <-o.Wake():
			return true
		default:
			return false
		}
	}
	require.False(t, woken())
	o.Add(set("a", 1, 10), 0)
	o.Add(set("b", 1, 10), 0)
	require.True(t, woken())
	require.False(t, woken())
	b := next(t, o, 0, to("x"))
	o.Answered(b, 1, 0)
	require.True(t, woken(), "there may be room in the window")
	o.Add(set("a", 2, 10), 0)
	require.True(t, woken())
	o.Failed(next(t, o, 0, to("x")), 0)
	require.True(t, woken())
}

// TestOverhead measures what a note that waits costs.
func TestOverhead(t *testing.T) {
	if strconv.IntSize < 64 {
		t.Skip("what is charged is what 64 bits take, so there is less here")
	}
	const n = 20_000
	key := make([]string, n)
	for i := range key {
		key[i] = fmt.Sprintf("%08d", i)
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	o := New(Config{MaxBytes: 1 << 40})
	for i := range key {
		o.Add(message.Write{Group: "g", Key: key[i], Stamp: expiry.Removal(1)}, 0)
	}
	per := float64(heap()-before) / n
	runtime.KeepAlive(o)
	runtime.KeepAlive(key)
	t.Logf("%.0f bytes", per)
	require.InDelta(t, Overhead, per, Overhead/4)
}

func TestConcurrently(t *testing.T) {
	const writers, writes = 4, 500
	o := New(Config{BatchBytes: 300, Window: 4, MaxBytes: 20_000})
	var in Inbox
	var adding, answering sync.WaitGroup
	for w := range writers {
		adding.Go(func() {
			for i := range writes {
				key := fmt.Sprint(i % 7)
				o.Add(set(key, expiry.Generation(1+i*writers+w), 100), 0)
				done, stop := o.Confirmed("g", expiry.Key(key))
				if i%5 == 0 {
					<-done
				}
				stop()
				o.Stats(0)
			}
		})
	}
	finished := make(chan struct{})
	sender := make(chan struct{})
	go func() {
		defer close(sender)
		for {
			b, ok := o.Next(0, to("x"))
			if !ok {
				select {
				case <-o.Wake():
					continue
				case <-finished:
					return
				}
			}
			answering.Go(func() { o.Answered(b, in.Receive("me", b.Push, 0), 0) })
		}
	}()
	adding.Wait()
	close(finished)
	<-sender
	answering.Wait()
	for b, ok := o.Next(0, to("x")); ok; b, ok = o.Next(0, to("x")) {
		o.Answered(b, in.Receive("me", b.Push, 0), 0)
	}
	check(t, o)
	require.Zero(t, o.Stats(0).Bytes)
}
