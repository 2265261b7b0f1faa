package expiry

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// lastMicro is the last microsecond since 1970 that a generation can represent.
const lastMicro = 1<<(64-counterBits) - 1

func TestAtTruncatesToTheMicrosecond(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.Int64Range(0, lastMicro).Draw(t, "us")
		ns := rapid.Int64Range(0, 999).Draw(t, "ns")
		moment := time.UnixMicro(us).Add(time.Duration(ns))
		require.True(t, At(moment).Time().Equal(time.UnixMicro(us)), "truncated to the microsecond")
		require.Zero(t, At(moment)&(1<<counterBits-1), "the lowest of its microsecond")
	})
}

func TestGenerationTimeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := Generation(rapid.Uint64().Draw(t, "g"))
		require.LessOrEqual(t, At(g.Time()), g)
		require.Less(t, g-At(g.Time()), Generation(1<<counterBits))
	})
}

func TestGenerationsFollowTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		moment := time.UnixMicro(rapid.Int64Range(-lastMicro, lastMicro/2).Draw(t, "us"))
		later := moment.Add(time.Duration(rapid.Int64Range(0, 1<<62).Draw(t, "later")))
		require.LessOrEqual(t, At(moment), At(later))
	})
}

func TestAtBeforeTheEpochIsZero(t *testing.T) {
	require.Zero(t, At(time.Time{}))
	require.Zero(t, At(time.Unix(0, -1)))
	require.Zero(t, At(time.Unix(0, 999)))
	require.Equal(t, Generation(1<<counterBits), At(time.Unix(0, 1000)))
}

func TestGenerationAddAndSub(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := Generation(rapid.Uint64Range(0, 1<<62).Draw(t, "g"))
		// Up to 36 years, so that no sum overflows.
		d := time.Duration(rapid.Int64Range(0, 1<<60).Draw(t, "d"))
		whole := d.Truncate(time.Microsecond)

		later := g.Add(d)
		require.Equal(t, whole, later.Sub(g))
		require.Equal(t, -whole, g.Sub(later))
		require.Equal(t, g, later.Add(-d))
		require.Equal(t, g%(1<<counterBits), later%(1<<counterBits), "the counter is kept")

		earlier := g.Add(-d)
		require.LessOrEqual(t, earlier, g)
		if g.Sub(0) > d {
			require.Equal(t, whole, g.Sub(earlier))
		}
	})
}

func TestGenerationAddStopsAtZero(t *testing.T) {
	require.Zero(t, Generation(0).Add(-time.Microsecond))
	require.Zero(t, At(time.Unix(10, 0)).Add(-11*time.Second))
	require.Equal(t, Generation(7), (At(time.Unix(10, 0)) + 7).Add(-10*time.Second))
	require.Equal(t, Generation(7), Generation(7).Add(-time.Nanosecond), "less than a microsecond")
}

func TestGenerationSubAtTheExtremes(t *testing.T) {
	const all = time.Duration(lastMicro) * time.Microsecond
	highest := ^Generation(0)
	require.Equal(t, all, highest.Sub(0))
	require.Equal(t, -all, Generation(0).Sub(highest))
}

func TestGenerationString(t *testing.T) {
	g := At(time.Date(2026, 11, 22, 17, 4, 5, 123_999, time.UTC)) + 7
	require.Equal(t, "2026-11-22T17:04:05.000123Z/7", g.String())
	require.Equal(t, "1970-01-01T00:00:00.000000Z/0", Generation(0).String())
}

func TestGenerationsSaturate(t *testing.T) {
	g := At(time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC))
	require.Zero(t, g.Add(math.MinInt64))
	require.Equal(t, Generation(math.MaxUint64), g.Add(math.MaxInt64))
	require.Zero(t, At(time.Date(1969, 1, 1, 0, 0, 0, 0, time.UTC)))
	require.Equal(t,
		At(time.Date(2500, 1, 1, 0, 0, 0, 0, time.UTC)),
		At(time.Date(2400, 1, 1, 0, 0, 0, 0, time.UTC)))
}
