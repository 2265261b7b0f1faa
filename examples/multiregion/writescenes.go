package main

import (
	"context"
	"time"
)

// This file is the scenes with writes. In them readers read accounts: rows that
// stay in the cache for as long as the demo lasts, so that it is only ever a write
// that makes an old one go.

const (
	writer       = "eu-1" // the node that writes
	writesInEU   = 300
	writesCutOff = 100
	writesKilled = 300 // accounts, of which the killed node owns about a third
	clears       = 3
)

// planned returns a plan that begins in a moment.
func (d *demo) planned(rows []int, every time.Duration) *plan {
	return &plan{Rows: rows, Start: time.Now().Add(100 * time.Millisecond), Every: every, Writers: 64}
}

// writeInEU measures how long writes take to the other regions.
func (d *demo) writeInEU(ctx context.Context) error {
	if err := d.load(ctx); err != nil {
		return err
	}
	if err := d.pause(ctx, lead); err != nil {
		return err
	}
	p := d.planned(d.accounts(0, writesInEU), 12*time.Millisecond)
	jobs := []<-chan *jobDone{
		d.order(d.node(writer), job{Write: p}),
		d.order(d.node("eu-3"), job{Sight: p}),
		d.order(d.node("us-3"), job{Sight: p}),
		d.order(d.node("ap-3"), job{Sight: p}),
	}
	if _, err := collect(ctx, jobs...); err != nil {
		return err
	}
	visible := d.ledger.accounts.visible()
	for _, region := range regionNames {
		h := visible[[2]string{"eu", region}]
		d.screen.say("%d writes in eu have been seen in %s: p50 %s, p99 %s after the Set was called; one way %v", h.count(), region,
			short(h.quantile(0.5)), short(h.quantile(0.99)), d.options.delays[pairOf("eu", region)])
	}
	_, err := d.show(ctx, d.nodes, d.ledger.accounts.acknowledged())
	return err
}

// writeWhileCut measures how long a region that was cut off takes to catch up.
func (d *demo) writeWhileCut(ctx context.Context) error {
	if err := d.pause(ctx, lead); err != nil {
		return err
	}
	heal := d.cut()
	p := d.planned(d.accounts(0, writesCutOff), 25*time.Millisecond)
	if _, err := collect(ctx, d.order(d.node(writer), job{Write: p})); err != nil {
		return err
	}
	if err := d.pause(ctx, lead); err != nil {
		return err
	}
	versions := d.ledger.accounts.acknowledged()
	heal()
	healed := time.Now()
	at, err := d.show(ctx, d.nodes, versions)
	if err != nil {
		return err
	}
	d.converged = at.Sub(healed)
	d.screen.say("%s is connected again and shows all %d writes %v later", cutOff, writesCutOff, d.converged.Round(time.Millisecond))
	return d.pause(ctx, lead)
}

// killAfterWrite kills the owner of a row right after a Set of it has returned,
// while further rows of its are being written.
func (d *demo) killAfterWrite(ctx context.Context) error {
	if err := d.pause(ctx, lead); err != nil {
		return err
	}
	n := d.node(victim)
	p := d.planned(d.accounts(0, writesKilled), 10*time.Millisecond)
	p.Owner = victim
	trap := d.setTrap(writesKilled/10, n)
	writing := d.order(d.node(writer), job{Write: p})
	if err := trap.wait(ctx); err != nil {
		return err
	}
	d.screen.say("%s has been killed by SIGKILL right after a Set of a row that it owned", victim)
	if _, err := collect(ctx, writing); err != nil {
		return err
	}
	if err := d.pause(ctx, lead); err != nil {
		return err
	}
	if err := d.restart(ctx, n, command{Scene: int(d.scene.Load()), Accounts: true}); err != nil {
		return err
	}
	if _, err := d.show(ctx, d.nodes, d.ledger.accounts.acknowledged()); err != nil {
		return err
	}
	d.screen.say("%s is back; every node shows every write", victim)
	return d.pause(ctx, lead)
}

// clear clears the accounts under load.
func (d *demo) clear(ctx context.Context) error {
	for range clears {
		if err := d.pause(ctx, lead); err != nil {
			return err
		}
		done, err := collect(ctx, d.order(d.node(writer), job{Clear: true}))
		if err != nil {
			return err
		}
		d.screen.say("all regions have cleared the accounts %v after Clear was called", done[0].Clear.Ended.Sub(done[0].Clear.Began).Round(time.Millisecond))
	}
	return d.pause(ctx, lead)
}
