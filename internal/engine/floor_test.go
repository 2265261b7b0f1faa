package engine

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/internal/testcluster/network"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// noted has a node take in that the key has been removed just now, and returns
// when that was.
func (g *Group) noted(key string) expiry.Generation {
	generation := g.cache.clock.Now()
	g.apply(&message.Write{Group: g.name, Key: key, Stamp: expiry.Removal(generation)}, 0, 0)
	return generation
}

// A slowOrigin numbers its loads, and holds each until it is released.
type slowOrigin struct {
	mu    sync.Mutex
	loads []chan struct{}
}

func (o *slowOrigin) Get(_ context.Context, key string) (string, error) {
	o.mu.Lock()
	release := make(chan struct{})
	o.loads = append(o.loads, release)
	n := len(o.loads)
	o.mu.Unlock()
	<-release
	return fmt.Sprintf("%s from load %d", key, n), nil
}

// release lets load n, counted from 1, come to its end.
func (o *slowOrigin) release(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.loads[n-1])
}

func (o *slowOrigin) total() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.loads)
}

// counting answers at once, by how often it was called.
func counting() getter {
	var mu sync.Mutex
	n := 0
	return getterFunc(func(context.Context, string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		n++
		return fmt.Sprintf("load %d", n), nil
	})
}

// alone makes a group in a bubble, on a Cache that is alone.
func alone(t *testing.T, from getter, opts ...groupOption) *textGroup {
	return newText(t, open(t, nil), from, opts...)
}

// get reads key on a goroutine of its own and sends what comes.
func get(g *textGroup, key string) <-chan string {
	got := make(chan string, 1)
	go func() {
		v, err := g.Get(context.Background(), key)
		if err != nil {
			v = err.Error()
		}
		got <- v
	}()
	synctest.Wait()
	return got
}

func TestAFillThatBeganBeforeAWriteIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &slowOrigin{}
		g := alone(t, o)
		before := get(g, "ada")
		g.noted("ada")
		time.Sleep(time.Millisecond) // what begins in the same instant may have begun before
		o.release(1)
		require.Equal(t, "ada from load 1", <-before, "its reader was there before the write")

		_, ok := g.Peek("ada")
		require.False(t, ok)
		after := get(g, "ada")
		require.Equal(t, 2, o.total())
		o.release(2)
		require.Equal(t, "ada from load 2", <-after)
		v, ok := g.Peek("ada")
		require.True(t, ok)
		require.Equal(t, "ada from load 2", v)
	})
}

func TestAFillThatBeganBeforeAWriteIsNotJoinedAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &slowOrigin{}
		g := alone(t, o)
		before := get(g, "ada")
		joined := get(g, "ada")
		require.Equal(t, 1, o.total())

		g.noted("ada")
		time.Sleep(time.Millisecond)
		after := get(g, "ada")
		batch := make(chan map[string]string, 1)
		go func() {
			m, _ := g.GetMany(context.Background(), []string{"ada"})
			batch <- m
		}()
		synctest.Wait()
		require.Equal(t, 2, o.total(), "one load for all who came after the write")

		o.release(2)
		require.Equal(t, "ada from load 2", <-after)
		require.Equal(t, map[string]string{"ada": "ada from load 2"}, <-batch)

		o.release(1) // which comes late, and finds what is newer
		require.Equal(t, "ada from load 2", <-before)
		require.Equal(t, "ada from load 2", <-joined)
		v, _ := g.Peek("ada")
		require.Equal(t, "ada from load 2", v)
	})
}

func TestAClearHidesEverythingAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, counting(), withStaleIfError(time.Hour))
		for i := range 100 {
			_, err := g.Get(t.Context(), fmt.Sprint(i))
			require.NoError(t, err)
		}
		require.Equal(t, 100, g.Stats().Entries)
		g.floors.RaiseGroup(g.cache.clock.Now(), g.cache.clock.Elapsed())
		time.Sleep(time.Millisecond)
		for i := range 100 {
			_, ok := g.Peek(fmt.Sprint(i))
			require.False(t, ok)
			_, ok = g.lookup(fmt.Sprint(i))
			require.False(t, ok)
		}
		item, err := g.GetItem(t.Context(), "7")
		require.NoError(t, err)
		require.Equal(t, "load 101", item.Value)
		time.Sleep(2 * time.Minute)
		require.Equal(t, 1, g.Stats().Entries, "swept, long before they expire")
	})
}

