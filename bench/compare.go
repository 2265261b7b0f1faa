package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"
)

// bench is a run of this program.
type bench struct {
	quick   bool
	rounds  int // how often each side of a comparison runs
	begun   time.Time
	section string
	rows    []row
	notes   []string // what the table cannot say: what was left out, and why
}

// note adds a line that goes below the table.
func (b *bench) note(format string, args ...any) {
	b.notes = append(b.notes, fmt.Sprintf(format, args...))
}

// progress says what is being measured.
func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5.0fs  %s: %s\n", time.Since(b.begun).Seconds(), b.section, fmt.Sprintf(format, args...))
}

// A side is one of those that a comparison is between. The first is ours.
type side struct {
	name  string
	floor bool // it is what cannot be beaten, and not something to use instead
	run   func() (sample, error)
}

// A sample is what one run of a side was like: quantities by name, and what it did.
type sample struct {
	quantities map[string]float64
	did        work
}

// work is what a run of a side did. It must be the same for all.
type work struct {
	reads, writes int64
	hits          int64 // reads that found a value
	bytes         int64 // of the values read
}

// A quantity is something that is measured of each side.
type quantity struct {
	name   string
	unit   string
	higher bool // is better
}

// compare runs the sides in turns and adds a row for each quantity and each other
// side, with the medians.
func (b *bench) compare(name string, quantities []quantity, sides ...side) error {
	b.progress("%s", name)
	samples := make([][]sample, len(sides))
	for range b.rounds {
		for i, s := range sides {
			runtime.GC() // what the one before has left is not this one's
			taken, err := s.run()
			if err != nil {
				return fmt.Errorf("%s: %s: %w", name, s.name, err)
			}
			samples[i] = append(samples[i], taken)
			if first := samples[0][0].did; taken.did != first {
				return fmt.Errorf("%s: this is no comparison: %s did %+v, %s did %+v", name, sides[0].name, first, s.name, taken.did)
			}
		}
	}
	for _, q := range quantities {
		of := func(i int) float64 {
			var all []float64
			for _, s := range samples[i] {
				all = append(all, s.quantities[q.name])
			}
			return median(all)
		}
		r := row{Name: name, Unit: q.unit, Higher: q.higher, Ours: of(0)}
		if q.name != "" {
			r.Name += ", " + q.name
		}
		for i, s := range sides {
			if s.floor {
				r.Limit, r.Floor = s.name, of(i)
			}
		}
		alone := true
		for i, s := range sides[1:] {
			if !s.floor {
				r.Them, r.Theirs, alone = s.name, of(i+1), false
				b.add(r)
			}
		}
		if alone {
			b.add(r)
		}
	}
	return nil
}

func median(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

// quantile returns the value below which the share q of the sorted values is.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// mallocs returns how many objects this process has allocated.
func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}
