package geocache

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// This file is Stats and GroupStats as a person reads them in a terminal.

// String returns a report for people: aligned text of many lines. What it says and
// how is not fixed; programs should read the fields.
func (s Stats) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "node %s in region %s", s.Node.ID, s.Node.Region)
	if s.Node.Address != "" {
		fmt.Fprintf(&b, " at %s", s.Node.Address)
	}
	b.WriteByte('\n')
	switch {
	case s.Guest:
		b.WriteString("a guest of its region, which does not list it  ")
	case !s.ServesCopies:
		b.WriteString("not serving from memory: no lease  ")
	case s.Unconfirmed:
		b.WriteString("serving from memory, unconfirmed: no majority of the region  ")
	default:
		b.WriteString("serving from memory  ")
	}
	fmt.Fprintf(&b, "lease losses %s  lost pushes %s  panics %s", count(s.LeaseLosses), count(s.LostPushes), count(s.Panics))
	if !s.Certificate.IsZero() {
		fmt.Fprintf(&b, "  certificate ends %s", s.Certificate.UTC().Format(time.DateTime))
	}
	for _, reason := range slices.Sorted(maps.Keys(s.Refused)) {
		fmt.Fprintf(&b, "  refused (%s) %s", reason, count(s.Refused[reason]))
	}
	b.WriteByte('\n')

	regions := [][]string{append([]string{"region", "nodes", "members", "distance"}, exchangesHead...)}
	outboxes := [][]string{{"to region", "queued", "in flight", "bytes", "lag", "sent", "resent", "coalesced", "lost", "dropped values", "collapsed", "expired"}}
	for _, r := range s.Regions {
		regions = append(regions, append([]string{r.Name, strconv.Itoa(r.Nodes), strconv.Itoa(r.Members), known(r.Distance)}, exchangesRow(r.Exchanges)...))
		if o := r.Outbox; r.Name != s.Node.Region {
			outboxes = append(outboxes, []string{r.Name, count(o.Queued), count(o.InFlight), size(o.Bytes), short(o.Lag),
				count(o.Sent), count(o.Resent), count(o.Coalesced), count(o.Lost), count(o.DroppedValues), count(o.Collapsed), count(o.Expired)})
		}
	}
	nodes := [][]string{append([]string{"peer", "region", "state", "rtt"}, exchangesHead...)}
	for _, p := range s.Peers {
		state := "down"
		if p.Up {
			state = "up"
		}
		nodes = append(nodes, append([]string{p.ID, p.Region, state, known(p.RTT)}, exchangesRow(p.Exchanges)...))
	}
	table(&b, regions)
	table(&b, outboxes)
	table(&b, nodes)

	for _, name := range slices.Sorted(maps.Keys(s.Groups)) {
		fmt.Fprintf(&b, "\ngroup %s\n", name)
		for line := range strings.Lines(s.Groups[name].String()) {
			b.WriteString("  " + line)
		}
	}
	return b.String()
}

