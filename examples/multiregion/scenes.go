package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"
)

// A scene is a part of the demo with figures of its own.
type scene struct {
	name  string
	title string
	watch string // the node whose keys' waits are measured

	// accounts has the readers read accounts, which are written, not rows.
	accounts bool

	play func(context.Context) error

	took time.Duration // set when it is over
}

// scenes returns what happens, in order. Times are for -scale 1.
func (d *demo) scenes() []*scene {
	scenes := []*scene{
		{name: "warm-up", title: "Warm-up: all caches are empty", play: func(ctx context.Context) error {
			return d.pause(ctx, 5*time.Second)
		}},
		{name: "steady", title: "Steady state", play: func(ctx context.Context) error {
			return d.pause(ctx, 6*time.Second)
		}},
		{name: "node killed", title: "A node is killed", watch: victim, play: d.killNode},
		{name: "origin down", title: "The origin is down for longer than rows live", play: d.originDown},
		{name: "region cut off", title: "A region is cut off", play: d.cutRegion},
		{name: "writes", title: "Writes in eu", accounts: true, play: d.writeInEU},
		{name: "writes while cut off", title: "Writes in eu while ap is cut off", accounts: true, play: d.writeWhileCut},
		{name: "writes and a kill", title: "A node is killed right after a write", accounts: true, play: d.killAfterWrite},
		{name: "clear", title: "The accounts are cleared", accounts: true, play: d.clear},
	}
	if d.options.consul {
		scenes = append(scenes, &scene{name: "consul killed", title: "A Consul agent is killed", play: d.killConsul})
	}
	return scenes
}

// lead is what a scene lets pass before it breaks anything, so that the reads of
// the scene before have ended, and for the nodes to see what there is to watch.
const lead = time.Second

const (
	victim       = "eu-2" // the node that is killed
	cutOff       = "ap"   // the region that is cut off
	consulVictim = "eu"   // the datacenter whose agent is killed
)

// play plays the scenes one after the other.
func (d *demo) play(ctx context.Context, scenes []*scene) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i, s := range scenes {
		d.screen.title(s.title)
		d.enter(i, s)
		began := time.Now()
		drawing, stop := context.WithCancel(ctx)
		drawn := make(chan struct{})
		go func() {
			defer close(drawn)
			d.draw(drawing, i, began)
		}()
		err := s.play(ctx)
		stop()
		<-drawn
		s.took = time.Since(began)
		d.ledger.judge(time.Now())
		d.ledger.judgeAccounts()
		d.screen.keep(d.screen.table(d.ledger, i, s.took))
		if err != nil {
			return err
		}
	}
	return nil
}

// enter has the nodes count their reads to the scene.
func (d *demo) enter(i int, s *scene) {
	d.scene.Store(int64(i))
	watched := d.node(s.watch)
	for _, n := range d.nodes {
		c := command{Scene: i, Accounts: s.accounts}
		if watched != nil && watched.config.Region == n.config.Region {
			c.Watch = s.watch
		}
		n.process.Load().send(c)
	}
}

// node returns the node with the ID, or nil.
func (d *demo) node(id string) *node {
	i := slices.IndexFunc(d.nodes, func(n *node) bool { return n.config.ID == id })
	if i < 0 {
		return nil
	}
	return d.nodes[i]
}

// draw redraws the scene's table until ctx ends.
func (d *demo) draw(ctx context.Context, scene int, began time.Time) {
	for ticker := time.NewTicker(reportEvery); ; {
		select {
		case <-ticker.C:
			d.ledger.judge(time.Now().Add(-2 * reportEvery))
			d.screen.draw(d.screen.table(d.ledger, scene, time.Since(began)))
		case <-ctx.Done():
			return
		}
	}
}

// pause lets time pass, as much as t is at the demo's scale.
func (d *demo) pause(ctx context.Context, t time.Duration) error {
	return d.sleep(ctx, d.options.scaled(t))
}

func (d *demo) sleep(ctx context.Context, t time.Duration) error {
	select {
	case <-time.After(t):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *demo) killNode(ctx context.Context) error {
	n := d.node(victim)
	if err := d.pause(ctx, lead); err != nil {
		return err
	}
	n.process.Load().kill()
	d.screen.say("%s has been killed by SIGKILL; its neighbours take its rows over", victim)
	if err := d.pause(ctx, 3*time.Second); err != nil {
		return err
	}
	began := time.Now()
	if err := d.restart(ctx, n, command{Scene: int(d.scene.Load())}); err != nil {
		return err
	}
	d.screen.say("%s is back, empty, %v after its restart", victim, time.Since(began).Round(time.Millisecond))
	return d.pause(ctx, 4*time.Second)
}

// restart starts a node that was killed, and has it read.
func (d *demo) restart(ctx context.Context, n *node, c command) error {
	if err := d.startNode(n); err != nil {
		return err
	}
	if err := d.awaitNode(ctx, n); err != nil {
		return err
	}
	n.process.Load().send(c)
	return nil
}

func (d *demo) originDown(ctx context.Context) error {
	if err := d.pause(ctx, lead); err != nil {
		return err
	}
	up := d.ledger.begin("")
	d.origin.kill()
	d.screen.say("the origin has been killed by SIGKILL; rows live for %v", d.options.ttl)
	if err := d.sleep(ctx, d.options.ttl+d.options.scaled(3*time.Second)); err != nil {
		return err
	}
	if err := d.startOrigin(ctx); err != nil {
		return err
	}
	up()
	d.screen.say("the origin is back")
	return d.pause(ctx, 3*time.Second)
}

func (d *demo) cutRegion(ctx context.Context) error {
	if err := d.pause(ctx, lead); err != nil {
		return err
	}
	heal := d.cut()
	if err := d.pause(ctx, 5*time.Second); err != nil {
		return err
	}
	heal()
	d.screen.say("%s is connected again", cutOff)
	return d.pause(ctx, 4*time.Second)
}

// cut cuts a region off, until heal.
func (d *demo) cut() (heal func()) {
	healed := d.ledger.begin(cutOff)
	for pair, link := range d.links {
		if slices.Contains(pair[:], cutOff) {
			link.cut()
		}
	}
	d.screen.say("%s is cut off from the other regions and the origin: packets vanish", cutOff)
	return func() {
		for _, link := range d.links {
			link.heal()
		}
		healed()
	}
}

func (d *demo) killConsul(ctx context.Context) error {
	agent := d.agents.Agent(consulVictim)
	if err := d.pause(ctx, lead); err != nil {
		return err
	}
	agent.Kill()
	d.screen.say("the Consul agent of %s has been killed by SIGKILL", consulVictim)
	if err := d.pause(ctx, 2*time.Second); err != nil {
		return err
	}
	if err := agent.Restart(ctx); err != nil {
		return err
	}
	d.screen.say("the agent is back, without any memory of its services")
	if err := d.pause(ctx, 4*time.Second); err != nil {
		return err
	}
	n, err := registered(agent.Address())
	if err != nil {
		return fmt.Errorf("asking Consul in %s: %w", consulVictim, err)
	}
	d.screen.say("%d of its nodes have registered themselves again", n)
	return nil
}

// registered returns how many nodes the agent's datacenter knows.
func registered(agent string) (int, error) {
	config := api.DefaultConfig()
	config.Address = agent
	client, err := api.NewClient(config)
	if err != nil {
		return 0, err
	}
	entries, _, err := client.Health().Service(serviceName, "", true, nil)
	return len(entries), err
}
