package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	groupcachego "github.com/groupcache/groupcache-go/v3"
	"github.com/groupcache/groupcache-go/v3/transport"
	"github.com/groupcache/groupcache-go/v3/transport/peer"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/regions"
)

// This file is clusters whose nodes are all in this process, and talk over loopback.
// They share its processors, as nodes on one small machine would; what a machine for
// each would add is the network.

// A cluster is nodes of ours.
type cluster []*clusterNode

type clusterNode struct {
	*geocache.Cache
	*geocache.Group[[]byte]
	region string
}

// A place is where a node is to be: its region, and unless it is the only one, how it
// dials the others. at is told the node's address before any node is opened.
type place struct {
	region string
	dial   func(ctx context.Context, address string) (net.Conn, error)
	at     func(address string)
}

// here returns n places in one region.
func here(n int) []place {
	places := make([]place, n)
	for i := range places {
		places[i].region = "here"
	}
	return places
}

type getter = func(ctx context.Context, key string) ([]byte, error)

// openCluster opens a node for each place, and waits until they have met.
func openCluster(places []place, get getter, opts ...geocache.GroupOption) (cluster, error) {
	var nodes []regions.Node
	var listeners []net.Listener
	for i, p := range places {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, l)
		if p.at != nil {
			p.at(l.Addr().String())
		}
		nodes = append(nodes, regions.Node{ID: fmt.Sprintf("%s-%d", p.region, i), Region: p.region, Address: l.Addr().String()})
	}
	c := make(cluster, len(places))
	errs := make([]error, len(places))
	var wg sync.WaitGroup
	for i, p := range places {
		wg.Go(func() {
			options := []geocache.Option{
				geocache.WithRegion(p.region), geocache.WithNodeID(nodes[i].ID), geocache.WithListener(listeners[i]),
				geocache.WithDiscovery(regions.Static(nodes...)), geocache.WithLogger(quiet),
			}
			if p.dial != nil {
				options = append(options, geocache.WithDialer(p.dial))
			}
			cache, err := geocache.Open(ctx, options...)
			if err != nil {
				errs[i] = err
				return
			}
			group, err := geocache.NewGroup(cache, "bench", geocache.GetterFunc[[]byte](get), opts...)
			c[i], errs[i] = &clusterNode{cache, group, p.region}, err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return c, err
	}
	return c, c.settle()
}

// settle waits until all nodes serve copies: they have met, and agree on who is there.
func (c cluster) settle() error {
	for range 1000 {
		met := true
		for _, n := range c {
			s := n.Cache.Stats()
			seen := 0
			for _, r := range s.Regions {
				seen += r.Nodes
			}
			met = met && s.ServesCopies && seen == len(c)
		}
		if met {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.New("the nodes have not met")
}

func (c cluster) close() {
	var wg sync.WaitGroup
	for _, n := range c {
		if n != nil {
			wg.Go(func() { _ = n.Cache.Close() })
		}
	}
	wg.Wait()
}

// in returns the nodes of a region.
func (c cluster) in(region string) (nodes cluster) {
	for _, n := range c {
		if n.region == region {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// A theirs is a cluster of groupcache-go's nodes.
type theirs []*groupcachego.Daemon

func openTheirs(n int, get getter) (theirs, []groupcachego.Group, error) {
	var all theirs
	var groups []groupcachego.Group
	var peers []peer.Info
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return all, nil, err
		}
		address := l.Addr().String()
		l.Close()
		d, err := groupcachego.ListenAndServe(ctx, address, groupcachego.Options{
			Logger: quiet,
			Transport: transport.NewHttpTransport(transport.HttpTransportOptions{
				Logger: quiet, Client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128, MaxConnsPerHost: 128}},
			}),
		})
		if err != nil {
			return all, nil, err
		}
		all = append(all, d)
		peers = append(peers, peer.Info{Address: address})
		g, err := d.NewGroup("bench", 64<<20, groupcachego.GetterFunc(func(ctx context.Context, key string, dest transport.Sink) error {
			v, err := get(ctx, key)
			if err != nil {
				return err
			}
			return dest.SetBytes(v, time.Now().Add(ttl))
		}))
		if err != nil {
			return all, nil, err
		}
		groups = append(groups, g.(groupcachego.Group))
	}
	for _, d := range all {
		if err := d.SetPeers(ctx, peers); err != nil {
			return all, nil, err
		}
	}
	return all, groups, nil
}

func (t theirs) close() {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, d := range t {
		_ = d.Shutdown(ctx)
	}
}
