package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain lets this program be a child of the tests, too.
func TestMain(m *testing.M) {
	if child() {
		return
	}
	checkBytes = true
	os.Exit(m.Run())
}

func quickBench() *bench { return &bench{quick: true, rounds: 3, begun: time.Now(), section: "test"} }

func fixed(name string, floor bool, did work, values ...float64) side {
	i := 0
	return side{name, floor, func() (sample, error) {
		v := values[i%len(values)]
		i++
		return sample{map[string]float64{"time": v}, did}, nil
	}}
}

func TestCompareTakesMediansAndRatios(t *testing.T) {
	b := quickBench()
	did := work{reads: 1, bytes: 2}
	require.NoError(t, b.compare("a", []quantity{{"time", "ns", false}},
		fixed("ours", false, did, 1, 100, 2), fixed("theirs", false, did, 8, 4, 4), fixed("limit", true, did, 1)))
	require.Len(t, b.rows, 1)
	r := b.rows[0]
	require.Equal(t, row{Section: "test", Name: "a, time", Unit: "ns", Ours: 2, Theirs: 4, Them: "theirs", Floor: 1, Limit: "limit", Ratio: .5, FloorRatio: 2}, r)
	require.Equal(t, "2× better", r.verdict())
}

// Sides that have done different work are no comparison.
func TestCompareRefusesDifferentWork(t *testing.T) {
	for _, did := range []work{{reads: 2, hits: 1, bytes: 1}, {reads: 1, hits: 0, bytes: 1}, {reads: 1, hits: 1, bytes: 2}, {reads: 1, hits: 1, bytes: 1, writes: 1}} {
		b := quickBench()
		err := b.compare("a", []quantity{{"time", "ns", false}}, fixed("ours", false, work{reads: 1, hits: 1, bytes: 1}, 1), fixed("theirs", false, did, 1))
		require.ErrorContains(t, err, "this is no comparison")
		require.Empty(t, b.rows)
	}
}

func TestAims(t *testing.T) {
	rows := []row{
		{Section: "peer", Name: "1 KiB, 128 callers, throughput", Them: "Redis", Ratio: 1.4},
		{Section: "peer", Name: "1 KiB, 128 callers, throughput", Them: "gRPC", Ratio: 5.9},
		{Section: "visibility", Name: "Remove, 1,000 a second, p99", Ours: 24, Floor: 20},
	}
	var met []bool
	for _, o := range judge(rows) {
		met = append(met, o.Met)
	}
	require.Equal(t, []bool{false, true, true}, met)
}

// The whole program, as far as it takes no time: what it writes has what readers of it
// expect.
func TestRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results", "latest.json")
	require.NoError(t, run(true, "ring", 1, file))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var r struct{ Rows []map[string]any }
	require.NoError(t, json.Unmarshal(text, &r))
	require.NotEmpty(t, r.Rows)
	for _, name := range []string{"name", "ours", "theirs", "them", "floor", "ratio", "unit"} {
		require.Contains(t, r.Rows[0], name)
	}
	require.ErrorContains(t, run(true, "rings", 0, ""), `no section "rings"`)
}

func TestQuantiles(t *testing.T) {
	require.EqualValues(t, 2, median([]float64{3, 1, 2}))
	require.EqualValues(t, 2.5, median([]float64{4, 1, 2, 3}))
	sorted := make([]time.Duration, 100)
	for i := range sorted {
		sorted[i] = time.Duration(i)
	}
	require.EqualValues(t, 50, quantile(sorted, .5))
	require.EqualValues(t, 99, quantile(sorted, .999))
	require.EqualValues(t, 99, quantile(sorted, 1))
}
