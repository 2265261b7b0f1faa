package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/regions"
	"github.com/geocache/geocache/regions/consul"
)

// A patience is how long getters wait for the origin. Whoever loads from something
// that can fall silent should have one, well below the load timeout: it is what
// readers wait before they are given a stale value.
type patience time.Duration

func (p patience) origin() time.Duration { return time.Duration(p) }

// load bounds a load, the other regions included.
func (p patience) load() time.Duration { return 4 * time.Duration(p) }

// caller is the deadline of readers and writers.
func (p patience) caller() time.Duration { return 10 * time.Duration(p) }

const (
	// accountsTTL is longer than the demo lasts: what makes an old account go is
	// its being written, and nothing else.
	accountsTTL = 10 * time.Minute

	// serviceName is what the nodes are called in Consul.
	serviceName = "multiregion"

	reportEvery = 250 * time.Millisecond
)

// runNode is a process of the service: a cache, and readers that use it.
func runNode(ctx context.Context, p *parent) error {
	var config nodeConfig
	if err := p.receive(&config); err != nil {
		return err
	}
	level := slog.LevelInfo
	if config.Debug {
		level = slog.LevelDebug
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))

	cache, err := openCache(ctx, config)
	if err != nil {
		return err
	}
	db := newOriginClient(config)
	open := func(name string, ttl time.Duration) (*geocache.Group[row], error) {
		return geocache.NewGroup(cache, name, db,
			geocache.WithTTL(ttl),
			geocache.WithOriginRegion(originRegion),
			geocache.WithStaleIfError(10*time.Minute),
			geocache.WithLoadTimeout(config.Patience.load()))
	}
	rows, err := open("rows", config.TTL)
	if err != nil {
		return errors.Join(err, cache.Close())
	}
	accounts, err := open("accounts", accountsTTL)
	if err != nil {
		return errors.Join(err, cache.Close())
	}
	readers, err := newReaders(config, rows, accounts)
	if err != nil {
		return errors.Join(err, cache.Close())
	}
	writers := &writers{db: db, accounts: accounts, patience: config.Patience, parent: p}
	awaitPeers(cache, len(config.Peers))
	p.send(nodeMessage{Ready: true})

	for {
		var c command
		switch err := p.receive(&c); {
		case err != nil:
			return nil // the parent is gone: nothing is worth waiting for
		case c.Stop:
			readers.stop(p)
			return cache.Close()
		case c.Job != nil:
			go writers.do(c.Job)
		case c.Read > 0:
			readers.readNow(c.Read)
		default:
			readers.enter(c, p)
		}
	}
}

// openCache opens the cache as a service would, but that its peers in other
// regions are reached through the relays.
func openCache(ctx context.Context, config nodeConfig) (*geocache.Cache, error) {
	var dialer net.Dialer
	options := []geocache.Option{
		geocache.WithNodeID(config.ID),
		geocache.WithListen(config.Listen),
		geocache.WithDialer(func(ctx context.Context, address string) (net.Conn, error) {
			if relay, ok := config.Routes[address]; ok {
				address = relay
			}
			return dialer.DialContext(ctx, "tcp", address)
		}),
	}
	if config.Consul != "" {
		agent := api.DefaultConfig()
		agent.Address = config.Consul
		options = append(options, geocache.WithDiscovery(consul.New(serviceName, consul.WithConfig(agent))))
	} else {
		options = append(options, geocache.WithRegion(config.Region), geocache.WithDiscovery(regions.Static(config.Peers...)))
	}
	return geocache.Open(ctx, options...)
}

// awaitPeers waits until the cache sees n nodes, itself included: a cache that
// does not yet would work too, but the figures would not compare.
func awaitPeers(cache *geocache.Cache, n int) {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		seen := 0
		for _, r := range cache.Stats().Regions {
			seen += r.Nodes
		}
		if seen >= n {
			return
		}
	}
	slog.Warn("starting to read without all peers")
}

// regionHeader tells the origin which region a query comes from.
const regionHeader = "X-Region"

// An originClient loads rows from the origin, and writes them there. It is the
// Getter of both groups.
type originClient struct {
	url      string
	region   string
	patience patience
	client   *http.Client
}

func newOriginClient(config nodeConfig) *originClient {
	return &originClient{
		url:      "http://" + config.Origin + "/",
		region:   config.Region,
		patience: config.Patience,
		client:   &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}},
	}
}

func (o *originClient) Get(ctx context.Context, key string) (row, error) {
	ctx, cancel := context.WithTimeout(ctx, o.patience.origin())
	defer cancel()
	return o.do(ctx, http.MethodGet, key)
}

// put writes a row and returns what it is then. It has the patience of its caller:
// there is no stale value to fall back to.
func (o *originClient) put(ctx context.Context, key string) (row, error) {
	return o.do(ctx, http.MethodPut, key)
}

func (o *originClient) do(ctx context.Context, method, key string) (row, error) {
	req, err := http.NewRequestWithContext(ctx, method, o.url+key, nil)
	if err != nil {
		return row{}, err
	}
	req.Header.Set(regionHeader, o.region)
	resp, err := o.client.Do(req)
	if err != nil {
		return row{}, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return row{}, geocache.ErrNotFound
	default:
		return row{}, fmt.Errorf("origin: %s", resp.Status)
	}
	var r row
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		return row{}, fmt.Errorf("origin: %w", err)
	}
	return r, nil
}
