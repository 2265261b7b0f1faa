// Package consul runs real Consul agents on loopback, one per datacenter, joined over their WAN
// pool, for tests and for the demonstration. It needs a consul binary, which make consul builds; it
// does not download one.
//
// Each agent is a server in Consul's development mode. It keeps nothing on disk, so one that was
// killed comes back empty. There is one server per datacenter, so nothing here tests elections.
package consul

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// ErrNoBinary is the error of Binary if there is no Consul to run.
var ErrNoBinary = errors.New("there is no consul binary: run make consul")

// Binary returns the path of the Consul to run: that in GEOCACHE_CONSUL, or .bin/consul in the
// working directory or the nearest one above that has it. If there is none, the error is
// ErrNoBinary.
func Binary() (string, error) {
	if path := os.Getenv("GEOCACHE_CONSUL"); path != "" {
		return path, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		path := filepath.Join(dir, ".bin", "consul")
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", ErrNoBinary
		}
		dir = parent
	}
}

// A Cluster is a set of datacenters with one server each, and with the clients that were added.
// Only one goroutine at a time may use a Cluster and its Agents, except that Agent.Address is
// always safe.
type Cluster struct {
	binary string
	hcl    string
	agents []*Agent
}

// Start starts a server in each of the datacenters, and returns when each has a leader and knows
// all others, which takes a few seconds. hcl, which may be empty, is added to the configuration of
// every agent.
func Start(ctx context.Context, hcl string, datacenters ...string) (*Cluster, error) {
	binary, err := Binary()
	if err != nil {
		return nil, err
	}
	c := &Cluster{binary: binary, hcl: hcl}
	for _, dc := range datacenters {
		if _, err := c.start(ctx, Agent{Datacenter: dc, name: dc}); err != nil {
			c.Stop()
			return nil, err
		}
	}
	for _, a := range c.agents {
		if err := a.waitReady(ctx, datacenters); err != nil {
			c.Stop()
			return nil, err
		}
	}
	return c, nil
}

// Add starts the server of a new datacenter, and returns when it has a leader and knows the others.
func (c *Cluster) Add(ctx context.Context, datacenter string) (*Agent, error) {
	if c.Agent(datacenter) != nil {
		return nil, fmt.Errorf("datacenter %s is there already", datacenter)
	}
	return c.add(ctx, Agent{Datacenter: datacenter, name: datacenter})
}

// AddClient starts a client in a datacenter, as there is one on each machine beside the servers,
// and returns when it has joined.
func (c *Cluster) AddClient(ctx context.Context, datacenter, name string) (*Agent, error) {
	return c.add(ctx, Agent{Datacenter: datacenter, name: name, server: c.Agent(datacenter)})
}

func (c *Cluster) add(ctx context.Context, like Agent) (*Agent, error) {
	a, err := c.start(ctx, like)
	if err != nil {
		return nil, err
	}
	if err := a.waitReady(ctx, c.running()); err != nil {
		return nil, err
	}
	return a, nil
}

// start starts an agent, without waiting for the others.
func (c *Cluster) start(ctx context.Context, like Agent) (*Agent, error) {
	var err error
	// Another process may take a port between freePorts and the agent's listening on it.
	for range 3 {
		a := &Agent{Datacenter: like.Datacenter, name: like.name, server: like.server, cluster: c}
		if a.ports, err = freePorts(); err != nil {
			return nil, err
		}
		if err = a.spawn(); err != nil {
			return nil, err
		}
		if err = a.waitReady(ctx, nil); err == nil {
			c.agents = append(c.agents, a)
			return a, nil
		}
		a.Kill()
	}
	return nil, err
}

// Agent returns the server of a datacenter, or nil if there is none.
func (c *Cluster) Agent(datacenter string) *Agent {
	i := slices.IndexFunc(c.agents, func(a *Agent) bool { return a.Datacenter == datacenter && a.server == nil })
	if i < 0 {
		return nil
	}
	return c.agents[i]
}

// Stop kills every agent and returns when their processes have ended.
func (c *Cluster) Stop() {
	for _, a := range c.agents {
		a.Kill()
	}
}

// running returns the datacenters of the agents that run.
func (c *Cluster) running() []string {
	var list []string
	for _, a := range c.agents {
		if a.alive() {
			list = append(list, a.Datacenter)
		}
	}
	return list
}

// wanJoin returns the arguments that make an agent join the others.
func (c *Cluster) wanJoin(self *Agent) []string {
	var args []string
	for _, a := range c.agents {
		if a != self && a.server == nil {
			args = append(args, "-retry-join-wan", a.ports.address(a.ports.wan))
		}
	}
	return args
}
