// Multiregion shows geocache at work: nine processes of a service in three
// regions, with the delays between them and a database in one of them, while
// nodes, the database and whole regions fail.
//
//	go run ./multiregion
//	go run ./multiregion -consul
//	go run ./multiregion -trace requests.gz -json figures.json
//
// It tells what it does and what readers notice of it, and exits with status 1
// if a promise of the cache was broken. See README.md.
//
// Everything runs on loopback, in processes of this one program: demo.go starts
// and directs them through the scenes of scenes.go, node.go is the service,
// origin.go the database, relay.go the wide area between the regions.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	delays   map[pair]time.Duration // one way
	ttl      time.Duration
	patience patience
	rows     int
	rate     float64
	zipf     float64
	trace    string
	consul   bool
	binary   string // of Consul
	json     string
	logs     string
	scale    float64
	e2e      int
}

func main() {
	isRole, err := runRole(os.Args[1:])
	if !isRole {
		ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = run(ctx, os.Args[1:], os.Stdout)
		cancel()
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (options, error) {
	var o options
	var euUS, usAP, euAP time.Duration
	flags := flag.NewFlagSet("multiregion", flag.ContinueOnError)
	flags.DurationVar(&euUS, "eu-us", 40*time.Millisecond, "one-way delay between eu and us")
	flags.DurationVar(&usAP, "us-ap", 70*time.Millisecond, "one-way delay between us and ap")
	flags.DurationVar(&euAP, "eu-ap", 90*time.Millisecond, "one-way delay between eu and ap")
	flags.DurationVar(&o.ttl, "ttl", 4*time.Second, "time to live of the rows in the cache")
	flags.DurationVar((*time.Duration)(&o.patience), "patience", 500*time.Millisecond, "how long a getter waits for the database; a load takes up to four times that, a reader ten")
	flags.IntVar(&o.rows, "rows", 100_000, "rows in the database, at least")
	flags.Float64Var(&o.rate, "rate", 1800, "reads a second, of all nodes together")
	flags.Float64Var(&o.zipf, "zipf", 1.2, "exponent of the Zipf distribution of the reads, over 1")
	flags.StringVar(&o.trace, "trace", "", "gzip `file` of ids to read instead, one decimal number a line")
	flags.BoolVar(&o.consul, "consul", false, "find nodes by three real Consul datacenters")
	flags.StringVar(&o.binary, "consul-bin", "", "the Consul `binary` (default: .bin/consul here or above)")
	flags.StringVar(&o.json, "json", "", "write the figures to this `file`")
	flags.StringVar(&o.logs, "logs", "", "keep the processes' logs, at debug level, in this `directory`")
	flags.Float64Var(&o.scale, "scale", 1, "make all scenes, and the TTL, this much longer")
	flags.IntVar(&o.e2e, "e2e", 0, "instead of the scenes, do this many `writes` while nodes are killed")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case min(euUS, usAP, euAP) < 0 || o.ttl <= 0 || o.patience <= 0 || o.rows <= 0 || o.rate <= 0 || o.scale <= 0:
		return o, errors.New("delays must not be negative, and ttl, patience, rows, rate and scale must be positive")
	case o.e2e < 0:
		return o, errors.New("e2e must not be negative")
	case o.zipf <= 1:
		return o, errors.New("zipf must be over 1")
	}
	o.ttl = o.scaled(o.ttl)
	o.delays = map[pair]time.Duration{pairOf("eu", "us"): euUS, pairOf("us", "ap"): usAP, pairOf("eu", "ap"): euAP}
	return o, nil
}

func (o options) scaled(d time.Duration) time.Duration {
	return time.Duration(o.scale * float64(d))
}
