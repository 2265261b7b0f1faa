package main

import "time"

// This file restarts all processes, as a deploy does.

const (
	aimServed = .95
	aimLoads  = .02
)

func (f *fleet) deployEach(t *table) error {
	t.section("deploy: all are restarted, one after the other")
	return f.deploy(t, 1)
}

func (f *fleet) deployWaves(t *table) error {
	t.section("deploy: all are restarted, in waves of %d", f.wave)
	return f.deploy(t, f.wave)
}

// deploy restarts all processes in waves of so many, under the heavy load. The next wave begins when all
// processes serve copies again. A process ends its own load before it closes, and a new one takes its share
// as soon as it has opened its cache.
func (f *fleet) deploy(t *table, wave int) error {
	if err := f.loadHeavily(f.running()); err != nil {
		return err
	}
	loads, begun := f.loads(), time.Now()
	var seen tally
	var others, joined outage
	var notBack error
	for first := 0; first < f.nodes && notBack == nil; first += wave {
		left := f.slots[first:min(first+wave, f.nodes)]
		from := time.Now()
		closed, err := f.order(left, order{Do: errandClose})
		if err != nil {
			return err
		}
		seen.add(closed.tally)
		started := time.Now()
		come, err := f.restart(first, len(left))
		if err != nil {
			return err
		}
		notBack = f.await(f.running(), f.nodes, 0)
		to := time.Now()
		others.add(outageOf(f.running(come...), from, to))
		joined.add(outageOf(come, started, to))
	}
	ended := time.Now()
	final, err := f.report(f.running())
	if err != nil {
		return err
	}
	seen.add(final.tally)
	t.row("in all", seconds(ended.Sub(begun)))
	t.back("slowest until a new process serves copies", joined, 0, notBack)
	t.aim("time with copies, of those not being restarted", percent(others.share()), ">= "+percent(aimServed),
		others.share() >= aimServed)
	all := outageOf(f.ever, begun, ended)
	t.row("time with copies, of all, from their start to their end", percent(all.share()))
	t.calls(seen)
	if notBack != nil {
		return notBack
	}
	return f.countLoads(t, loads)
}

// countLoads prints how many loads there have been since there were so many, once all that nobody has in
// memory any more has been loaded again.
func (f *fleet) countLoads(t *table, before int) error {
	if _, err := f.order(f.running(), order{Do: errandHot}); err != nil {
		return err
	}
	hot := f.loads()
	if _, err := f.order(f.running(), order{Do: errandCold}); err != nil {
		return err
	}
	perHot := float64(hot-before) / float64(f.hot)
	perCold := float64(f.loads()-hot) / float64(f.floors-f.hot)
	t.aim("loads for each hot key", number(perHot), "<= "+number(aimLoads), perHot <= aimLoads)
	t.row("loads for each other key: nobody read it until the end", number(perCold))
	return nil
}

// restart starts processes in so many slots, from the first, and gives them their share of the heavy load.
func (f *fleet) restart(first, n int) ([]*process, error) {
	var slots []int
	for slot := first; slot < first+n; slot++ {
		f.slots[slot] = nil
		slots = append(slots, slot)
	}
	come, err := f.launch(slots...)
	if err != nil {
		return nil, err
	}
	return come, f.loadHeavily(come)
}
