package main

import (
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/regions"
)

// This file is what the parent and the processes of the fleet say to each other: lines of JSON, over
// the standard input and output of the process.

// nodeConfig is the first line that a process is sent.
type nodeConfig struct {
	Nodes   []regions.Node // all of the fleet, in the order of their slots
	Slot    int            // which of them this process is
	Lease   time.Duration
	Keys    int // that there are
	Hot     int // of these, that are read and written under load
	Copies  int // that it is to hold
	Verbose bool
}

// An order is every further line. Each is answered by a report when it has been carried out.
type order struct {
	Do errand

	// Of errandLoad: how many of each in a second. Zero ends that part of the load.
	Reads, Writes float64
}

// An errand is what a process is told to do.
type errand string

const (
	errandReport errand = "report" // nothing but to report
	errandFill   errand = "fill"   // to write all keys
	errandHold   errand = "hold"   // to read keys that others own, and so to hold copies of them
	errandCount  errand = "count"  // to count which of those are still in memory
	errandHot    errand = "hot"    // to read its part of the hot keys once
	errandCold   errand = "cold"   // to read its part of the others once
	errandLoad   errand = "load"   // to read all hot keys and write its part of them, steadily, from now on
	errandClose  errand = "close"  // to end the load, to close the cache, and to end
)

// A line is what a process says: its state, or its answer to an order.
type line struct {
	State  *state  `json:",omitempty"`
	Report *report `json:",omitempty"`
}

// A state is what a process knows of its region.
type state struct {
	At     time.Time
	Serves bool // copies
	Nodes  int  // that answer, itself included
}

// A report is what a process has done.
type report struct {
	CPU     time.Duration               // since it began
	Traffic map[string]geocache.Traffic // with each peer, over the connections that it dialled
	Loads   int                         // of the origin, since it began
	Held    int                         // of errandHold and errandCount: keys in memory
	Tally   tally                       // since its last report
}

// A tally is what readers and writers have seen.
type tally struct {
	Reads, Writes             int
	SlowestRead, SlowestWrite time.Duration
	Failed, Stale             int
	Example                   string // of what failed or was stale
}

func (t *tally) add(other tally) {
	t.Reads += other.Reads
	t.Writes += other.Writes
	t.SlowestRead = max(t.SlowestRead, other.SlowestRead)
	t.SlowestWrite = max(t.SlowestWrite, other.SlowestWrite)
	t.Failed += other.Failed
	t.Stale += other.Stale
	if t.Example == "" {
		t.Example = other.Example
	}
}