func TestFloorsAreForgottenWhenNothingOlderCanBeAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, counting(), withTTL(time.Minute), withLoadTimeout(10*time.Second), withStaleIfError(time.Hour))
		g.noted("ada")
		time.Sleep(time.Hour + time.Minute + 10*time.Second)
		require.Equal(t, 1, g.Stats().Floors)
		time.Sleep(time.Minute + 2*g.journal.sliceWidth())
		require.Zero(t, g.Stats().Floors)
	})
}

func TestAnAnswerThatIsNotNewerThanTheFloorIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, counting())
		generation := g.cache.clock.Now()
		floor := expiry.Removal(generation)
		answer := peers.Answer{Code: peers.CodeOK, Value: []byte("v"), Life: time.Minute}
		for stamp, want := range map[expiry.Stamp]verdict{
			expiry.Loaded(generation - 1): unusable, expiry.Loaded(generation): unusable,
			floor: answered, expiry.Loaded(generation + 1): answered,
		} {
			answer.Stamp = stamp
			_, verdict := request{fill: fill{g: g.Group, key: "ada", floor: floor}}.judge(t.Context(), regions.Node{}, answer, nil)
			require.Equal(t, want, verdict, "%v under %v", stamp, floor)
			_, ok := g.store.Peek("ada")
			require.Equal(t, want == answered, ok)
			g.store.DeleteFunc("ada", func(*store.Entry) bool { return true })
		}
	})
}

// two returns the two nodes of a region, and a key of the first.
func two(t *testing.T) (owner, other *textGroup, key string) {
	hosts := network.New(1)
	eu1, eu2 := hosts.Host("eu-1", "eu"), hosts.Host("eu-2", "eu")
	from := counting()
	start := func(id string, host *network.Host) *textGroup {
		l, err := host.Listen()
		require.NoError(t, err)
		return newText(t, open(t, func(c *Config) {
			c.ID, c.Region, c.Listener, c.Advertise, c.Dial = id, "local", l, l.Addr().String(), host.Dial
			c.Discovery = regions.Static(
				regions.Node{ID: "eu-1", Region: "local", Address: eu1.Addr()},
				regions.Node{ID: "eu-2", Region: "local", Address: eu2.Addr()})
		}), from)
	}
	owner, other = start("eu-1", eu1), start("eu-2", eu2)
	time.Sleep(5 * time.Second)
	key = "a"
	for other.Locate(key)[0].Owner.ID != "eu-1" {
		key += "a"
	}
	return owner, other, key
}

// The floor travels: an owner that has not heard of the write does not answer
// with what it has.
func TestAnOwnerThatHasNotHeardOfTheWriteLoadsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		owner, other, key := two(t)
		item, err := other.GetItem(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, "load 1", item.Value)

		written := other.noted(key)
		item, err = other.GetItem(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, "load 2", item.Value)
		require.Greater(t, item.Generation, written)
		v, ok := owner.Peek(key)
		require.True(t, ok)
		require.Equal(t, "load 2", v, "and the owner is the wiser for it")

		other.noted(key)
		m, err := other.GetMany(t.Context(), []string{key})
		require.NoError(t, err)
		require.Equal(t, map[string]string{key: "load 3"}, m)
	})
}

func TestAnEntryThatIsNewerButExpiredIsNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, counting())
		now := g.cache.clock.Instant()
		entry := func(generation expiry.Generation, life time.Duration) *store.Entry {
			return g.store.NewEntry(store.Item{Key: "ada", Value: []byte("v"), Stamp: expiry.Loaded(generation), Born: now, Expires: now.Add(life)})
		}
		newer, older := entry(20, time.Second), entry(10, time.Minute)
		g.admit(answer{entry: newer, source: SourceGetter}, g.startFill())
		require.Same(t, newer, g.admit(answer{entry: older, source: SourceGetter}, g.startFill()).entry)
		time.Sleep(2 * time.Second)
		require.Same(t, older, g.admit(answer{entry: older, source: SourceGetter}, g.startFill()).entry)
	})
}
