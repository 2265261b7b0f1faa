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

	TTL  time.Duration
	Rows int
	Rate float64 // reads a second
	Zipf float64 // exponent of the distribution of keys
	Seed uint64
	Keys string // file of keys to read instead, see writeKeys

	Debug bool // log everything
}

type command struct {
	Scene int    // what the reads from now on belong to
	Watch string // measure the waits for what this node owns now
	Stop  bool
}

type nodeMessage struct {
	Ready bool   `json:",omitempty"`
	Tally *tally `json:",omitempty"`
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
