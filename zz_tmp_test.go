package geocache_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/geocache/geocache/internal/testcluster/history"
)

func TestZZ(t *testing.T) {
	for seed := uint64(1); seed <= 40; seed++ {
		config := history.ConfigOf(seed, "regions")
		if config.Comer == "" {
			continue
		}
		h := history.Run(t, config)
		for _, f := range h.Faults {
			fmt.Println(seed, f)
		}
		var shown = h.Faults[0].To
		for _, o := range h.Ops {
			if o.Begin < shown && o.End > shown-2e9 && o.Ack == 2 && o.End-o.Begin > 3e8 {
				fmt.Println(seed, o, o.Confirmed, slices.Contains(o.Confirmed, "sa"))
			}
		}
	}
}
