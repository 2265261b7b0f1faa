package expiry

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestJitterTakesOffATenthAtMost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ttl := time.Duration(rapid.Int64Range(1, int64(20*365*24*time.Hour)).Draw(t, "ttl"))
		life := JitterTTL(ttl, rapid.Uint64().Draw(t, "hash"))
		if life > ttl || life < ttl-ttl/jitterShare {
			t.Fatalf("a ttl of %v became %v", ttl, life)
		}
	})
	require.Equal(t, 10*time.Minute, JitterTTL(10*time.Minute, 0))
	shortest := JitterTTL(10*time.Minute, ^uint64(0))
	require.InDelta(t, float64(9*time.Minute), float64(shortest), float64(time.Second))
}
