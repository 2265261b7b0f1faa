package engine

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
)

// A node says of an entry that it was not loaded before a Clear only if it knows that very Clear, has dropped what
// is older, and still has the entry.
func TestMechanismSinceAClear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, counting())
		h := handler{g.cache}
		ask := func(floor expiry.Stamp) bool {
			ans, ok := h.Lookup(&peers.Request{Group: g.name, Key: "ada", Floor: floor, Hop: peers.HopOwner})
			require.True(t, ok)
			return ans.SinceClear
		}
		other := g.cache.clock.Now()
		time.Sleep(time.Millisecond)
		generation := g.cache.clock.Now()
		g.apply(&message.Write{Group: g.name, Clear: true, Stamp: expiry.Removal(generation)}, 0, 0)
		time.Sleep(time.Millisecond)
		_, err := g.Get(t.Context(), "ada")
		require.NoError(t, err)
		require.True(t, ask(expiry.Removal(generation)))
		require.False(t, ask(expiry.Removal(other)), "it may not know of that one")
		require.False(t, ask(expiry.Stamp{Generation: generation, Origin: 7}), "that is not a Clear")

		g.clearing.Add(1)
		require.False(t, ask(expiry.Removal(generation)), "older entries may still be there")
		g.clearing.Add(-1)

		e, ok := g.store.Peek("ada")
		require.True(t, ok)
		require.True(t, h.reply(g.Group, expiry.Removal(generation), answer{entry: e}).SinceClear)
		g.store.DeleteIf(e)
		require.False(t, h.reply(g.Group, expiry.Removal(generation), answer{entry: e}).SinceClear, "it may have been dropped")

		time.Sleep(time.Minute)
		_, err = g.Get(t.Context(), "ada")
		require.NoError(t, err)
		require.False(t, ask(expiry.Removal(generation)), "nobody doubts it so long after")
	})
}

// What the owner says of a Clear, a node passes on to another region only if that asked about this very Clear.
func TestMechanismSinceAClearForAnotherRegion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		owner, other, key := two(t)
		earlier := owner.cache.clock.Now()
		time.Sleep(time.Millisecond)
		generation := owner.cache.clock.Now()
		for _, g := range []*textGroup{owner, other} {
			g.apply(&message.Write{Group: g.name, Clear: true, Stamp: expiry.Removal(generation)}, 0, 0)
		}
		time.Sleep(time.Millisecond)
		_, err := owner.Get(t.Context(), key)
		require.NoError(t, err)
		ask := func(floor expiry.Generation) bool {
			ans := handler{other.cache}.Load(t.Context(), &peers.Request{
				Group: other.name, Key: key, Floor: expiry.Removal(floor), Hop: peers.HopRegion, Region: "elsewhere",
			})
			require.Equal(t, peers.CodeOK, ans.Code)
			return ans.SinceClear
		}
		require.True(t, ask(generation))
		require.False(t, ask(earlier), "it may be of another Clear")
	})
}

// Whoever is told so believes it of that Clear, as long as no other write has come that its floor covers.
func TestMechanismSinceAClearIsBelievedOfThatClear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, counting())
		born, generation := g.cache.clock.Instant(), g.cache.clock.Now()
		time.Sleep(time.Millisecond)
		g.apply(&message.Write{Group: g.name, Clear: true, Stamp: expiry.Removal(generation)}, 0, 0)
		e := g.store.NewEntry(store.Item{
			Key: "ada", Stamp: expiry.Loaded(generation + 1), Born: born, Expires: born.Add(time.Minute),
		})
		believed := func(clear expiry.Generation) bool {
			return g.fresh.admissible(e, provenance{cleared: clear}, anySeq)
		}
		require.True(t, believed(generation))
		require.False(t, believed(0))
		require.False(t, believed(generation-1))
		g.apply(&message.Write{Group: g.name, Key: "bob", Stamp: expiry.Removal(generation - 1)}, 0, 0)
		require.False(t, believed(generation), "what is late may be later")
	})
}

// A second Clear drops what the first had left, also if its floor is there already.
func TestMechanismAClearAtTheGroupsFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, counting())
		generation := g.cache.clock.Now()
		time.Sleep(time.Millisecond)
		_, err := g.Get(t.Context(), "ada")
		require.NoError(t, err)
		g.floors.RaiseGroup(generation, g.cache.clock.Elapsed())
		_, ok := g.store.Peek("ada")
		require.True(t, ok, "it was loaded later, by some clock")
		g.apply(&message.Write{Group: g.name, Clear: true, Stamp: expiry.Removal(generation)}, 0, 0)
		_, ok = g.store.Peek("ada")
		require.False(t, ok)
	})
}
