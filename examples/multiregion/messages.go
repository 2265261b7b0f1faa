package main

import (
	"time"

	"github.com/geocache/geocache/regions"
)

// This file is what the processes say to one another: JSON, one value after the
// other. A child reads its config and then commands from stdin, and writes
// messages to stdout. The end of stdin tells it to end, so that no child
// outlives its parent.

// A row is what the origin's table holds and the cache keeps.
type row struct {
	ID   int    `json:"id"`
	Text string `json:"text"`

	// Version counts the writes of the row, at the origin. Of two rows the one
	// with the lower version is older, whatever the cache says.
	Version uint64 `json:"version"`

	// Read is when the origin read the row. Readers measure the age of a
	// value by it, and so need not believe what the cache says.
	Read time.Time `json:"read"`
}

type originConfig struct {
	Listen string
	File   string
	Rows   int
	Query  time.Duration // how long a query takes
}

type originMessage struct {
	Ready bool  `json:",omitempty"`
	Load  *load `json:",omitempty"`
}

// A load is a query that the origin answered.
type load struct {
	Key    int
	Region string // of the node that asked
	At     time.Time
}

type nodeConfig struct {
	ID     string
	Region string
	Listen string
	Peers  []regions.Node // all nodes, for the static discovery
	Consul string         // the region's agent; the static discovery if empty

	Routes map[string]string // address of a peer in another region: its relay
	Origin string            // where this region reaches the origin

	Patience patience
	TTL      time.Duration
	Rows     int
	Accounts int     // rows that are written, numbered from Rows on
	Rate     float64 // reads a second
	Zipf     float64 // exponent of the distribution of keys
	Seed     uint64
	Keys     string // file of keys to read instead, see writeKeys

	Debug bool // log everything
}

type command struct {
	Scene    int    // what the reads from now on belong to
	Accounts bool   // read accounts, not rows
	Watch    string // measure the waits for what this node owns now
	Stop     bool

	// Beside the reading that goes on; the rest is not set then.
	Job  *job
	Read int // an account to read now
}

type nodeMessage struct {
	Ready    bool      `json:",omitempty"`
	Tally    *tally    `json:",omitempty"`
	Wrote    *wrote    `json:",omitempty"`
	Sighting *sighting `json:",omitempty"`
	Done     *jobDone  `json:",omitempty"` // after all other messages about the job
}

// A job is something to do with accounts: one of Write, Sight, Show and Clear.
type job struct {
	ID    int
	Write *plan // write
	Sight *plan // look out for these writes of another node
	Show  *show
	Clear bool // the whole group, in the whole world
}

// A plan is a run of writes: Rows[i] is due at Start + i·Every, or as soon after
// as its writer is free. Row i is for writer i modulo Writers, and all writes of a
// row are for the same one.
type plan struct {
	Rows    []int
	Start   time.Time
	Every   time.Duration
	Writers int
	Owner   string // leave out the rows that this node does not own at the beginning; empty: none
}

// leftOut stands in a plan for a row that is not to be written, or looked out for.
const leftOut = -1

// show asks for reads of all rows until each gives its version or a later one.
type show struct {
	Versions map[int]uint64
	Patience time.Duration
}

type jobDone struct {
	ID      int
	At      time.Time // of Show: when the last row was seen
	Missing []seen    // of Show: what was seen of the others last
	Clear   *clearing // of Clear
	Err     string    // why it was not done, if it was not
}

// An outcome is what a writer knows of its Set.
type outcome string

const (
	acked       outcome = "acked"       // it returned nil
	unconfirmed outcome = "unconfirmed" // ErrUnconfirmed
	uncertain   outcome = "uncertain"   // ErrUncertain
	failed      outcome = "failed"      // any other error: it has not happened
	notBegun    outcome = "not_begun"   // the origin could not be written, and so nothing was set
)

// wrote is one write: the row in the origin, then the cache.
type wrote struct {
	Row          int
	Version      uint64    // that the origin gave it; 0 if that was not reached
	Began, Ended time.Time // of the Set
	Outcome      outcome
	Err          string `json:",omitempty"`
}

// A sighting is the end of looking out for a write.
type sighting struct {
	Row     int
	Version uint64
	Started time.Time // the read that gave the version
	At      time.Time // when it returned
	Last    *seen     // the last read that gave an older one
}

type clearing struct{ Began, Ended time.Time }

// seen is a read of an account.
type seen struct {
	Row     int
	Version uint64
	Start   time.Time // of the read
	Read    time.Time // row.Read
	Source  string
}

// A tally is what a node's readers have seen since the last one, in one scene.
type tally struct {
	Scene    int
	Answered map[string]uint64 // by source
	Latency  histogram         // of reads that were answered
	MaxAge   time.Duration     // of values not marked stale
	TooOld   []oldValue        // of these, those over the TTL
	Failures []failure
	MaxWait  time.Duration // for a key of the watched node
	First    []int         // keys that this process read for the first time
	Seen     []seen        // all reads of accounts
	At       time.Time     // when the tally was sent
}

type failure struct {
	Key        int
	Start, End time.Time
	Err        string
}

type oldValue struct {
	Key    int
	Age    time.Duration
	Source string
}
