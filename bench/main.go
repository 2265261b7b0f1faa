// Bench measures geocache beside what one would use instead, on the same keys in
// the same run, and beside a floor: what the machine allows at best. It is a
// module of its own, so that none of those is in the go.mod of a service that uses
// geocache.
//
//	make bench         # everything, under 15 minutes on two cores
//	make bench-quick   # the short form, under 2 minutes
//	go run . -only local,ring
//
// The sides of a comparison run in turns, A B C A B C, and the median of each
// counts, so that a slow moment of the machine hits all. Sides that have done
// different work (reads, hits, bytes) are no comparison: that is an error, and the
// program ends with status 1. So is a side that fails. Being slower is not.
//
// The table goes to standard output, progress to standard error, and all rows to
// results/latest.json. Nothing else should run on the machine meanwhile.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// A section is a part of the table.
type section struct {
	name, title string
	rounds      int // how often each side of a row runs
	run         func(b *bench) error
}

var sections = []section{
	{"local", "Local hit: a read that this process's memory answers", 3, benchLocal},
	{"peer", "Peer hit: a read that another process's memory answers", 2, benchPeer},
	{"miss", "Miss: reads that only the origin can answer", 5, benchMiss},
	{"writes", "Writes, acknowledged by the region", 3, benchWrites},
	{"visibility", "Writes, as another region sees them", 1, benchVisibility},
	{"memory", "Memory", 1, benchMemory},
	{"ring", "Ring: who owns a key", 3, benchRing},
	{"traces", "Hit ratio on real traces", 1, benchTraces},
	{"scale", "Scale: a model of many nodes", 1, benchScale},
}

func main() {
	if child() {
		return
	}
	quick := flag.Bool("quick", false, "the short form: fewer cases and rounds")
	only := flag.String("only", "", "run only these `sections`, separated by commas")
	rounds := flag.Int("rounds", 0, "how `often` each side of a row runs; 0: 1 to 5 times, by how long a row takes, 3 in the short form")
	out := flag.String("out", filepath.Join("results", "latest.json"), "`file` for the rows; empty for none")
	flag.Parse()
	if err := run(*quick, *only, *rounds, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(quick bool, only string, rounds int, out string) error {
	var wanted []string
	if only != "" {
		wanted = strings.Split(only, ",")
	}
	for _, name := range wanted {
		if !slices.ContainsFunc(sections, func(s section) bool { return s.name == name }) {
			return fmt.Errorf("there is no section %q", name)
		}
	}
	b := &bench{quick: quick, begun: time.Now()}
	var errs []error
	for _, s := range sections {
		if wanted != nil && !slices.Contains(wanted, s.name) {
			continue
		}
		b.section, b.rounds = s.name, rounds
		if rounds == 0 {
			b.rounds = s.rounds
			if quick {
				b.rounds = 3
			}
		}
		first := len(b.rows)
		if err := s.run(b); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
		debug.FreeOSMemory()
		printTable(os.Stdout, s.title, b.rows[first:])
	}
	printAims(os.Stdout, b.rows)
	for _, note := range b.notes {
		fmt.Println(note)
	}
	if out != "" {
		errs = append(errs, writeResults(out, b))
	}
	return errors.Join(errs...)
}
