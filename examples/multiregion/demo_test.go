package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain lets the demo start this binary in its roles.
func TestMain(m *testing.M) {
	if isRole, err := runRole(os.Args[1:]); isRole {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fields are those of the JSON that others rely on, in all, by scene and by
// region.
var fields = []string{"reads", "errors", "hit_ratio", "max_age_over_ttl", "loads_per_key_per_expiry", "failover_ms", "p50_us", "p99_us"}

func requireFields(t *testing.T, v any) map[string]any {
	m, ok := v.(map[string]any)
	require.True(t, ok)
	for _, field := range fields {
		require.IsType(t, 0.0, m[field], field)
	}
	return m
}

func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("starts ten processes for a quarter of a minute")
	}
	file := filepath.Join(t.TempDir(), "figures.json")
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	defer out.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	runErr := run(ctx, []string{"-scale", "0.35", "-rate", "900", "-json", file}, out)
	told, err := os.ReadFile(out.Name())
	require.NoError(t, err)
	t.Logf("%s", told)
	require.NoError(t, runErr)

	data, err := os.ReadFile(file)
	require.NoError(t, err)
	var all any
	require.NoError(t, json.Unmarshal(data, &all))
	total := requireFields(t, all)
	for _, region := range regionNames {
		requireFields(t, total["regions"].(map[string]any)[region])
	}
	scenes := total["scenes"].([]any)
	require.Len(t, scenes, 5)
	for _, s := range scenes {
		scene := requireFields(t, s)
		require.NotZero(t, scene["reads"])
		for _, region := range regionNames {
			require.NotZero(t, requireFields(t, scene["regions"].(map[string]any)[region])["reads"])
		}
	}
	require.Zero(t, total["errors"])
	require.NotZero(t, total["origin_loads"])
	require.LessOrEqual(t, total["max_age_over_ttl"], 1.0)
	require.NotZero(t, total["failover_ms"])
	require.Equal(t, []any{}, total["broken"])
}

func TestBrokenPromisesAreAnError(t *testing.T) {
	d := &demo{options: options{ttl: time.Second}, screen: &screen{w: io.Discard}}
	d.ledger = newLedger(time.Second, []string{"only"})
	scenes := []*scene{{name: "only"}}
	require.NoError(t, d.conclude(scenes))
	d.ledger.addTally("eu", "eu-1", &tally{TooOld: []oldValue{{Key: 7, Age: 2 * time.Second, Source: "owner"}}})
	err := d.conclude(scenes)
	require.ErrorContains(t, err, `broken in "only", eu: `+fresh)
	require.ErrorContains(t, err, "eu-1 was given row 7 from owner")
}

func TestFlags(t *testing.T) {
	o, err := parseFlags([]string{"-eu-us", "5ms", "-scale", "2"})
	require.NoError(t, err)
	require.Equal(t, 5*time.Millisecond, o.delays[pairOf("us", "eu")])
	require.Equal(t, 8*time.Second, o.ttl)
	for _, bad := range [][]string{{"-zipf", "1"}, {"-rows", "0"}, {"-eu-ap", "-1s"}, {"x"}} {
		_, err := parseFlags(bad)
		require.Error(t, err, bad)
	}
}
