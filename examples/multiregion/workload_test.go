package main

import (
	"compress/gzip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func writeTrace(t *testing.T, lines string) string {
	file := filepath.Join(t.TempDir(), "trace.gz")
	f, err := os.Create(file)
	require.NoError(t, err)
	z := gzip.NewWriter(f)
	_, err = z.Write([]byte(lines))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	require.NoError(t, f.Close())
	return file
}

func TestTraceIsSpread(t *testing.T) {
	keys, rows, err := readTrace(writeTrace(t, "700\n5\n700\n18446744073709551615\n5\n"))
	require.NoError(t, err)
	require.Equal(t, []uint32{0, 1, 0, 2, 1}, keys)
	require.Equal(t, 3, rows)

	file := filepath.Join(t.TempDir(), "keys")
	for i, want := range [][]int{{0, 0, 1, 0}, {1, 2, 1, 2}} {
		require.NoError(t, writeKeys(file, keys, i, 2))
		next, err := fileKeys(file)
		require.NoError(t, err)
		var got []int
		for range want {
			got = append(got, next())
		}
		require.Equal(t, want, got)
	}
}

func TestBadTraces(t *testing.T) {
	_, _, err := readTrace(writeTrace(t, "1\nx\n"))
	require.ErrorContains(t, err, "line 2")
	_, _, err = readTrace(writeTrace(t, ""))
	require.ErrorContains(t, err, "no ids")
}

func TestZipfKeysAreRows(t *testing.T) {
	next := zipfKeys(1, 1.2, 10)
	seen := make([]int, 10)
	for range 10_000 {
		seen[next()]++
	}
	require.Greater(t, seen[0], 3*seen[4])
	require.NotZero(t, seen[9])
}
