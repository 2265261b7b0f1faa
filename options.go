package geocache

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/geocache/geocache/consistenthash"
	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// An Option configures a Cache in Open. If one is given twice, the last wins.
// Open checks all of them together and reports every mistake at once.
type Option interface{ applyCache(*config) }

type cacheOption func(*config)

func (o cacheOption) applyCache(c *config) { o(c) }

// config is what the options of a Cache come to.
type config struct {
	cluster   string
	id        string
	region    string
	weight    float64
	seed      uint64
	listen    string
	listener  net.Listener
	advertise string
	dial      func(ctx context.Context, address string) (net.Conn, error)
	tls       *tls.Config
	plaintext bool
	discovery regions.Discovery
	limits    peers.Limits
	lease     time.Duration
	grace     time.Duration
	joinWait  time.Duration
	maxDrift  time.Duration
	clock     func() time.Time
	logger    *slog.Logger
}

func defaultConfig() config {
	return config{
		cluster:  "geocache",
		weight:   1,
		lease:    time.Second,
		grace:    time.Minute,
		joinWait: 5 * time.Second,
		maxDrift: expiry.DefaultMaxDrift,
		limits:   peers.Limits{MaxKey: maxKey, MaxValue: 64 << 20},
	}
}

// WithCluster names the cluster. Nodes of different clusters refuse each other,
// so a mix-up of addresses does no harm. Default "geocache".
func WithCluster(name string) Option { return cacheOption(func(c *config) { c.cluster = name }) }

// WithRegion names the region this process is in. Default: what the discovery
// says (for Consul the datacenter), else "local".
func WithRegion(name string) Option { return cacheOption(func(c *config) { c.region = name }) }

// WithNodeID names this process, uniquely in the cluster. Its share of the keys
// follows from it, so a process that is restarted under its old ID gets its old
// keys. Default: the advertised address.
func WithNodeID(id string) Option { return cacheOption(func(c *config) { c.id = id }) }

// WithWeight sets the share of its region's keys that this process owns,
// relative to the others', from 0.01 to 100. Default 1.
func WithWeight(w float64) Option { return cacheOption(func(c *config) { c.weight = w }) }

// WithSeed sets the seed of the rings, which decides who owns which key. It
// must be the same in the whole cluster: nodes with another one are refused.
// Where users of a service choose keys, a secret seed keeps them from choosing
// keys that all land on one node. Default 0.
func WithSeed(seed uint64) Option { return cacheOption(func(c *config) { c.seed = seed }) }

// WithListen sets the TCP address, host:port, at which peers reach this
// process. Port 0 chooses a free one. Without it, and without WithListener, the
// Cache has no peers.
func WithListen(address string) Option { return cacheOption(func(c *config) { c.listen = address }) }

// WithListener is WithListen with a listener of the caller's making. Once Open
// has found the options good, the Cache closes it.
func WithListener(l net.Listener) Option { return cacheOption(func(c *config) { c.listener = l }) }

// WithAdvertise sets the address that other nodes are told to dial. Default:
// the address listened on. It is required if that is a wildcard such as ":7946".
func WithAdvertise(address string) Option {
	return cacheOption(func(c *config) { c.advertise = address })
}

// WithDialer sets how peers are dialled. The function must return when its context
// ends; Close waits for it. Default: TCP.
func WithDialer(dial func(ctx context.Context, address string) (net.Conn, error)) Option {
	return cacheOption(func(c *config) { c.dial = dial })
}

// WithTLS encrypts and authenticates the connections between nodes, in both
// directions with the same configuration: it needs a certificate for this node,
// RootCAs to check servers by, and ClientCAs to check clients by. Peers are
// dialled by address, so their certificates must be for that, or ServerName must be
// set.
func WithTLS(t *tls.Config) Option { return cacheOption(func(c *config) { c.tls = t }) }

// WithPlaintext allows peers to be reached without TLS beyond the loopback
// interface: whoever is on that network can then read and change what is
// cached.
func WithPlaintext() Option { return cacheOption(func(c *config) { c.plaintext = true }) }

// WithDiscovery sets how nodes find each other: consul.New from package
// regions/consul, or regions.Static. Without it the Cache is alone.
func WithDiscovery(d regions.Discovery) Option {
	return cacheOption(func(c *config) { c.discovery = d })
}

// WithMaxValueBytes limits the size of an encoded value that travels between
// nodes. It must be the same on all nodes. Default 64 MiB, at most 1 GiB.
func WithMaxValueBytes(n int) Option {
	return cacheOption(func(c *config) { c.limits.MaxValue = n })
}

// WithLease sets how long a node may be silent before the others take it to be
// down; heartbeats are sent four times as often. It bounds how long readers
// wait for a node that vanished. Default 1 s, at least 10 ms.
func WithLease(d time.Duration) Option { return cacheOption(func(c *config) { c.lease = d }) }

