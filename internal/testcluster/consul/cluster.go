// Package consul runs real Consul agents on loopback, one per datacenter,
// joined over their WAN pool: for tests and for the demonstration.
//
// Each agent is a server in Consul's development mode. It keeps nothing on
// disk, so one that was killed comes back empty.
package consul

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// ErrNoBinary says that there is no Consul to run.
var ErrNoBinary = errors.New("there is no consul binary: run make consul")

// Binary returns the path of the Consul to run: what GEOCACHE_CONSUL says, else
// .bin/consul in the working directory or the nearest one above that has it.
// If there is none, the error is ErrNoBinary.
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

// A Cluster is a number of datacenters with one server each, and clients where they have been added. One goroutine at a
// time may use a Cluster and its Agents; only Agent.Address is safe anywhere.
type Cluster struct {
	binary string
	hcl    string
	agents []*Agent
}

// Start starts an agent for each of the datacenters and returns when each has a
// leader and knows all the others, which takes a few seconds. Configuration in
// HCL, which may be empty, is added to every agent's.
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

// Add starts an agent of a new datacenter, which joins the others, and returns
// when it has a leader and knows them.
func (c *Cluster) Add(ctx context.Context, datacenter string) (*Agent, error) {
	if c.Agent(datacenter) != nil {
		return nil, fmt.Errorf("datacenter %s is there already", datacenter)
	}
	return c.add(ctx, Agent{Datacenter: datacenter, name: datacenter})
}

// AddClient starts a client in a datacenter, as each machine beside the servers has one, and returns when it
// has joined.
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

// start starts an agent without waiting for its peers.
func (c *Cluster) start(ctx context.Context, like Agent) (*Agent, error) {
	var err error
	// Somebody else may take a port between our finding it free and the agent
	// listening on it.
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

// Agent returns the server of a datacenter, nil if there is none.
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

// running returns the datacenters whose agents run.
func (c *Cluster) running() []string {
	var list []string
	for _, a := range c.agents {
		if a.alive() {
			list = append(list, a.Datacenter)
		}
	}
	return list
}

// wanJoin returns the arguments by which an agent finds the others.
func (c *Cluster) wanJoin(self *Agent) []string {
	var args []string
	for _, a := range c.agents {
		if a != self && a.server == nil {
			args = append(args, "-retry-join-wan", a.ports.address(a.ports.wan))
		}
	}
	return args
}
