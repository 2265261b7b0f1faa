package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/outbox"
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
			g.admit(answer{entry: g.store.NewEntry(store.Item{Key: key, Stamp: expiry.Loaded(generation), Born: born, Expires: born.Add(time.Minute)})}, g.startFill())
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
		write := func(transit time.Duration) message.WriteReply {
			w, err := message.DecodeWriteReply(g.committer.handle(t.Context(), &message.WriteRequest{Op: message.Set, Group: "test", Key: "ada"}, &peers.Call{Transit: transit}).Value)
			require.NoError(t, err)
			return w
		}
		require.True(t, write(g.cache.writeLifetime()).Late)
		require.Zero(t, g.floors.Floor("ada").Generation)
		require.False(t, write(g.cache.writeLifetime()/2).Late)
	})
}

// What a node that leaves has handed over is not kept if it is below the floor, or if it was loaded
// so soon after it that this may be due to the clock.
func TestMechanismHandoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, counting())
		written := g.noted("ada")
		handed := func(s expiry.Stamp) bool {
			w := message.Write{Group: "test", Key: "ada", Stamp: s, HasValue: true, Value: []byte("v"), Life: time.Minute}
			ans := g.cache.handleHandoff(&peers.Call{Payload: message.Broadcast{Writes: []message.Write{w}}.Append(nil)})
			require.Equal(t, peers.CodeOK, ans.Code)
			_, ok := g.Peek("ada")
			g.store.DeleteFunc("ada", func(*store.Entry) bool { return true })
			return ok
		}
		drift := 2 * g.cache.config.MaxDrift
		require.False(t, handed(expiry.Loaded(written.Add(-time.Second))))
		require.False(t, handed(expiry.Stamp{Generation: written - 1, Origin: 7}), "set before")
		require.False(t, handed(expiry.Loaded(written.Add(drift))))
		require.True(t, handed(expiry.Loaded(written.Add(drift+time.Microsecond))))
		require.True(t, handed(expiry.Stamp{Generation: written + 1, Origin: 7}), "set later")
	})
}

// A write that comes below another one may have happened after it, by another clock: what
// was loaded before it came dies, whatever the two are, and what was loaded since then stays.
func TestMechanismALateWrite(t *testing.T) {
	kinds := map[string]message.Write{
		"Remove":       {Group: "test", Key: "ada"},
		"Clear":        {Group: "test", Clear: true},
		"Folded":       {Group: "test", Clear: true, Collapsed: true},
		"RemovePrefix": {Group: "test", Key: string(expiry.Prefix("a")), Scope: true},
		"RemoveTag":    {Group: "test", Key: string(expiry.Tag("red")), Scope: true},
	}
	for first, one := range kinds {
		for second, other := range kinds {
			t.Run(first+", then a late "+second, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					g := alone(t, counting())
					take := func(w message.Write, at expiry.Generation) {
						w.Stamp = expiry.Removal(at)
						g.apply(&w, 0, 0)
						time.Sleep(10 * time.Millisecond)
					}
					there := func() bool { _, ok := g.Peek("ada"); return ok }
					load := func(age time.Duration) bool {
						born := g.cache.clock.Instant().Add(-age)
						g.admit(answer{entry: g.store.NewEntry(store.Item{
							Key:     "ada",
							Value:   WithTags([]string{"red"}, []byte("v")),
							Tagged:  true,
							Stamp:   expiry.Loaded(g.cache.clock.Now().Add(200 * time.Millisecond)), // by the fast clock, too
							Born:    born,
							Expires: born.Add(time.Minute),
						})}, g.startFill())
						return there()
					}
					late := g.cache.clock.Now()
					fast := late.Add(100 * time.Millisecond)
					take(one, fast)
					require.True(t, load(0))
					time.Sleep(10 * time.Millisecond)
					take(other, late)
					require.False(t, there())
					g.store.DeleteFunc("ada", func(*store.Entry) bool { return true })
					require.False(t, load(15*time.Millisecond), "began before the late one came")
					require.True(t, load(0))
					take(one, fast) // which comes twice
					require.True(t, there())
				})
			})
		}
	}
}

// A late write raises no floor that would keep a reader from joining a load from before it.
func TestMechanismALateWriteAndALoadUnderWay(t *testing.T) {
	for name, w := range map[string]message.Write{
		"Remove":       {Group: "test", Key: "ada"},
		"Clear":        {Group: "test", Clear: true},
		"RemovePrefix": {Group: "test", Key: string(expiry.Prefix("a")), Scope: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &slowOrigin{}
				g := alone(t, getter(o))
				take := func(at expiry.Generation) {
					w.Stamp = expiry.Removal(at)
					g.apply(&w, 0, 0)
					time.Sleep(5 * time.Millisecond)
				}
				late := g.cache.clock.Now()
				fast := late.Add(100 * time.Millisecond)
				require.NoError(t, g.cache.clock.Merge(fast)) // as the frame does that brings the note
				take(fast)
				before := get(g, "ada")
				time.Sleep(5 * time.Millisecond)
				take(late)
				after := get(g, "ada")
				time.Sleep(5 * time.Millisecond)
				o.release(1)
				time.Sleep(time.Millisecond)
				o.release(2)
				<-before // had begun, and may get either
				require.Equal(t, "ada from load 2", <-after)
			})
		})
	}
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
			g.cache.coarse.now.Store(late) // as if its goroutine were late
			for range 64 {
				_, err := g.Get(t.Context(), "ada")
				require.NoError(t, err)
				for range others {
					_, err := g.GetItem(t.Context(), "ada")
					require.NoError(t, err)
				}
			}
			require.EqualValues(t, g.cache.clock.Instant(), g.cache.coarse.now.Load())
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

// A region that has just been found has confirmed nothing before it has been sent what was written
// before.
func TestMechanismARegionThatIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, counting())
		r := &remote{Outbox: outbox.New(outbox.Config{}), filled: make(chan struct{})}
		g.cache.replicator.outboxes.Store("us", r)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		confirmed := make(chan error, 1)
		go func() {
			confirmed <- g.cache.replicator.awaitConfirmed(ctx, &message.AwaitRequest{Group: "test", Key: "ada", Region: "us"})
		}()
		synctest.Wait()
		require.Empty(t, confirmed)
		g.noted("ada")
		g.cache.replicator.backfill(r)
		synctest.Wait()
		require.Empty(t, confirmed)
		b, ok := r.Next(0, func(*message.Write) (string, bool) { return "us-1", true })
		require.True(t, ok)
		require.Equal(t, "ada", b.Push.Writes[0].Key)
		r.Answered(b, 1, 0)
		require.NoError(t, <-confirmed)
	})
}