// WithGrace sets how long a node that still answers is kept after the discovery
// has stopped listing it. Default 1 min.
func WithGrace(d time.Duration) Option { return cacheOption(func(c *config) { c.grace = d }) }

// WithJoinWait sets how long Open waits at most for the discovery and the
// first connections to the nodes it finds, so that the first reads are answered
// by the cluster. When the time is up Open goes on all the same. Default 5 s; 0
// does not wait.
func WithJoinWait(d time.Duration) Option { return cacheOption(func(c *config) { c.joinWait = d }) }

// WithMaxDrift sets how far ahead of this node's clock another's may be.
// Nodes further ahead are refused. Default 500 ms.
func WithMaxDrift(d time.Duration) Option { return cacheOption(func(c *config) { c.maxDrift = d }) }

// WithClock sets the wall clock, for tests. It must never return a time that
// its caller has not reached yet. Default: time.Now, which hits read through a
// clock that is updated every millisecond; a clock that is set here is read
// exactly, and that ticker does not run.
func WithClock(now func() time.Time) Option { return cacheOption(func(c *config) { c.clock = now }) }

// WithLogger sets where the Cache logs. Default slog.Default().
func WithLogger(l *slog.Logger) Option { return cacheOption(func(c *config) { c.logger = l }) }

// check returns everything that is wrong with c.
func (c *config) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if c.cluster == "" {
		bad("WithCluster: the name is empty")
	}
	for option, name := range map[string]string{"WithCluster": c.cluster, "WithNodeID": c.id, "WithRegion": c.region} {
		if len(name) > 255 {
			bad("%s: a name of %d bytes, at most 255 are allowed", option, len(name))
		}
	}
	if !(c.weight >= consistenthash.MinWeight && c.weight <= consistenthash.MaxWeight) { // NaN too
		bad("WithWeight(%v): must be from %v to %v", c.weight, consistenthash.MinWeight, consistenthash.MaxWeight)
	}
	if c.lease < 10*time.Millisecond {
		bad("WithLease(%v): must be at least 10ms", c.lease)
	}
	if c.grace < 0 {
		bad("WithGrace(%v): must not be negative", c.grace)
	}
	if c.joinWait < 0 {
		bad("WithJoinWait(%v): must not be negative", c.joinWait)
	}
	if c.maxDrift <= 0 {
		bad("WithMaxDrift(%v): must be positive", c.maxDrift)
	}
	if c.limits.MaxValue < 1 || c.limits.MaxValue > 1<<30 {
		bad("WithMaxValueBytes(%d): must be from 1 to 1 GiB", c.limits.MaxValue)
	}
	if v, ok := c.discovery.(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			bad("WithDiscovery: %w", err)
		}
	}
	switch {
	case c.listen != "" && c.listener != nil:
		bad("WithListen and WithListener exclude each other")
	case c.listen != "":
		errs = append(errs, c.checkListen("WithListen", c.listen)...)
	case c.listener != nil:
		if a, ok := c.listener.Addr().(*net.TCPAddr); ok {
			errs = append(errs, c.checkListen("WithListener", a.String())...)
		}
	case c.listener == nil && c.discovery != nil:
		bad("WithDiscovery needs WithListen or WithListener: nodes that find this one must be able to reach it")
	}
	if c.advertise != "" {
		if _, _, err := net.SplitHostPort(c.advertise); err != nil {
			bad("WithAdvertise(%q): %w", c.advertise, err)
		}
	}
	if c.tls != nil {
		if len(c.tls.Certificates) == 0 && (c.tls.GetCertificate == nil || c.tls.GetClientCertificate == nil) {
			bad("WithTLS: no certificate for this node, which is server and client to the others")
		}
		if c.tls.ClientCAs == nil {
			bad("WithTLS: no ClientCAs, so anybody could connect; TLS between nodes is mutual")
		}
	}
	return errors.Join(errs...)
}

// checkListen returns what is wrong with the address that option listens on.
func (c *config) checkListen(option, address string) (errs []error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return []error{fmt.Errorf("%s(%q): %w", option, address, err)}
	}
	ip := net.ParseIP(host)
	if c.advertise == "" && (host == "" || ip.IsUnspecified()) {
		errs = append(errs, fmt.Errorf("%s(%q): a wildcard is no address that others can dial; name one by WithAdvertise", option, address))
	}
	if c.tls == nil && !c.plaintext && host != "localhost" && !ip.IsLoopback() {
		errs = append(errs, fmt.Errorf("%s(%q): beyond loopback use WithTLS, or say WithPlaintext", option, address))
	}
	return errs
}

// A GroupOption configures a Group in NewGroup. If one is given twice, the last
// wins. NewGroup checks all of them together and reports every mistake at once.
type GroupOption interface{ applyGroup(*groupConfig) }

type groupOption func(*groupConfig)

func (o groupOption) applyGroup(c *groupConfig) { o(c) }

