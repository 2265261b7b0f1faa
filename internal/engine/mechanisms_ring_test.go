package engine

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/internal/testcluster/network"
	"github.com/geocache/geocache/regions"
)

// The second look at the ring: it may change after an entry has been classed by it and before the entry
// can be found by who classes all entries anew. A node would serve without a lease what another one owns, or
// the other way round.
func TestMechanismTheRingChangesWhileAnEntryIsPutIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := network.New(1).Host("here", "eu")
		listener, err := host.Listen()
		require.NoError(t, err)
		cache := open(t, func(c *Config) { c.Region, c.ID, c.Listener, c.Dial = "eu", "here", listener, host.Dial })
		g := newText(t, cache, counting())
		g.setCaughtUp(0)
		cache.membership.apply(cache.members.Found(cache.clock.Instant(), regions.View{Nodes: []regions.Node{
			cache.node, {ID: "there", Region: "eu", Address: "there:1"},
		}}))
		thereIs := func(up bool) {
			cache.membership.apply(cache.members.Health(cache.clock.Instant(), "there", regions.State{Up: up}))
		}
		ours, theirs := 0, 0
		for i := range 20 {
			for _, joins := range []bool{true, false} {
				thereIs(!joins)
				now := cache.clock.Instant()
				e := g.store.NewEntry(store.Item{
					Key: fmt.Sprint(i), Stamp: expiry.Loaded(cache.clock.Now()), Born: now, Expires: now.Add(time.Minute),
				})
				before := g.servesAsOwner(cache.topology().Home, e.Key())
				there := g.insert(e, nil, func() bool {
					thereIs(joins)
					return true
				})
				require.Same(t, e, there)
				after := g.servesAsOwner(cache.topology().Home, e.Key())
				require.Equal(t, !after, e.Leased(), "%d, there joins: %v", i, joins)
				switch {
				case before && !after:
					theirs++
				case after && !before:
					ours++
				}
			}
		}
		require.NotZero(t, ours)
		require.NotZero(t, theirs)
	})
}
