package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"
)

// resealed returns data with the sums of its blocks made right, as far as it has blocks.
func resealed(data []byte) []byte {
	b := bytes.Clone(data)
	sum := uint64(0)
	for at := len(snapshotMagic); at+blockHead <= len(b); {
		end := uint64(at) + blockHead + uint64(binary.BigEndian.Uint32(b[at+1:]))
		if end+8 > uint64(len(b)) {
			break
		}
		sum = xxh3.HashSeed(b[at:end], sum)
		binary.BigEndian.PutUint64(b[end:], sum)
		at = int(end) + 8
	}
	return b
}

// Whatever is restored, it is refused or taken in, and what is served afterwards keeps the
// promises.
func FuzzRestore(f *testing.F) {
	start := func(t testing.TB) (*Cache, *textGroup) {
		cache := open(t, func(c *Config) { c.Clock = nil })
		return cache, newText(t, cache, getterFunc(func(_ context.Context, key string) (string, error) { return key, nil }),
			withTTL(time.Hour), withMaxBytes(64<<10))
	}
	cache, g := start(f)
	for i := range 3 {
		var b bytes.Buffer
		require.NoError(f, g.Snapshot(&b))
		f.Add(b.Bytes(), true)
		f.Add(b.Bytes()[:b.Len()/2], false)
		require.NoError(f, g.Set(context.Background(), string(rune('a'+i)), "value"))
		require.NoError(f, g.Remove(context.Background(), "removed"))
		_, err := g.Get(context.Background(), "loaded")
		require.NoError(f, err)
	}
	require.NoError(f, cache.Close(context.Background()))

	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		if seal {
			data = resealed(data)
		}
		cache, g := start(t)
		defer cache.Close(context.Background())
		n, err := g.Restore(bytes.NewReader(data))
		if err != nil {
			require.ErrorIs(t, err, ErrSnapshot)
		}
		s := g.Stats()
		require.LessOrEqual(t, s.Bytes, s.MaxBytes)
		if err == nil {
			require.LessOrEqual(t, s.Entries, n)
		}
		for e := range g.store.All() {
			require.LessOrEqual(t, e.Expires.Sub(e.Born()), time.Hour)
			require.Less(t, cache.clock.Instant(), e.Born().Add(time.Hour))
			require.False(t, e.Below(g.floors.Floor(e.Key())))
		}
		// Writes are newer than whatever was restored.
		require.NoError(t, g.Set(context.Background(), "a", "new"))
		v, err := g.Get(context.Background(), "a")
		require.NoError(t, err)
		require.Equal(t, "new", v)
	})
}
