// Fleet shows what changes of membership cost in a fleet of real processes, and fails if copies do
// not come back.
//
//	make fleet                              # 20 processes, 50,000 keys; under 3 minutes on two cores
//	go run ./fleet -nodes 10                # fewer
//	go run ./fleet -nodes 40 -floors 300000 # more
//
// It starts the processes of one region, which talk over loopback and find each other by a static
// list. One of them writes all keys, so that every process has a floor for each, and every process
// reads some that others own, and so holds copies. Then, under a light load,
//
//   - one process is killed, and a new one joins in its place;
//   - all are restarted under a heavier load, one after the other and then in waves. Each closes its
//     cache first and comes back as a new, empty process under the same ID and address;
//   - one is stopped for three leases, as by a machine that swaps, and goes on.
//
// # What is measured, and how
//
// A process serves copies while it would answer a read of another's key from memory. It looks every
// 20 ms, at a key that nobody writes. All serve again when they agree on how many they are, and have
// served for a lease since. (Stats.ServesCopies says the same, but of a new process a little earlier: its
// group has still to catch up.)
//
// Processor time is the user and system time of the processes by getrusage, bytes are those of
// PeerStats.Traffic: each connection is counted once, by the process that dialled it. Both are counted
// from the kill until all serve again, as said above. Beside each is what as much time took before.
//
// The load is on the hot keys, those of the first odd numbers. Nobody reads or writes the others
// meanwhile. Copies of the even ones are counted before and after, by Contains.
//
// The origin is a file that all processes share. It has the version of each key that was written to
// it last, and that whose Set has returned last. A read that returns less than what was acknowledged
// before it began is stale.
//
// The program ends with status 1 if copies do not come back within the patience, if a read or a
// write fails, or if a read is stale. An aim that is missed is only said.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	nodes, wave    int
	floors, copies int
	hot            int
	reads, writes  float64
	lease          time.Duration
	patience       time.Duration
	verbose        bool
}

func main() {
	if isNode() {
		return
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	o, err := parseFlags(os.Args[1:])
	if err == nil {
		err = run(ctx, o, os.Stdout)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (o options, err error) {
	flags := flag.NewFlagSet("fleet", flag.ContinueOnError)
	flags.IntVar(&o.nodes, "nodes", 20, "processes")
	flags.IntVar(&o.wave, "wave", 0, "processes that are restarted at once in the second deploy; 0: a fifth")
	flags.IntVar(&o.floors, "floors", 50_000, "keys that are written, and so floors that each process holds")
	flags.IntVar(&o.copies, "copies", 5_000, "copies that each process holds, at most")
	flags.IntVar(&o.hot, "hot", 5_000, "keys that are read and written under load, at most half of all")
	flags.Float64Var(&o.reads, "reads", 5000, "reads a second in all, in deploys; a fifth of it otherwise")
	flags.Float64Var(&o.writes, "writes", 1000, "writes a second in all, in deploys; a tenth of it otherwise")
	flags.DurationVar(&o.lease, "lease", time.Second, "the lease, see WithLease")
	flags.DurationVar(&o.patience, "patience", 30*time.Second, "how long beyond a lease copies may be away")
	flags.BoolVar(&o.verbose, "v", false, "have the processes log to standard error")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.wave == 0 {
		o.wave = max(o.nodes/5, 1)
	}
	o.hot = min(o.hot, o.floors/2)
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.nodes < 3:
		return o, errors.New("-nodes must be at least 3")
	case o.wave < 1 || o.wave >= o.nodes:
		return o, errors.New("-wave must be at least 1, and less than -nodes")
	case o.floors < 2*o.nodes || o.copies < 1 || o.hot < o.nodes:
		return o, errors.New("-floors must be at least 2 × -nodes, -hot at least -nodes, -copies at least 1")
	case o.lease <= 0 || o.patience <= 0 || o.reads <= 0 || o.writes <= 0:
		return o, errors.New("-lease, -patience, -reads and -writes must be positive")
	}
	return o, nil
}

// run runs all steps. The error is about what kept it from going on or, if nothing did, about the
// promises that were broken.
func run(ctx context.Context, o options, out io.Writer) error {
	f, err := newFleet(ctx, o)
	if err != nil {
		return err
	}
	defer f.killAll()
	t := newTable(out, o, fmt.Sprintf(
		"%d processes of one region on loopback, %d cores, lease %v, %s keys, %s of them hot",
		o.nodes, runtime.NumCPU(), o.lease, thousands(o.floors), thousands(o.hot)))
	begun := time.Now()
	for _, step := range []func(*table) error{
		f.start, f.fill, f.kill, f.join, f.deployEach, f.deployWaves, f.pause,
	} {
		if err := step(t); err != nil {
			return errors.Join(err, f.tally.verdict())
		}
	}
	fmt.Fprintf(out, "\n%d aims missed; %v in all\n", t.missed, time.Since(begun).Round(time.Second))
	return f.tally.verdict()
}
