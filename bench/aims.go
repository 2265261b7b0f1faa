package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// An aim is what we want a row to be. One that is missed is shown and fails
// nothing: on another machine, or a busy one, the figures are others.
type aim struct {
	section, name, them string // of the row; an empty them is whichever row has the name
	of                  func(r *row) float64
	quantity            string
	limit               float64
	atLeast             bool
}

func ofRatio(r *row) float64  { return r.Ratio }
func ofFloor(r *row) float64  { return r.FloorRatio }
func ofOurs(r *row) float64   { return r.Ours }
func ofExcess(r *row) float64 { return r.Ours - r.Floor }

var aims = []aim{
	{"local", "bytes, 1 a core, 0% writes, time", "otter", ofRatio, "of otter's time", .9, false},
	{"local", "bytes, 1 a core, 0% writes, time", "groupcache", ofRatio, "of groupcache's time", 1. / 12, false},
	{"local", "bytes, 1 a core, 0% writes, allocations", "otter", ofOurs, "allocations", 0, false},
	{"local", "bytes, 1 a core, 10% writes, time", "otter", ofRatio, "of otter's time", 1, false},
	{"local", "bytes, 1 a core, 50% writes, time", "otter", ofRatio, "of otter's time", 1, false},
	{"peer", "1 KiB, 128 callers, throughput", "groupcache", ofRatio, "of groupcache's throughput", 6, true},
	{"peer", "1 KiB, 128 callers, throughput", "gRPC", ofRatio, "of gRPC's throughput", 6, true},
	{"peer", "1 KiB, 128 callers, throughput", "Redis", ofRatio, "of Redis's throughput", 1.3, true},
	{"peer", "1 KiB, 128 callers, p99", "groupcache", ofRatio, "of groupcache's p99", 1. / 6, false},
	{"peer", "1 KiB, 1 caller, p50", "", ofFloor, "of bare TCP's p50", 1.35, false},
	{"peer", "TLS, 1 KiB, 128 callers, throughput", "geocache without TLS", ofRatio, "of plain throughput", .7, true},
	{"miss", "1,000 callers of one cold key, origin loads", "", ofOurs, "loads", 1, false},
	{"miss", "1,000 callers of one cold key, p99", "", ofExcess, "ms above the origin's time", 10, false},
	{"memory", "1,000 thousand entries of 16 B + 256 B, overhead", "otter", ofOurs, "B an entry", 100, false},
	{"memory", "200 thousand entries of 16 B + 256 B, overhead", "otter", ofOurs, "B an entry", 100, false}, // the short form
	{"memory", "RSS after churn above 1.3 × the bound", "", ofOurs, "MB", 30, false},
	{"visibility", "Remove, 1,000 a second, p99", "", ofExcess, "ms above one way", 5, false},
}

// An outcome is what became of an aim.
type outcome struct {
	Row      string  `json:"row"`
	Them     string  `json:"them"`
	Quantity string  `json:"quantity"`
	Measured float64 `json:"measured"`
	Limit    float64 `json:"limit"`
	AtLeast  bool    `json:"at_least"`
	Met      bool    `json:"met"`
}

// judge returns the outcomes of the aims whose rows are there.
func judge(rows []row) (all []outcome) {
	for _, a := range aims {
		for i := range rows {
			r := &rows[i]
			if r.Section != a.section || r.Name != a.name || a.them != "" && r.Them != a.them {
				continue
			}
			o := outcome{Row: a.section + ": " + r.Name, Them: a.them, Quantity: a.quantity, Measured: a.of(r), Limit: a.limit, AtLeast: a.atLeast}
			o.Met = o.Measured <= o.Limit
			if a.atLeast {
				o.Met = o.Measured >= o.Limit
			}
			all = append(all, o)
			break
		}
	}
	return all
}

func printAims(w io.Writer, rows []row) {
	outcomes := judge(rows)
	if len(outcomes) == 0 {
		return
	}
	fmt.Fprintf(w, "\nAims\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, o := range outcomes {
		most, met := "at most", "met"
		if o.AtLeast {
			most = "at least"
		}
		if !o.Met {
			met = strings.ToUpper("missed")
		}
		fmt.Fprintf(t, "%s\t%s\t%.3g %s\t(%s %.3g)\t\n", met, o.Row, o.Measured, o.Quantity, most, o.Limit)
	}
	t.Flush()
	fmt.Fprintln(w)
}
