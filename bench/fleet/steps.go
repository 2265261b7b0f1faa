package main

import (
	"fmt"
	"time"

	"github.com/geocache/geocache/internal/message"
)

// This file is what is done to the fleet, up to the deploys.

// Aims are for 20 processes on two cores.
const (
	aimCPU   = 5 * time.Second
	aimBytes = 20e6
	aimKept  = .99
)

// start starts all processes at once, as a first deploy does.
func (f *fleet) start(t *table) error {
	t.section("start: all processes at once")
	slots := make([]int, f.nodes)
	for i := range slots {
		slots[i] = i
	}
	begun := time.Now()
	all, err := f.launch(slots...)
	if err != nil {
		return err
	}
	if err := f.await(all, f.nodes, f.lease); err != nil {
		return err
	}
	t.row("all serve copies after", seconds(outageOf(all, begun, time.Now()).back))
	return nil
}

// fill has one process write all keys, and then every process read some.
func (f *fleet) fill(t *table) error {
	t.section("fill: one process writes all keys, every process reads some of others'")
	begun := time.Now()
	written, err := f.order(f.slots[:1], order{Do: errandFill})
	if err != nil {
		return err
	}
	ended := time.Now()
	rate := float64(f.floors) / ended.Sub(begun).Seconds()
	t.row(fmt.Sprintf("Sets by %d callers, a second", callers), thousands(int(rate)))
	t.row("slowest Set", seconds(written.tally.SlowestWrite))
	t.row("longest that a process was without copies", seconds(outageOf(f.running(), begun, ended).longest))
	if err := f.await(f.running(), f.nodes, f.lease); err != nil {
		return err
	}
	held, err := f.order(f.running(), order{Do: errandHold})
	if err != nil {
		return err
	}
	t.row("copies held by all processes together", thousands(held.held))
	return f.loadLightly(f.running())
}

// victim is the slot of the process that is killed, and of that which is stopped.
func (f *fleet) victim() int { return f.nodes / 2 }

// kill kills one process.
func (f *fleet) kill(t *table) error {
	t.section("kill: one process ends by SIGKILL")
	victim := f.slots[f.victim()]
	survivors := f.running(victim)
	if err := f.await(f.running(), f.nodes, f.lease); err != nil {
		return err
	}
	earlier, err := f.report(survivors)
	if err != nil {
		return err
	}
	if err := f.sleep(2 * f.lease); err != nil {
		return err
	}
	before, err := f.order(survivors, order{Do: errandCount})
	if err != nil {
		return err
	}

	begun := time.Now()
	victim.kill()
	f.slots[f.victim()] = nil
	notBack := f.await(survivors, f.nodes-1, f.lease)
	out := outageOf(survivors, begun, time.Now())
	after, err := f.order(survivors, order{Do: errandCount})
	if err != nil {
		return err
	}

	t.lapse("the first copies lapse after", out)
	t.back("all serve copies again after", out, f.lease+time.Second, notBack)
	cpu, bytes := after.since(before)
	usualCPU, usualBytes := before.since(earlier)
	times := after.at.Sub(before.at).Seconds() / before.at.Sub(earlier.at).Seconds()
	t.atMost("processor time of all survivors, until then", cpu, aimCPU)
	t.row("the same, in as much time before the kill", seconds(time.Duration(times*float64(usualCPU))))
	t.aim("bytes between them, until then", megabytes(bytes), "<= "+megabytes(aimBytes), bytes <= aimBytes)
	t.row("the same, in as much time before the kill", megabytes(times*usualBytes))
	if notBack == nil {
		kept := float64(after.held) / float64(max(before.held, 1))
		what := fmt.Sprintf("of %s copies, in memory as before", thousands(before.held))
		t.aim(what, percent(kept), ">= "+percent(aimKept), kept >= aimKept)
	}
	t.calls(after.tally)
	return notBack
}

// join starts a process in the place of the one that was killed.
func (f *fleet) join(t *table) error {
	t.section("join: a new process takes its place")
	others := f.running()
	before, err := f.report(others)
	if err != nil {
		return err
	}

	begun := time.Now()
	joined, err := f.launch(f.victim())
	if err != nil {
		return err
	}
	notBack := f.await(f.running(), f.nodes, f.lease)
	ended := time.Now()
	after, err := f.report(f.running())
	if err != nil {
		return err
	}

	t.back("it serves copies after", outageOf(joined, begun, ended), 0, notBack)
	received := after.received[joined[0].id] - before.received[joined[0].id]
	journal := float64(f.floors * message.Floor{Key: keyName(0)}.Size())
	t.row("it has received", megabytes(received))
	t.row(fmt.Sprintf("the same, in journals of %s", megabytes(journal)), number(received/journal))
	t.row("longest that another was without copies", seconds(outageOf(others, begun, ended).longest))
	t.calls(after.tally)
	if notBack != nil {
		return notBack
	}
	return f.loadLightly(joined)
}

// pause stops one process for three leases.
func (f *fleet) pause(t *table) error {
	t.section("pause: one process is stopped for three leases, and goes on")
	victim := f.slots[f.victim()]
	others := f.running(victim)
	if err := f.loadLightly(f.running()); err != nil {
		return err
	}

	begun := time.Now()
	if err := victim.stop(); err != nil {
		return err
	}
	if err := f.sleep(3 * f.lease); err != nil {
		return err
	}
	resumed := time.Now()
	if err := victim.resume(); err != nil {
		return err
	}
	notBack := f.await(f.running(), f.nodes, f.lease)
	ended := time.Now()
	after, err := f.report(others)
	if err != nil {
		return err
	}
	its, err := f.excused(victim)
	if err != nil {
		return err
	}

	t.row("longest that another was without copies", seconds(outageOf(others, begun, ended).longest))
	all := outageOf(f.running(), resumed, ended)
	t.back("all serve copies again, after it goes on, after", all, 0, notBack)
	t.calls(after.tally)
	t.row("stale reads by the process that was stopped", thousands(its))
	return notBack
}

// excused returns how many stale reads a process has made that was stopped, and forgives it for them: until
// it has heard from the others again it may serve what it owned before.
func (f *fleet) excused(p *process) (stale int, err error) {
	r, err := p.order(f.ctx, order{Do: errandReport})
	if stale, r.Tally.Stale = r.Tally.Stale, 0; r.Tally.Failed == 0 {
		r.Tally.Example = ""
	}
	f.tally.add(r.Tally)
	return stale, err
}
