package regions

import (
	"context"
	"time"
)

// A Node is a process of the cluster as the others see it.
type Node struct {
	ID      string  // unique in the cluster; its place on the ring follows from it
	Region  string  // the region it is in
	Address string  // where its peers reach it, host:port
	Weight  float64 // its share of the keys relative to its neighbours'; 0 means 1
}

// A View is what a Discovery knows at one moment.
type View struct {
	// Nodes are all nodes found, this process's own included once it is
	// registered. A node that is left out is taken to be leaving; see Members
	// for when that is believed.
	Nodes []Node

	// Distances estimates the round trip from this process to each region, by
	// name. It may be nil or leave regions out, and is used only until round
	// trips have been measured.
	Distances map[string]time.Duration
}

// A Discovery finds the nodes of a cluster and announces this one to them.
// Package regions/consul has the one for Consul; Static needs no service.
//
// If a Discovery also has a method Validate() error, that is called before the
// others and reports everything that is wrong with its configuration. If it has a method
// Fits(self Node) error, that is called before Run and reports in what self is not what the
// Discovery says of it. After an error of either the cache does not open.
type Discovery interface {
	// Region returns the name of the region that this process is in, or "" if
	// the discovery has no notion of it. It is called once, before Run, when
	// the user has not named a region.
	Region(ctx context.Context) (string, error)

	// Run announces self and calls found with everything it knows, first as
	// soon as it knows anything and then after every change, until ctx is
	// cancelled. Then it withdraws the announcement and returns nil. Calls to
	// found do not overlap.
	//
	// healthy reports whether the process can serve; a Discovery that keeps a
	// health check passes it on.
	//
	// What can be tried again (an agent that does not answer) Run tries again
	// by itself, saying nothing through found meanwhile: silence leaves the
	// members as they were. An error ends Run; the caller logs it and calls Run
	// again after a while.
	Run(ctx context.Context, self Node, healthy func() error, found func(View)) error
}
