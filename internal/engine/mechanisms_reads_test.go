package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/store"
)

// red gives all values of a getter the tag red.
func red(getter getter) getter {
	return itemGetterFunc(func(ctx context.Context, key string) (loaded, error) {
		v, err := getter.Get(ctx, key)
		return loaded{Value: v, Tags: []string{"red"}}, err
	})
}

// A write stays known when another floor has taken the place of its own: who knew of it does not get
// what began before it, neither from a flight nor from another node.
func TestMechanismAFloorStandsForThoseItReplaces(t *testing.T) {
	const (
		key   = "ada"
		group = ""
		fold  = "fold"
	)
	tag := string(expiry.Tag("red"))
	for name, test := range map[string]struct {
		late           bool // there is a higher floor before
		write, replace string
	}{
		"a tag's, by a Clear":          {false, tag, group},
		"a tag's, by a fold":           {false, tag, fold},
		"a tag's, by the tag's":        {false, tag, tag},
		"a key's, by a Clear":          {false, key, group},
		"a key's, by the key's":        {false, key, key},
		"a key's late one's, by Clear": {true, key, group},
		"a key's late one's, by fold":  {true, key, fold},
		"a key's late one's, by its":   {true, key, key},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &slowOrigin{}
				g := alone(t, red(o))
				take := func(name string, at expiry.Generation) {
					w := message.Write{Group: "test", Key: name, Scope: name == tag, Stamp: expiry.Removal(at)}
					if name == group || name == fold {
						w.Key, w.Clear, w.Collapsed = "", true, name == fold
					}
					require.NoError(t, g.cache.clock.Merge(at)) // as the frame does that brings the note
					g.apply(&w, 0, 0)
					time.Sleep(5 * time.Millisecond)
				}
				start := g.cache.clock.Now()
				if test.late {
					take(key, start.Add(100*time.Millisecond))
				}
				unaware := g.floors.Seq()
				before := get(g, key)
				item := store.Item{
					Key:     key,
					Value:   WithTags([]string{"red"}, []byte("v")),
					Stamp:   expiry.Loaded(start.Add(150 * time.Millisecond)), // by a clock that is ahead
					Born:    g.cache.clock.Instant(),
					Expires: g.cache.clock.Instant().Add(time.Minute),
					Tagged:  true,
				}
				time.Sleep(5 * time.Millisecond)
				take(test.write, start.Add(5*time.Millisecond))
				aware := g.floors.Seq()
				after := get(g, key)
				take(test.replace, start.Add(200*time.Millisecond))

				o.release(1)
				require.Equal(t, "ada from load 1", <-before, "was there before the write")
				synctest.Wait()
				require.Equal(t, 2, o.total())
				o.release(2)
				require.Equal(t, "ada from load 2", <-after)
				require.False(t, g.fresh.admissible(g.store.NewEntry(item), provenance{}, aware))
				if unaware == 0 {
					require.True(t, g.fresh.admissible(g.store.NewEntry(item), provenance{}, unaware), "who knew of no write may have it")
				}
				if test.write == tag {
					item.Stamp = expiry.Stamp{Generation: start, Origin: 7}
					require.False(t, g.fresh.admissible(g.store.NewEntry(item), provenance{}, aware), "was set with the tag")
				}
			})
		})
	}
}

// What was set is told apart by its stamp: who knew of a lower one may have it, be there a higher one
// by the time it comes. Otherwise a key that is set often would be asked for again and again.
func TestMechanismAValueThatIsReplacedOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, counting())
		g.noted("ada")
		aware := g.floors.Seq()
		at := g.cache.clock.Now()
		set := store.Item{Key: "ada", Stamp: expiry.Stamp{Generation: at, Origin: 7}, Born: g.cache.clock.Instant()}
		loaded := set
		loaded.Stamp = expiry.Loaded(at)
		g.noted("ada")
		require.True(t, g.fresh.admissible(g.store.NewEntry(set), provenance{}, aware))
		require.False(t, g.fresh.admissible(g.store.NewEntry(loaded), provenance{}, aware))
	})
}
