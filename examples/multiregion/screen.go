package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/geocache/geocache"
)

// A screen tells a person what happens. On a terminal the last lines are redrawn
// in place; elsewhere only what stays is written.
type screen struct {
	w        io.Writer
	terminal bool
	color    bool
	began    time.Time

	mu    sync.Mutex // guards the following
	block string     // drawn last, below everything else
}

func newScreen(f *os.File) *screen {
	info, err := f.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	return &screen{w: f, terminal: terminal, color: terminal && os.Getenv("NO_COLOR") == "", began: time.Now()}
}

// say writes a line that stays, with the time.
func (s *screen) say(format string, args ...any) {
	s.write(fmt.Sprintf("%5.1fs  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...)))
}

// title writes the heading of a scene.
func (s *screen) title(title string) {
	if s.color {
		title = "\x1b[1m" + title + "\x1b[0m"
	}
	s.write("\n" + title + "\n")
}

// write writes lines that stay above the block.
func (s *screen) write(lines string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprint(s.w, s.eraseLocked()+lines+s.block)
}

// draw replaces the block at the bottom of a terminal.
func (s *screen) draw(block string) {
	if !s.terminal {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprint(s.w, s.eraseLocked()+block)
	s.block = block
}

// keep writes the block for good.
func (s *screen) keep(block string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprint(s.w, s.eraseLocked()+block)
	s.block = ""
}

// eraseLocked returns what erases the block: as many lines up as it has, and
// everything from there on.
func (s *screen) eraseLocked() string {
	if n := strings.Count(s.block, "\n"); n > 0 {
		return fmt.Sprintf("\x1b[%dA\x1b[J", n)
	}
	return ""
}

// table returns the figures of a scene by region. No line is longer than a
// narrow terminal, or erasing it would not work.
func (s *screen) table(l *ledger, scene int, elapsed time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%8s %7s %6s %6s %6s %6s %6s %8s %8s %6s %6s\n", "",
		"reads/s", "store", "owner", "other", "getter", "stale", "p50", "p99", "errors", "no src")
	for _, region := range append(regionNames[:len(regionNames):len(regionNames)], "") {
		c := l.sum(scene, region)
		name := region
		if name == "" {
			name = "all"
		}
		errors := fmt.Sprintf("%6d", c.errors)
		if s.color && c.errors > 0 {
			errors = "\x1b[31m" + errors + "\x1b[0m"
		}
		fmt.Fprintf(&b, "%8s %7.0f", name, float64(c.reads())/max(elapsed.Seconds(), 0.001))
		for _, source := range sources {
			fmt.Fprintf(&b, " %5.1f%%", 100*c.share(source))
		}
		fmt.Fprintf(&b, " %8s %8s %s %6d\n", short(c.latency.quantile(0.5)), short(c.latency.quantile(0.99)), errors, c.noSource)
	}
	return b.String()
}

// sources are the columns of the table: this process, the owner in its region,
// another region, the getter in its region, a stale value.
var sources = []geocache.Source{
	geocache.SourceStore, geocache.SourceOwner, geocache.SourceRegion, geocache.SourceGetter, geocache.SourceStale,
}

// short writes a duration in at most eight characters.
func short(d time.Duration) string {
	switch {
	case d < 100*time.Microsecond:
		return fmt.Sprintf("%.1f µs", float64(d)/float64(time.Microsecond))
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond))
}
