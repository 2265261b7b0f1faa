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

// A write that there is no room for, because the origin does not have it yet, keeps no other write of a
// message from being applied. The answer names it, since only it has to be sent again.
func TestMechanismARefusedWriteIsRefusedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := open(t, nil)
		g := newText(t, cache, counting(), func(c *textConfig) {
			c.GroupConfig.Set = func(context.Context, string, []byte) error { return errors.New("down") }
			c.WriteBehind = 1 << 10
		})
		stamp := expiry.Stamp{Generation: cache.clock.Now(), Origin: 7}
		write := func(key string, size int) message.Write {
			return message.Write{
				Group: "test", Key: key, Stamp: stamp, Dirty: size > 0,
				HasValue: size > 0, Value: make([]byte, size), Life: time.Minute,
			}
		}
		ans, ok := handler{cache}.Take(&peers.Call{Method: message.MethodBroadcast, Payload: message.Broadcast{
			Writes: []message.Write{write("before", 0), write("too large", 2<<10), write("small", 10), write("after", 0)},
		}.Append(nil)})
		require.True(t, ok)
		require.Equal(t, peers.CodeOK, ans.Code)
		m, err := message.DecodeBroadcastReply(ans.Value)
		require.NoError(t, err)
		require.Equal(t, []uint32{1}, m.Refused)
		for _, key := range []string{"before", "small", "after"} {
			require.Equal(t, stamp, g.floors.Floor(key), key)
		}
		require.NotEqual(t, stamp, g.floors.Floor("too large"))
	})
}
