package geocache

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/note"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
)

// What has come is kept only if it is not below the floor, and if it was not loaded before
// the note came, whatever its generation.
func TestMechanismKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, counting())
		keep := func(key string, generation expiry.Generation, age time.Duration) bool {
			born := g.cache.clock.Instant().Add(-age)
			g.keep(answer{entry: g.store.NewEntry(store.Item{Key: key, Stamp: expiry.Loaded(generation), Born: born, Expires: born.Add(time.Minute)})}, g.mark())
			_, ok := g.store.Peek(key)
			return ok
		}
		before := g.cache.clock.Now()
		g.noted("floor")
		time.Sleep(10 * time.Millisecond)
		require.False(t, keep("floor", before, 0))
		require.True(t, keep("floor", g.cache.clock.Now(), 0))

		g.noted("doubt")
		time.Sleep(10 * time.Millisecond)
		require.False(t, keep("doubt", g.cache.clock.Now(), 10*time.Millisecond), "by a clock that is ahead")
		require.True(t, keep("doubt", g.cache.clock.Now(), 9*time.Millisecond))
		g.noted("long ago")
		time.Sleep(5 * time.Second)
		require.True(t, keep("long ago", g.cache.clock.Now(), 6*time.Second), "no clock is so far ahead")
	})
}

// A write that has been under way for as long as its sender waits is not carried out.
func TestMechanismAWriteUnderWayForTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, counting())
		write := func(transit time.Duration) note.Wrote {
			w, err := note.DecodeWrote(g.takeWrite(t.Context(), &note.Write{Op: note.Set, Group: "test", Key: "ada"}, &peers.Call{Transit: transit}).Value)
			require.NoError(t, err)
			return w
		}
		require.True(t, write(g.cache.writeLife()).Late)
		require.Zero(t, g.floors.Floor("ada").Generation)
		require.False(t, write(g.cache.writeLife()/2).Late)
	})
}

// What a node that leaves has handed over is not kept if it is below the floor, or if it was loaded
// so soon after it that this may be due to the clock.
func TestMechanismHandoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, counting())
		written := g.noted("ada")
		handed := func(s expiry.Stamp) bool {
			n := note.Note{Group: "test", Key: "ada", Stamp: s, HasValue: true, Value: []byte("v"), Life: time.Minute}
			ans := g.cache.takeHandoff(&peers.Call{Payload: note.Tell{Notes: []note.Note{n}}.Append(nil)})
			require.Equal(t, peers.CodeOK, ans.Code)
			_, ok := g.Peek("ada")
			g.store.Delete("ada")
			return ok
		}
		drift := 2 * g.cache.config.maxDrift
		require.False(t, handed(expiry.Loaded(written.Add(-time.Second))))
		require.False(t, handed(expiry.Stamp{Generation: written - 1, Origin: 7}), "set before")
		require.False(t, handed(expiry.Loaded(written.Add(drift))))
		require.True(t, handed(expiry.Loaded(written.Add(drift+time.Microsecond))))
		require.True(t, handed(expiry.Stamp{Generation: written + 1, Origin: 7}), "set later")
	})
}

// A write that comes late, below another that was here before it, may have happened after
// that one: what was loaded in between is from before it.
func TestMechanismALateWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, counting())
		removed := func(at expiry.Generation) {
			g.take(&note.Note{Group: "test", Key: "ada", Stamp: expiry.Removal(at)}, 0)
			time.Sleep(10 * time.Millisecond)
		}
		load := func(age time.Duration) bool {
			born := g.cache.clock.Instant().Add(-age)
			stamp := expiry.Loaded(g.cache.clock.Now().Add(200 * time.Millisecond)) // by the fast clock, too
			g.keep(answer{entry: g.store.NewEntry(store.Item{Key: "ada", Stamp: stamp, Born: born, Expires: born.Add(time.Minute)})}, g.mark())
			_, ok := g.store.Peek("ada")
			return ok
		}
		late := g.cache.clock.Now()
		fast := late.Add(100 * time.Millisecond)
		removed(fast)
		require.True(t, load(0))
		time.Sleep(10 * time.Millisecond)
		removed(late)
		_, ok := g.store.Peek("ada")
		require.False(t, ok)
		require.False(t, load(15*time.Millisecond), "began before the late one came")
		require.True(t, load(0))
		removed(fast) // which comes twice
		_, ok = g.store.Peek("ada")
		require.True(t, ok)
	})
}

// One hit in 64 sets the coarse clock, whatever other reads come between.
func TestMechanismHitsKeepTheCoarseClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, counting())
		_, err := g.Get(t.Context(), "ada")
		require.NoError(t, err)
		time.Sleep(time.Second + coarseTick/2)
		for others := range 2 {
			late := int64(g.cache.clock.Instant().Add(-10 * time.Second))
			g.cache.coarse.Store(late) // as if its goroutine were late
			for range 64 {
				_, err := g.Get(t.Context(), "ada")
				require.NoError(t, err)
				for range others {
					_, err := g.GetItem(t.Context(), "ada")
					require.NoError(t, err)
				}
			}
			require.EqualValues(t, g.cache.clock.Instant(), g.cache.coarse.Load())
		}
	})
}

// A group that may keep much remembers as many writes.
func TestFloorLimit(t *testing.T) {
	require.Equal(t, 1<<20, floorLimit(1))
	require.Equal(t, 1<<20, floorLimit(256<<20))
	require.Equal(t, 4<<20, floorLimit(1<<30))
	require.Positive(t, floorLimit(1<<62))
}
