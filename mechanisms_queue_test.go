package geocache_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
)

// Stamped anew: what was loaded while a write waited for room in the queue is older than the write,
// and must not pass for newer.
func TestMechanismAWriteThatHasWaitedForRoomIsStampedAnew(t *testing.T) {
	var rows sync.Map
	rows.Store("ada", "old")
	getter := geocache.GetterFunc[string](func(_ context.Context, key string) (string, error) {
		row, _ := rows.Load(key)
		return row.(string), nil
	})
	opts := []geocache.GroupOption{
		geocache.WithSetter(func(_ context.Context, key, value string) error {
			time.Sleep(3 * time.Second)
			rows.Store(key, value)
			return nil
		}),
		geocache.WithRemover(func(context.Context, string) error { return nil }),
		geocache.WithWriteBehind(1 << 10),
	}
	alone(t, geocache.Getter[string](getter), opts, func(t *testing.T, g *geocache.Group[string]) {
		get := func() string {
			v, err := g.Get(t.Context(), "ada")
			require.NoError(t, err)
			return v
		}
		require.NoError(t, g.Set(t.Context(), "bob", strings.Repeat("x", 600))) // which leaves no room
		begun := time.Now()
		var writing sync.WaitGroup
		writing.Go(func() { require.NoError(t, g.Set(t.Context(), "ada", "new")) })
		time.Sleep(2 * time.Second) // more than clocks may differ by: a load of now is no load in doubt
		require.Equal(t, "old", get())
		writing.Wait()
		require.Equal(t, 3*time.Second, time.Since(begun), "it has waited for room")
		require.Equal(t, "new", get())
		time.Sleep(10 * time.Second)
		require.Equal(t, "new", get())
	})
}
