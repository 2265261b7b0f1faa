package main

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestBuckets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "d"))
		b := bucket(d)
		require.LessOrEqual(t, d, upper(b))
		require.LessOrEqual(t, upper(b), d+d/subBuckets)
		require.Equal(t, b+1, bucket(upper(b)+1), "there are no gaps")
	})
}

func TestQuantile(t *testing.T) {
	require.Zero(t, histogram{}.quantile(0.5))
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Int64Range(0, int64(time.Minute)), 1, 100).Draw(t, "durations")
		q := rapid.Float64Range(0, 1).Draw(t, "q")
		a, b := make(histogram), make(histogram)
		for i, d := range all {
			[]histogram{a, b}[i%2].add(time.Duration(d))
		}
		a.merge(b)

		slices.Sort(all)
		exact := all[min(int(q*float64(len(all))), len(all)-1)]
		require.Equal(t, upper(bucket(time.Duration(exact))), a.quantile(q))
	})
}

func TestHistogramTravels(t *testing.T) {
	h := make(histogram)
	h.add(time.Second)
	h.add(time.Second)
	h.add(time.Microsecond)
	data, err := json.Marshal(h)
	require.NoError(t, err)
	var there histogram
	require.NoError(t, json.Unmarshal(data, &there))
	require.Equal(t, h, there)
}
