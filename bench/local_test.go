package main

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each cache gives back what was put in, and not only something of that length.
func TestLocalCachesAnswer(t *testing.T) {
	t.Run("bytes", func(t *testing.T) { testLocalCaches(t, bytesOf) })
	t.Run("struct", func(t *testing.T) { testLocalCaches(t, userOf) })
}

func testLocalCaches[V any](t *testing.T, of kindOf[V]) {
	var last V
	size := of.size
	of.size = func(v V) int { last = v; return size(v) }
	of.view = false
	keys := makeKeys(500)
	for _, k := range localKinds(of) {
		t.Run(k.name, func(t *testing.T) {
			c, err := k.open(keys)
			require.NoError(t, err)
			for i, key := range keys {
				if !k.readOnly {
					c.set(uint32(i), key)
				}
				n, ok := c.get(uint32(i), key)
				require.True(t, ok, key)
				require.Equal(t, localValue, n)
				require.Equal(t, of.value(i, localValue), last)
			}
			if !k.readOnly {
				_, ok := c.get(0, "no such key")
				require.False(t, ok)
			}
		})
	}
}

func TestUserCodec(t *testing.T) {
	u := userOf.value(7, localValue)
	require.NotEmpty(t, u.Email)
	require.Equal(t, u, decodeUser(encodeUser(u)))
}

// All sides of a comparison do the same, whatever the number of goroutines.
func TestMix(t *testing.T) {
	keys := makeKeys(1000)
	m := newMix(keys, 1<<12)
	c := newXsync(keys, bytesOf)
	for _, goroutines := range []int{1, 2, 16} {
		s, err := m.run(c, 1<<14, goroutines, 10)
		require.NoError(t, err)
		require.EqualValues(t, 1<<14, s.did.reads+s.did.writes)
		require.InDelta(t, 1<<14/10, s.did.writes, 1<<14/50)
		require.Equal(t, s.did.reads*localValue, s.did.bytes)
	}
	_, err := m.run(newXsync(nil, bytesOf), 1<<10, 1, 0)
	require.ErrorContains(t, err, "found nothing")
}

// go test -bench Local -count 6 | benchstat -col /cache -
func BenchmarkLocal(b *testing.B) {
	keys := makeKeys(localKeys)
	m := newMix(keys, 1<<20)
	for _, writes := range []int{0, 10, 50} {
		for _, k := range localKinds(bytesOf) {
			if writes > 0 && k.readOnly {
				continue
			}
			b.Run(fmt.Sprintf("writes=%d/cache=%s", writes, k.name), func(b *testing.B) {
				c, err := k.open(keys)
				require.NoError(b, err)
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					at := rand.IntN(len(m.draws))
					for pb.Next() {
						draw := m.draws[at]
						at = (at + 1) % len(m.draws)
						if i := draw & (1<<drawBits - 1); int(draw>>drawBits) < writes {
							c.set(i, keys[i])
						} else if _, ok := c.get(i, keys[i]); !ok {
							b.Error("nothing found")
						}
					}
				})
			})
		}
	}
}
