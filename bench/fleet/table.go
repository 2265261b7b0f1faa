package main

import (
	"fmt"
	"io"
	"strconv"
	"time"
)

// A table prints rows as they come, each figure beside what it should be.
type table struct {
	options
	w      io.Writer
	missed int // aims
}

func newTable(w io.Writer, o options, title string) *table {
	fmt.Fprintf(w, "%s\n\n%-60s %14s   %s\n", title, "", "measured", "aim")
	return &table{options: o, w: w}
}

// section begins a part of the table.
func (t *table) section(format string, args ...any) { fmt.Fprintf(t.w, "\n"+format+"\n", args...) }

// row prints a figure that has no aim.
func (t *table) row(what, measured string) { fmt.Fprintf(t.w, "  %-58s %14s\n", what, measured) }

// aim prints a figure and what it should be.
func (t *table) aim(what, measured, aim string, met bool) {
	verdict := "met"
	if !met {
		verdict = "MISSED"
		t.missed++
	}
	fmt.Fprintf(t.w, "  %-58s %14s   %-10s %s\n", what, measured, aim, verdict)
}

// atMost prints a duration that should be at most limit.
func (t *table) atMost(what string, d, limit time.Duration) {
	t.aim(what, seconds(d), "<= "+seconds(limit), d <= limit)
}

// lapse prints when an outage began.
func (t *table) lapse(what string, o outage) {
	if !o.lapsed {
		t.row(what, "never")
		return
	}
	t.row(what, seconds(o.first))
}

// back prints when an outage was over, if it was, and what that should be at most. Zero is as long as there
// is patience.
func (t *table) back(what string, o outage, limit time.Duration, notBack error) {
	patience := t.lease + t.patience
	if limit == 0 {
		limit = patience
	}
	if notBack != nil {
		t.aim(what, "> "+seconds(patience), "<= "+seconds(limit), false)
		return
	}
	t.atMost(what, o.back, limit)
}

// calls prints what readers and writers have seen.
func (t *table) calls(seen tally) {
	t.row(fmt.Sprintf("slowest of %s reads", thousands(seen.Reads)), seconds(seen.SlowestRead))
	t.atMost(fmt.Sprintf("slowest of %s writes", thousands(seen.Writes)), seen.SlowestWrite, 2*t.lease)
	t.aim("reads and writes that failed", thousands(seen.Failed), "0", seen.Failed == 0)
	t.aim("stale reads", thousands(seen.Stale), "0", seen.Stale == 0)
}

func number(v float64) string { return fmt.Sprintf("%.3g", v) }

func seconds(d time.Duration) string { return number(d.Seconds()) + " s" }

func megabytes(bytes float64) string { return number(bytes/1e6) + " MB" }

func percent(share float64) string { return fmt.Sprintf("%.4g %%", 100*share) }

// thousands formats n with commas.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