// String returns a report for people: aligned text of many lines. What it says and
// how is not fixed; programs should read the fields.
func (s GroupStats) String() string {
	var b strings.Builder
	line := func(label string, figures ...string) {
		fmt.Fprintf(&b, "%-8s %s\n", label, strings.Join(figures, "  "))
	}
	of := func(n uint64) string { return fmt.Sprintf("%s (%s)", count(n), percent(n, s.Reads())) }

	line("reads", count(s.Reads()), "hits "+percent(s.Store+s.Owner, s.Reads()), "misses "+percent(s.Reads()-s.Store-s.Owner, s.Reads()))
	line("from", "store "+of(s.Store), "owner "+of(s.Owner), "region "+of(s.Region), "getter "+of(s.Getter),
		"stale "+of(s.Stale), "not found "+of(s.NotFound), "errors "+of(s.Errors))
	l := s.LoadLatency
	line("loads", count(s.Loads), "errors "+count(s.LoadErrors), "abandoned "+count(s.Abandoned), "refreshes "+count(s.Refreshes),
		"p50 "+quantile(l, l.P50), "p99 "+quantile(l, l.P99), "p999 "+quantile(l, l.P999), "max "+quantile(l, l.Max))
	line("peers", "served "+count(s.Served), "unanswered "+count(s.Unanswered), "owner fallbacks "+count(s.OwnerFallbacks), "decode errors "+count(s.DecodeErrors))

	entries := "entries " + count(s.Entries)
	if s.MaxEntries > 0 {
		entries += " of " + count(s.MaxEntries)
	}
	line("memory", fmt.Sprintf("%s of %s (%s)", size(s.Bytes), size(s.MaxBytes), percent(uint64(s.Bytes), uint64(s.MaxBytes))),
		entries, "floors "+count(s.Floors))
	line("copies", size(s.CopyBytes), "entries "+count(s.Copies))
	line("gone", "evicted "+count(s.Evicted), "expired "+count(s.Expired), "removed "+count(s.Removed), "replaced "+count(s.Replaced), "too large "+count(s.TooLarge))

	line("code", "panics "+count(s.Panics), fmt.Sprintf("evict queue %s (%s)", count(s.EvictQueue), size(s.EvictQueueBytes)), "evict dropped "+count(s.EvictDropped))

	line("writes", count(s.Writes), "errors "+count(s.WriteErrors), "rejected loads "+count(s.RejectedLoads), "retries "+count(s.UpdateRetries), "repaired "+count(s.Repaired),
		"single holder "+count(s.SingleHolder), "given "+count(s.GivenValues))
	if s.OriginWrites+s.OriginErrors > 0 {
		line("origin", "writes "+count(s.OriginWrites), "errors "+count(s.OriginErrors))
	}
	if q := s.WriteBehind; q != (WriteBehindStats{}) {
		line("behind", fmt.Sprintf("queued %s (%s)", count(q.Queued), size(q.QueuedBytes)), fmt.Sprintf("held %s (%s)", count(q.Held), size(q.HeldBytes)),
			"waiting "+count(q.Waiting), "lag "+short(q.Lag), "coalesced "+count(q.Coalesced), "refused "+count(q.Refused))
	}
	return b.String()
}

var exchangesHead = []string{"requests", "errors", "fetches", "p50", "p99", "max", "calls", "p50", "p99", "max"}

func exchangesRow(e Exchanges) []string {
	row := []string{count(e.Requests), count(e.Errors)}
	for _, l := range []Latency{e.FetchLatency, e.CallLatency} {
		row = append(row, count(l.Count), quantile(l, l.P50), quantile(l, l.P99), quantile(l, l.Max))
	}
	return row
}

// table writes rows below their heading, if there are any, after an empty line: the
// first column to the left, the others to the right.
func table(b *strings.Builder, rows [][]string) {
	if len(rows) == 1 {
		return
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		b.WriteByte('\n')
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			switch {
			case i == 0:
				b.WriteString(cell + pad)
			default:
				b.WriteString("  " + pad + cell)
			}
		}
	}
	b.WriteByte('\n')
}

// count returns n in groups of three digits.
func count[N int | uint64](n N) string {
	s := strconv.FormatUint(uint64(n), 10) // nothing that is counted is negative
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// percent returns the share that part is of whole.
func percent(part, whole uint64) string {
	if whole == 0 {
		return "-"
	}
	return strconv.FormatFloat(100*float64(part)/float64(whole), 'f', 1, 64) + "%"
}

// size returns a number of bytes in the largest unit that it has one of.
func size(bytes int64) string {
	n, units := float64(bytes), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for n >= 1024 && len(units) > 1 {
		n, units = n/1024, units[1:]
	}
	return strings.TrimSuffix(strconv.FormatFloat(n, 'f', 1, 64), ".0") + " " + units[0]
}

// short returns d with three digits, or a few more from a minute on.
func short(d time.Duration) string {
	unit := time.Duration(1)
	for d >= 1000*unit {
		unit *= 10
	}
	return d.Round(unit).String()
}

// known is short of a duration of which 0 is that nobody knows it.
func known(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return short(d)
}

// quantile is short of a quantile of l, which may have none.
func quantile(l Latency, d time.Duration) string {
	if l.Count == 0 {
		return "-"
	}
	return short(d)
}
