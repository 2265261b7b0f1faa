package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	e2eRound    = 2500 // writes, of all regions together, for each kill
	e2eMinKills = 3
	e2eReads    = 3  // reads for each write, so that -rate sets the pace of both
	e2eWriters  = 40 // in each region: what may wait for the origin at the same time

	busyShare   = 5    // of the writes, one in so many is made while nothing fails
	busyRate    = 1000 // at this many a second, of all regions together
	busyWriters = 100
	busySample  = 9 // one in so many of these is looked out for in every region
)

// endToEnd returns the one scene of -e2e: in each region a node writes, first at a high rate, and
// then while it or others are killed and restarted, in rounds. Between rounds nobody writes, so that the
// ledger can judge, and the writers change.
func (d *demo) endToEnd() []*scene {
	return []*scene{{name: "end to end", title: fmt.Sprintf("%d writes while nodes are killed", d.options.e2e), accounts: true,
		play: func(ctx context.Context) error {
			if err := d.load(ctx); err != nil {
				return err
			}
			left := d.options.e2e
			if err := d.busy(ctx, left/busyShare); err != nil {
				return err
			}
			left -= left / busyShare
			d.ledger.judgeAccounts()
			kills := max(e2eMinKills, d.options.e2e/e2eRound)
			for round := range kills {
				n := left / (kills - round)
				left -= n
				if err := d.round(ctx, round, n); err != nil {
					return err
				}
				d.ledger.judgeAccounts()
			}
			ended := time.Now()
			at, err := d.show(ctx, d.nodes, d.ledger.accounts.acknowledged())
			d.converged = at.Sub(ended)
			return err
		}}}
}

// shareOf returns how many of n writes the i-th region makes, and the rows that are its own.
func (d *demo) shareOf(i, n int) (writes int, rows []int) {
	regions, share := len(regionNames), accounts/len(regionNames)
	return n*(i+1)/regions - n*i/regions, d.accounts(i*share, (i+1)*share)
}

// busy has each region write its share of n writes at a high rate, while a node of each
// looks out for some of them.
func (d *demo) busy(ctx context.Context, n int) error {
	var jobs []<-chan *jobDone
	for i, region := range regionNames {
		p := d.planned(nil, time.Second*time.Duration(len(regionNames))/busyRate)
		p.Writers = busyWriters
		writes, rows := d.shareOf(i, n)
		for j := range writes {
			p.Rows = append(p.Rows, rows[j%len(rows)])
		}
		sample := *p
		sample.Rows = slices.Clone(p.Rows)
		for j := range sample.Rows {
			if j%busySample != 0 {
				sample.Rows[j] = leftOut
			}
		}
		jobs = append(jobs, d.order(d.node(region+"-1"), job{Write: p}))
		for _, other := range regionNames {
			jobs = append(jobs, d.order(d.node(other+"-3"), job{Sight: &sample}))
		}
	}
	_, err := collect(ctx, jobs...)
	return err
}

// round has each region write its share of n writes, and kills a node.
func (d *demo) round(ctx context.Context, round, n int) error {
	plans := make(map[*node]*plan)
	writing := make(map[*node]<-chan *jobDone)
	every := time.Duration(float64(len(regionNames)*e2eReads) / d.options.rate * float64(time.Second))
	var writers, others []*node
	for i, region := range regionNames {
		var nodes []*node
		for _, n := range d.nodes {
			if n.config.Region == region {
				nodes = append(nodes, n)
			}
		}
		w := nodes[round%len(nodes)]
		writers = append(writers, w)
		for _, n := range nodes {
			if n != w {
				others = append(others, n)
			}
		}
		p := d.planned(nil, every)
		p.Writers = e2eWriters
		writes, rows := d.shareOf(i, n)
		for j := range writes {
			// Any row of those that are the j-th one's writer's.
			row := j%p.Writers + p.Writers*rand.IntN(len(rows)/p.Writers)
			p.Rows = append(p.Rows, rows[row])
		}
		plans[w] = p
		writing[w] = d.order(w, job{Write: p})
	}

	// A third into it; now and then both of a region that do not write, or the one that does.
	i := rand.IntN(len(others))
	victims := others[i : i+1]
	switch round % 4 {
	case 1:
		i = rand.IntN(len(writers))
		victims = writers[i : i+1]
	case 3:
		victims = others[i/2*2 : i/2*2+2]
	}
	trap := d.setTrap(max(n/len(regionNames)/3, 1), victims...)
	if err := trap.wait(ctx); err != nil {
		return err
	}
	if err := d.sleep(ctx, rand.N(2*time.Second)); err != nil {
		return err
	}
	for _, n := range victims {
		if err := d.startNode(n); err != nil {
			return err
		}
	}
	for _, n := range victims {
		if err := d.awaitNode(ctx, n); err != nil {
			return err
		}
		n.process.Load().send(command{Accounts: true})
		if p := plans[n]; p != nil {
			p.leaveOut(n.told)
			writing[n] = d.order(n, job{Write: p})
		}
	}
	for _, w := range writers {
		if _, err := collect(ctx, writing[w]); err != nil {
			return err
		}
	}
	return nil
}

// leaveOut has a plan go on with what has not been told of when its node was killed. A write
// that was under way then is made once more: the row is given another version, and of the first one
// nobody knows whether it was written.
func (p *plan) leaveOut(told map[int]int) {
	next := len(p.Rows)
	for i, row := range p.Rows {
		if told[row] > 0 {
			told[row]--
			p.Rows[i] = leftOut
		} else {
			next = min(next, i)
		}
	}
	p.Start = time.Now().Add(-time.Duration(next) * p.Every)
}
