package geocache_test

import (
	"flag"
	"fmt"
	"sync"
	"testing"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster/history"
)

var (
	historySeed  = flag.Uint64("seed", 0, "run the one history of this seed")
	historySeeds = flag.Uint64("seeds", 200, "how many histories to run")
	historyFirst = flag.Uint64("first", 1, "the seed of the first")
	historyTheme = flag.String("theme", "", "run histories of this theme only; see package history")
	historyLog   = flag.Bool("nodelog", false, "show the log of the nodes where a history is not as promised")
)

func init() { history.SmallMemory = geocache.WithSmallMemory }

// Histories of clusters with faults of every kind are as promised. See package
// history; make torture runs many more.
func TestHistory(t *testing.T) {
	first, n := *historyFirst, *historySeeds
	if *historySeed != 0 {
		first, n = *historySeed, 1
	}
	var mu sync.Mutex
	var all history.Coverage
	t.Cleanup(func() {
		t.Logf("of %d reads %d were checked against the newest write before, and %d excused from that", all.Reads, all.Checked, all.Excused)
		if n >= 20 && all.Checked < all.Excused { // one history may be all isolation
			t.Error("more must be checked: see history.Coverage")
		}
	})
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			config := history.ConfigOf(seed, history.Theme(*historyTheme))
			h := history.Run(t, config)
			t.Log(h.Summary())
			c := h.Coverage()
			mu.Lock()
			all.Reads, all.Checked, all.Excused = all.Reads+c.Reads, all.Checked+c.Checked, all.Excused+c.Excused
			mu.Unlock()
			violations := h.Check()
			if len(violations) == 0 {
				return
			}
			for _, v := range violations[:min(len(violations), 5)] {
				t.Error(v)
			}
			t.Errorf("%d violations in all. To replay (a few times, see package history): go test -race -run TestHistory -seed=%d -v .\nconfig: %+v", len(violations), seed, config)
			for _, f := range h.Faults {
				t.Log(f)
			}
			if *historyLog {
				t.Log(h.Log)
			}
		})
	}
}
