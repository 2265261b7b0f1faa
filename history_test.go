package geocache_test

import (
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster/history"
)

var (
	historySeed  = flag.Uint64("seed", 0, "run only the history of this seed")
	historySeeds = flag.Uint64("seeds", 150, "the number of histories to run")
	historyFirst = flag.Uint64("first", 1, "the seed of the first")
	historyTheme = flag.String("theme", "", "run histories of this theme only; see package history")
	historyLog   = flag.Bool("nodelog", false, "print the nodes' log of histories that break a promise")
	historyFile  = flag.String("failures", "",
		"append to this file how to replay each history that breaks a promise")
)

func init() { history.WithLimits = geocache.WithLimits }

// Histories of clusters with faults of every kind keep all promises. See package history; make
// torture runs many more.
func TestHistory(t *testing.T) {
	first, n := *historyFirst, *historySeeds
	if *historySeed != 0 {
		first, n = *historySeed, 1
	}
	var mu sync.Mutex
	all := make(history.Coverage)
	t.Cleanup(func() {
		t.Log(all)
		if n >= 100 && *historyTheme == "" { // in a few histories, every node may be isolated most of the time
			for _, wrong := range all.Check() {
				t.Error(wrong)
			}
		}
	})
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			config := history.ConfigOf(seed, history.Theme(*historyTheme))
			h := history.Run(t, config)
			t.Log(h.Summary())
			c := h.Coverage()
			mu.Lock()
			all.Add(c)
			mu.Unlock()
			violations := h.Check()
			if len(violations) == 0 {
				return
			}
			for _, v := range violations[:min(len(violations), 5)] {
				t.Error(v)
			}
			replay := fmt.Sprintf("go test -race -run '^TestHistory$' -seed=%d -theme=%s -v .", seed, config.Theme)
			t.Errorf("%d violations in all. To replay (a few times, see package history): %s\nconfig: %+v",
				len(violations), replay, config)
			recordFailure(t, replay, violations)
			for _, f := range h.Faults {
				t.Log(f)
			}
			if *historyLog {
				t.Log(h.Log)
			}
		})
	}
}

// recordFailure appends a history that breaks a promise to the file of those.
func recordFailure(t *testing.T, replay string, violations []history.Violation) {
	if *historyFile == "" {
		return
	}
	f, err := os.OpenFile(*historyFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "%s\n# %s: %s\n", replay, violations[0].Promise, violations[0].What)
}
