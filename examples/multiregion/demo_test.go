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
		t.Skip("starts ten processes for half a minute")
	}
	total := requireFields(t, runDemo(t, "-scale", "0.35", "-rate", "300", "-patience", "2s"))
	for _, region := range regionNames {
		requireFields(t, total["regions"].(map[string]any)[region])
	}
	scenes := total["scenes"].([]any)
	require.Len(t, scenes, 9)
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

	visible := total["write_visible_ms"].(map[string]any)
	for _, way := range []string{"eu-eu", "eu-us", "eu-ap"} {
		v := visible[way].(map[string]any)
		require.Greater(t, v["writes"], 0.5*writesInEU, way) // who gets to look too late has seen nothing
		require.GreaterOrEqual(t, v["p50"], v["one_way"], way)
		require.GreaterOrEqual(t, v["p99"], v["p50"], way)
	}
	require.NotZero(t, total["reads_checked"])
	require.NotZero(t, total["converged_ms_after_heal"])
	require.Zero(t, total["stale_after_ack"])
	require.Zero(t, total["lost_invalidations"])
	require.EqualValues(t, 1, total["kills"])
}

func TestEndToEnd(t *testing.T) {
	if testing.Short() {
		t.Skip("starts ten processes for a quarter of a minute")
	}
	total := runDemo(t, "-e2e", "1800", "-rate", "200", "-patience", "5s")
	var writes float64
	outcomes := total["writes"].(map[string]any)
	for _, n := range outcomes {
		writes += n.(float64)
	}
	require.EqualValues(t, 1800, writes)
	// What has not been acknowledged promises nothing, and so checks nothing.
	require.Greater(t, outcomes[string(acked)], 0.95*writes, total["write_errors"])
	require.GreaterOrEqual(t, total["kills"], float64(e2eMinKills))
	require.NotZero(t, total["reads_checked"])
	require.Zero(t, total["stale_after_ack"])
	require.Zero(t, total["lost_invalidations"])
	require.Zero(t, total["errors"])
}

// runDemo runs the program and returns its figures. Ten processes with the race detector may
// want more than the machine has: tests have a patience that they do not run out of.
func runDemo(t *testing.T, args ...string) map[string]any {
	file := filepath.Join(t.TempDir(), "figures.json")
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	defer out.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	runErr := run(ctx, append(args, "-json", file), out)
	told, err := os.ReadFile(out.Name())
	require.NoError(t, err)
	t.Logf("%s", told)
	require.NoError(t, runErr)

	data, err := os.ReadFile(file)
	require.NoError(t, err)
	var all map[string]any
	require.NoError(t, json.Unmarshal(data, &all))
	return all
}

func TestBrokenPromisesAreAnError(t *testing.T) {
	d := &demo{options: options{ttl: time.Second}, screen: &screen{w: io.Discard}}
	d.ledger = newLedger(time.Second, patience(time.Second), []string{"only"})
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