// groupConfig is what the options of a Group come to.
type groupConfig struct {
	ttl          time.Duration
	negativeTTL  time.Duration
	staleIfError time.Duration
	loadTimeout  time.Duration
	maxBytes     int64
	copyShare    float64
	maxLoads     int
	originRegion string
	codec        any // a Codec[V], or nil
}

func defaultGroupConfig() groupConfig {
	return groupConfig{
		ttl:         5 * time.Minute,
		loadTimeout: 10 * time.Second,
		maxBytes:    64 << 20,
		copyShare:   0.25,
		maxLoads:    1000,
	}
}

// maxTTL keeps instants and generations far from overflow.
const maxTTL = 10 * 365 * 24 * time.Hour

// WithTTL sets the time to live: no node serves a value whose load began longer
// ago, but for WithStaleIfError. Each key lives up to a tenth shorter, so that
// keys loaded together do not expire together. Default 5 min, at least 1 ms.
func WithTTL(d time.Duration) GroupOption { return groupOption(func(c *groupConfig) { c.ttl = d }) }

// WithNegativeTTL caches ErrNotFound for d, at most the group's TTL. Default 0:
// each Get of a key that the origin does not have asks the origin.
func WithNegativeTTL(d time.Duration) GroupOption {
	return groupOption(func(c *groupConfig) { c.negativeTTL = d })
}

// WithStaleIfError lets a value be served for up to d past its time to live
// when a load fails and no region has a fresh one. Item.Source is then Stale;
// the origin is tried again after a second. Default 0: not at all.
func WithStaleIfError(d time.Duration) GroupOption {
	return groupOption(func(c *groupConfig) { c.staleIfError = d })
}

// WithLoadTimeout sets how long a load may take, from the miss to the value,
// however it is come by. While there is another region, the getter gets three
// quarters of it, so that time is left to ask there if it fails. Default 10 s.
func WithLoadTimeout(d time.Duration) GroupOption {
	return groupOption(func(c *groupConfig) { c.loadTimeout = d })
}

// WithMaxLoads bounds the calls of the getter that run at the same time in this
// process; further loads wait for their turn, within the load timeout. A getter
// that does not return keeps its place, and one that reads from its own group
// takes another for what that has to load. Default 1,000.
func WithMaxLoads(n int) GroupOption { return groupOption(func(c *groupConfig) { c.maxLoads = n }) }

// WithMaxBytes bounds the memory of this group in this process: keys, encoded
// values, and what the cache itself needs for each entry, exactly; and decoded
// values, by an estimate: each as its encoded bytes and its type's size. Default
// 64 MiB.
func WithMaxBytes(n int64) GroupOption { return groupOption(func(c *groupConfig) { c.maxBytes = n }) }

// WithCopyShare sets the most of MaxBytes that may be taken up by copies of
// keys that other nodes own, from 0 to 1. Copies save round trips for keys that
// are read often; what they do not use is there for the keys owned. Default 0.25.
func WithCopyShare(share float64) GroupOption {
	return groupOption(func(c *groupConfig) { c.copyShare = share })
}

// WithOriginRegion names the region that is near the origin: its nodes load the
// keys, once in the world, and the owners in other regions ask them. If it
// cannot be reached, or its getter fails, they load by themselves. Default: each
// region loads for itself.
func WithOriginRegion(region string) GroupOption {
	return groupOption(func(c *groupConfig) { c.originRegion = region })
}

// WithCodec sets how values become bytes. Default: []byte and string as they
// are, protobuf messages as protobuf, everything else as JSON.
func WithCodec[V any](codec Codec[V]) GroupOption {
	return groupOption(func(c *groupConfig) { c.codec = codec })
}

// check returns everything that is wrong with c.
func (c *groupConfig) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.ttl < time.Millisecond || c.ttl > maxTTL {
		bad("WithTTL(%v): must be from 1ms to 10 years", c.ttl)
	}
	if c.negativeTTL < 0 || c.negativeTTL > c.ttl {
		bad("WithNegativeTTL(%v): must be from 0 to the TTL, %v", c.negativeTTL, c.ttl)
	}
	if c.staleIfError < 0 || c.staleIfError > maxTTL {
		bad("WithStaleIfError(%v): must be from 0 to 10 years", c.staleIfError)
	}
	if c.loadTimeout < time.Millisecond || c.loadTimeout > maxTTL {
		bad("WithLoadTimeout(%v): must be from 1ms to 10 years", c.loadTimeout)
	}
	if c.maxLoads < 1 {
		bad("WithMaxLoads(%d): must be positive", c.maxLoads)
	}
	if c.maxBytes < 1 {
		bad("WithMaxBytes(%d): must be positive", c.maxBytes)
	}
	if !(c.copyShare >= 0 && c.copyShare <= 1) { // NaN too
		bad("WithCopyShare(%v): must be from 0 to 1", c.copyShare)
	}
	return errors.Join(errs...)
}
