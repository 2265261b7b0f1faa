package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// This file is how the demo has nodes do things with accounts, and hears of it.

// A trap kills nodes when a write of the region has been acknowledged for the n-th
// time from when it was set: right after the Set has returned.
type trap struct {
	region  string
	left    int // guarded by mu
	mu      sync.Mutex
	victims []*node
	sprung  chan struct{} // closed when they have ended
}

// setTrap sets the trap that is on. A node that is killed is restarted by nobody
// but who has set it.
func (d *demo) setTrap(n int, victims ...*node) *trap {
	t := &trap{region: victims[0].config.Region, left: n, victims: victims, sprung: make(chan struct{})}
	d.trap.Store(t)
	return t
}

// wait waits until the trap has killed its victims.
func (t *trap) wait(ctx context.Context) error {
	select {
	case <-t.sprung:
		return nil
	case <-time.After(jobPatience):
		return fmt.Errorf("too few writes have been acknowledged in %s within %v", t.region, jobPatience)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// spring counts a write that has been acknowledged in the region.
func (d *demo) spring(region string) {
	t := d.trap.Load()
	if t == nil || t.region != region {
		return
	}
	t.mu.Lock()
	t.left--
	now := t.left == 0
	t.mu.Unlock()
	if now {
		d.trap.Store(nil)
		go func() { // one of them may be who has told of the write, and its messages are being read here
			for _, n := range t.victims {
				n.process.Load().kill()
				d.kills.Add(1)
			}
			close(t.sprung)
		}()
	}
}

// heard takes in what a node tells of accounts.
func (d *demo) heard(n *node, m nodeMessage) {
	region := n.config.Region
	p := place{int(d.scene.Load()), region}
	switch {
	case m.Wrote != nil:
		n.told[m.Wrote.Row]++
		d.ledger.accounts.addWrite(region, m.Wrote)
		if m.Wrote.Outcome == acked {
			d.spring(region)
			d.chase(n, m.Wrote.Row)
		}
	case m.Sighting != nil:
		s := m.Sighting
		d.ledger.accounts.addSighting(region, s)
		d.ledger.accounts.addReads(p, n.config.ID, *s.Last)
	case m.Done != nil:
		if m.Done.Clear != nil && m.Done.Err == "" {
			d.ledger.addClear(m.Done.Clear)
		}
		d.ledger.addMissing(p, n.config.ID, m.Done.Missing)
		d.jobs.Lock()
		done := d.jobs.done[m.Done.ID]
		delete(d.jobs.done, m.Done.ID)
		d.jobs.Unlock()
		done <- m.Done
	}
}

// chase has the others of the region read what a node has written just now.
func (d *demo) chase(writer *node, row int) {
	for _, n := range d.nodes {
		if n != writer && n.config.Region == writer.config.Region {
			n.process.Load().send(command{Read: row})
		}
	}
}

// order has a node do a job. What came of it can be had from the channel.
func (d *demo) order(n *node, j job) <-chan *jobDone {
	done := make(chan *jobDone, 1)
	d.jobs.Lock()
	if d.jobs.done == nil {
		d.jobs.done = make(map[int]chan *jobDone)
	}
	d.jobs.last++
	j.ID = d.jobs.last
	d.jobs.done[j.ID] = done
	d.jobs.Unlock()
	if j.Write != nil {
		n.told = make(map[int]int)
	}
	n.process.Load().send(command{Job: &j})
	return done
}

// jobPatience is longer than any job takes.
const jobPatience = time.Minute

// collect waits until jobs are done. The nodes that do them are not killed.
func collect(ctx context.Context, jobs ...<-chan *jobDone) ([]*jobDone, error) {
	var all []*jobDone
	timeout := time.After(jobPatience)
	for _, job := range jobs {
		select {
		case done := <-job:
			if done.Err != "" {
				return nil, fmt.Errorf("%s", done.Err)
			}
			all = append(all, done)
		case <-timeout:
			return nil, fmt.Errorf("a node has not done its job in %v", jobPatience)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return all, nil
}

// showPatience is for how long a region is given to show a write before it counts
// as lost.
const showPatience = 10 * time.Second

// show has nodes read accounts until each gives the version, and returns when the
// last of them did.
func (d *demo) show(ctx context.Context, nodes []*node, versions map[int]uint64) (time.Time, error) {
	var jobs []<-chan *jobDone
	for _, n := range nodes {
		jobs = append(jobs, d.order(n, job{Show: &show{versions, showPatience}}))
	}
	var last time.Time
	all, err := collect(ctx, jobs...)
	for _, done := range all {
		if done.At.After(last) {
			last = done.At
		}
	}
	return last, err
}

// load has all nodes load all accounts.
func (d *demo) load(ctx context.Context) error {
	// A few at a time: the origin is a small one, and its clients impatient.
	const batch = 50
	for from := 0; from < accounts; from += batch {
		if _, err := d.show(ctx, d.nodes, versions(d.accounts(from, min(from+batch, accounts)), 0)); err != nil {
			return err
		}
	}
	return nil
}

// accounts returns the rows of accounts from..to-1.
func (d *demo) accounts(from, to int) []int {
	rows := make([]int, to-from)
	for i := range rows {
		rows[i] = d.options.rows + from + i
	}
	return rows
}

func versions(rows []int, version uint64) map[int]uint64 {
	m := make(map[int]uint64)
	for _, row := range rows {
		m[row] = version
	}
	return m
}
