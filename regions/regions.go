package regions

import (
	"context"
	"time"
)

// A Node is a process of the cluster as other processes see it.
type Node struct {
	ID      string  // unique in the cluster; determines its place on the ring
	Region  string  // the region it is in
	Address string  // where peers reach it, as host:port
	Weight  float64 // its share of the keys relative to other nodes of the region; 0 means 1
}

// A View is what a Discovery knows at one moment.
type View struct {
	// Nodes are all nodes found, including this process once it is registered. A node that is missing is
	// assumed to have left; see Members for when that is believed.
	Nodes []Node

	// Distances estimates the round-trip time from this process to each region, by name. It may be nil or
	// incomplete, and is used only for regions whose round-trip time has not been measured yet.
	Distances map[string]time.Duration
}

// A Discovery finds the nodes of a cluster and announces this one to them. Package regions/consul has one
// for Consul; [Static] needs no service.
//
// A Discovery may have two more methods, which are called before those below. Validate() error reports
// everything wrong with its configuration. Fits(self Node) error reports how self differs from what the
// Discovery says about it. If either returns an error, the cache does not open.
type Discovery interface {
	// Region returns the name of the region this process is in, or "" if the discovery cannot tell. It is
	// called once, before Run, if the user has not named a region.
	Region(ctx context.Context) (string, error)

	// Run announces self and calls found with everything it knows: first as soon as it knows anything, then
	// after every change. When ctx is cancelled, it withdraws the announcement and returns nil. It must not
	// call found concurrently.
	//
	// healthy reports whether the process can serve. A Discovery with a health check reports its result
	// there.
	//
	// Run retries by itself what may succeed later, such as a request to an agent that does not answer, and
	// does not call found meanwhile, so the members stay as they are. If it returns an error, the caller
	// logs it and calls Run again after a pause.
	Run(ctx context.Context, self Node, healthy func() error, found func(View)) error
}
