package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
)

// What of the notes that come for a key leaves a write of it where it is.
func TestNotesThatDoNotReplaceAQueuedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := open(t, nil)
		fails := errors.New("down")
		g := newText(t, cache,
			getterFunc(func(context.Context, string) (string, error) { return "", ErrNotFound }),
			func(c *textConfig) {
				c.GroupConfig.Set = func(context.Context, string, []byte) error { return fails }
				c.GroupConfig.Remove = func(context.Context, string) error { return fails }
				c.WriteBehind = 1 << 20
			})
		require.NoError(t, g.Set(t.Context(), "ada", "1"))
		w, ok := g.origin.queue.Lookup("ada")
		require.True(t, ok)
		// Former owners are asked for what they have, be it evicted.
		g.store.DeleteFunc("ada", func(*store.Entry) bool { return true })
		ans, ok := handler{cache}.Lookup(&peers.Request{Group: "test", Key: "ada", Peek: true})
		require.True(t, ok)
		require.Equal(t, w.Stamp, ans.Stamp)
		require.Equal(t, "1", string(ans.Value))

		for name, told := range map[string]message.Write{
			"its own":   {Stamp: w.Stamp},
			"passed on": {Stamp: w.Stamp, HasValue: true, Value: w.Value, Life: time.Minute},
			"held":      {Stamp: w.Stamp, HasValue: true, Value: w.Value, Life: time.Minute, Dirty: true},
			"older":     {Stamp: expiry.Removal(w.Stamp.Generation - 1)},
			"loaded":    {Stamp: expiry.Loaded(w.Stamp.Generation + 1), HasValue: true},
			"cleared":   {Stamp: expiry.Removal(w.Stamp.Generation + 1), Clear: true},
		} {
			told.Group, told.Key = "test", "ada"
			require.NoError(t, g.origin.supersede(&told))
			still, _ := g.origin.queue.Lookup("ada")
			require.Equal(t, w, still, name)
		}
		require.NoError(t, g.origin.supersede(&message.Write{Key: "ada", Stamp: expiry.Removal(w.Stamp.Generation + 1)}))
		_, ok = g.origin.queue.Lookup("ada")
		require.False(t, ok)
	})
}
