package store

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// traceDir holds real traces and the hit ratios that were measured on them.
func traceDir() string {
	if dir := os.Getenv("GEOCACHE_TRACES"); dir != "" {
		return dir
	}
	return filepath.Join("..", "..", "..", "shared", "traces")
}

// TestTraces replays real traces and holds the hit ratio to that of the
// reference S3-FIFO: nowhere more than a point below.
func TestTraces(t *testing.T) {
	dir := traceDir()
	readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Skipf("no traces to replay: %v", err)
	}
	references := parseReferences(t, string(readme))
	require.NotEmpty(t, references)
	for trace, bySize := range references {
		if raceEnabled && trace != "orm-busy" {
			continue // the detector makes it many times slower, and nothing here is concurrent
		}
		t.Run(trace, func(t *testing.T) {
			t.Parallel()
			keys, distinct := readTrace(t, filepath.Join(dir, trace+".ids.gz"))
			for percent, want := range bySize {
				if raceEnabled && percent != 5 {
					continue
				}
				got := replay(keys, distinct*percent/100)
				t.Logf("%-8s %2d%%: %.3f, reference %.3f", trace, percent, got, want)
				require.GreaterOrEqual(t, got, want-.01, "%s at %d%%", trace, percent)
			}
		})
	}
}

// replay returns the hit ratio of a store that has room for so many entries.
func replay(keys []string, entries int) float64 {
	s := New(Config{MaxBytes: int64(entries) * (keySize + Overhead)})
	hits := 0
	for _, key := range keys {
		if _, ok := s.Get(key); ok {
			hits++
		} else {
			s.Set(&Entry{Key: key})
		}
	}
	return float64(hits) / float64(len(keys))
}

// keySize makes all keys of a trace, and so all entries, equally large.
const keySize = 7

// readTrace returns the requested keys in order, and how many differ.
func readTrace(t *testing.T, file string) (keys []string, distinct int) {
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	r, err := gzip.NewReader(f)
	require.NoError(t, err)
	var names []string // by id; ids are numbered from 0 in order of first use
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		id, err := strconv.Atoi(lines.Text())
		if err != nil || id > len(names) {
			t.Fatalf("%s: unexpected line %q", file, lines.Text())
		}
		if id == len(names) {
			names = append(names, fmt.Sprintf("%0*d", keySize, id))
		}
		keys = append(keys, names[id])
	}
	require.NoError(t, lines.Err())
	return keys, len(names)
}

// parseReferences reads the S3-FIFO column of the README's table: hit ratio by
// trace and by percent of the distinct ids.
func parseReferences(t *testing.T, readme string) map[string]map[int]float64 {
	references := make(map[string]map[int]float64)
	column := -1
	for line := range strings.Lines(readme) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
			if cells[i] == "S3-FIFO" {
				column = i
			}
		}
		if column < 0 || column >= len(cells) {
			continue
		}
		ratio, err := strconv.ParseFloat(cells[column], 64)
		if err != nil {
			continue // the head, or the rule under it
		}
		percent, err := strconv.Atoi(strings.TrimSuffix(cells[1], "%"))
		require.NoError(t, err, line)
		if references[cells[0]] == nil {
			references[cells[0]] = make(map[int]float64)
		}
		references[cells[0]][percent] = ratio
	}
	return references
}
