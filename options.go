package geocache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/geocache/geocache/consistenthash"
	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/engine"
	"github.com/geocache/geocache/internal/origin"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/internal/valid"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// An Option configures a Cache in Open. If one is given twice, the last wins. Open checks all of them together
// and reports every mistake at once.
//
// Names of clusters, nodes, regions and groups are UTF-8 of at most 255 bytes. An empty string, nil, and an
// option that is not given mean the default.
type Option interface{ applyCache(*config) }

type cacheOption func(*config)

func (o cacheOption) applyCache(c *config) { o(c) }

// config is what the options of a Cache add up to.
type config struct {
	engine.Config
	plaintext bool
}

func defaultConfig() config {
	return config{Config: engine.Config{
		Cluster:       "geocache",
		Weight:        1,
		Lease:         time.Second,
		Grace:         time.Minute,
		JoinWait:      5 * time.Second,
		MaxDrift:      expiry.DefaultMaxDrift,
		Limits:        peers.Limits{MaxKey: engine.MaxKey, MaxValue: 64 << 20},
		NewPanicError: newPanicError,
	}}
}

// WithCluster names the cluster. Nodes of different clusters refuse each other, so mixed-up addresses do no
// harm. Default "geocache".
func WithCluster(name string) Option { return cacheOption(func(c *config) { c.Cluster = name }) }

// WithRegion names the region of this process. Default: what the discovery says (for Consul the datacenter),
// else "local".
func WithRegion(name string) Option { return cacheOption(func(c *config) { c.Region = name }) }

// WithNodeID names this process, uniquely in the cluster. Its share of the keys follows from the ID, so a process
// that is restarted under its old ID gets its old keys. Default: the advertised address; "alone" without a
// listener.
func WithNodeID(id string) Option { return cacheOption(func(c *config) { c.ID = id }) }

// WithWeight sets the share of its region's keys that this process owns, relative to the other processes, from
// 0.01 to 100. Default 1.
func WithWeight(w float64) Option { return cacheOption(func(c *config) { c.Weight = w }) }

// WithSeed sets the seed of the rings, which decide who owns which key. It must be the same in the whole
// cluster: nodes with another seed are refused. Where users of a service choose keys, a secret seed keeps them
// from choosing keys that all land on one node. Default 0.
func WithSeed(seed uint64) Option { return cacheOption(func(c *config) { c.Seed = seed }) }

// WithListen sets the TCP address, host:port, at which peers reach this process. Port 0 chooses a free one.
// Without it, and without WithListener, the Cache has no peers.
func WithListen(address string) Option { return cacheOption(func(c *config) { c.Listen = address }) }

// WithListener is WithListen with the caller's listener. The Cache closes it, once Open has accepted the options.
func WithListener(l net.Listener) Option { return cacheOption(func(c *config) { c.Listener = l }) }

// WithAdvertise sets the address that other nodes are told to dial: a host that they can reach, and a port, where
// 0 stands for the port that this process listens on. Default: the address given to WithListen, as it was
// written. It is required if that is a wildcard such as ":7946".
func WithAdvertise(address string) Option {
	return cacheOption(func(c *config) { c.Advertise = address })
}

// WithDialer sets how peers are dialled. The function should return when its context ends; otherwise it is left
// behind, and Close waits for it. Default: TCP.
func WithDialer(dial func(ctx context.Context, address string) (net.Conn, error)) Option {
	return cacheOption(func(c *config) { c.Dial = dial })
}

// WithPlaintext allows connections to peers without TLS beyond the loopback interface: anybody on that network can
// then read and change what is cached.
func WithPlaintext() Option { return cacheOption(func(c *config) { c.plaintext = true }) }

// WithDiscovery sets how nodes find each other: consul.New from package regions/consul, or regions.Static.
// Without it the Cache is alone.
func WithDiscovery(d regions.Discovery) Option {
	return cacheOption(func(c *config) { c.Discovery = d })
}

// WithMaxValueBytes limits the size of an encoded value. Nodes accept no larger one from each other, from Set or
// from a getter; it is ErrTooLarge. It must be the same on all nodes. Default 64 MiB, at most 1 GiB.
func WithMaxValueBytes(n int) Option {
	return cacheOption(func(c *config) { c.Limits.MaxValue = n })
}

// WithLease sets how long a node may be silent before the others take it to be down; heartbeats are sent four
// times as often. It bounds how long readers wait for a node that vanished. It must be the same on all nodes of
// a region, or a write can return while one of them still serves an older value. Default 1 s, from 10 ms to
// 1 h.
func WithLease(d time.Duration) Option { return cacheOption(func(c *config) { c.Lease = d }) }

// WithGrace sets how long a node stays in its region's ring that still answers but that the discovery no longer
// lists. After that it hands over what it owns, leaves the ring, and goes on as a guest: its reads and writes
// go to the keys' owners until it is listed again. See Stats.Guest. Default 1 min.
func WithGrace(d time.Duration) Option { return cacheOption(func(c *config) { c.Grace = d }) }

// WithJoinWait sets how long Open waits for the discovery and for the first connections to the nodes it finds,
// so that the cluster answers the first reads. After that Open goes on all the same. Default 5 s; 0 does not
// wait.
func WithJoinWait(d time.Duration) Option { return cacheOption(func(c *config) { c.JoinWait = d }) }

// WithMaxDrift sets how far another node's clock may be ahead of this node's. Nodes further ahead are refused.
// Default 500 ms, at most 1 h.
func WithMaxDrift(d time.Duration) Option { return cacheOption(func(c *config) { c.MaxDrift = d }) }

// WithClock sets the wall clock, for tests. It must never return a time that its caller has not reached yet.
// Default: time.Now, which hits read through a clock that is updated every 20 ms, unless the expiry is near. A
// clock that is set here is always read directly.
func WithClock(now func() time.Time) Option { return cacheOption(func(c *config) { c.Clock = now }) }

// WithLogger sets where the Cache logs. It calls the logger's handler on goroutines of its own; records from one
// goroutine come one after the other. While a call has not returned for a second, records are lost. Default
// slog.Default().
func WithLogger(l *slog.Logger) Option { return cacheOption(func(c *config) { c.Logger = l }) }

// check returns everything that is wrong with c.
func (c *config) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if err := valid.Name(c.Cluster); err != nil {
		bad("WithCluster: %w", err)
	}
	if err := valid.Name(c.ID); err != nil && c.ID != "" {
		bad("WithNodeID: %w", err)
	}
	if err := valid.Name(c.Region); err != nil && c.Region != "" {
		bad("WithRegion: %w", err)
	}
	if !(c.Weight >= consistenthash.MinWeight && c.Weight <= consistenthash.MaxWeight) { // NaN too
		bad("WithWeight(%v): must be from %v to %v", c.Weight, consistenthash.MinWeight, consistenthash.MaxWeight)
	}
	if c.Lease < 10*time.Millisecond || c.Lease > time.Hour {
		bad("WithLease(%v): must be from 10ms to 1 hour", c.Lease)
	}
	if c.Grace < 0 {
		bad("WithGrace(%v): must not be negative", c.Grace)
	}
	if c.JoinWait < 0 {
		bad("WithJoinWait(%v): must not be negative", c.JoinWait)
	}
	if c.MaxDrift <= 0 || c.MaxDrift > time.Hour {
		bad("WithMaxDrift(%v): must be positive, and 1 hour at most", c.MaxDrift)
	}
	if c.Limits.MaxValue < 1 || c.Limits.MaxValue > 1<<30 {
		bad("WithMaxValueBytes(%d): must be from 1 to 1 GiB", c.Limits.MaxValue)
	}
	if isNil(c.Discovery) {
		bad("WithDiscovery: it is a nil %T", c.Discovery)
		c.Discovery = nil // which is not asked for more
	}
	if isNil(c.Listener) {
		bad("WithListener: it is a nil %T", c.Listener)
		c.Listener = nil
	}
	if v, ok := c.Discovery.(interface{ Validate() error }); ok {
		if _, err := origin.Call(&origin.Guard{NewPanicError: newPanicError}, "discovery", "", origin.NoValue(v.Validate)); err != nil {
			bad("WithDiscovery: %w", err)
		}
	}
	switch {
	case c.Listen != "" && c.Listener != nil:
		bad("WithListen and WithListener exclude each other")
	case c.Listen != "":
		errs = append(errs, c.checkListen("WithListen", c.Listen)...)
	case c.Listener != nil:
		if a, ok := c.Listener.Addr().(*net.TCPAddr); ok {
			errs = append(errs, c.checkListen("WithListener", a.String())...)
		} else if err := valid.Address(c.Listener.Addr().String()); err != nil && c.Advertise == "" {
			bad("WithListener: %w; name an address by WithAdvertise", err)
		}
	case c.Discovery != nil:
		bad("WithDiscovery needs WithListen or WithListener: nodes that find this one must be able to reach it")
	case c.Advertise != "":
		bad("WithAdvertise needs WithListen or WithListener")
	}
	if c.Advertise != "" {
		if err := valid.Unbound(c.Advertise); err != nil {
			bad("WithAdvertise(%q): %w", c.Advertise, err)
		}
	}
	errs = append(errs, c.checkIdentity()...)
	return errors.Join(errs...)
}

// A GroupOption configures a Group in NewGroup. If one is given twice, the last wins. NewGroup checks all of
// them together and reports every mistake at once.
type GroupOption interface{ applyGroup(*groupConfig) }

type groupOption func(*groupConfig)

func (o groupOption) applyGroup(c *groupConfig) { o(c) }

// groupConfig is what the options of a Group add up to.
type groupConfig struct {
	engine.GroupConfig
	policy  Policy
	onEvict any // a func(string, V, EvictReason), or nil
	setter  any // a func(context.Context, string, V) error, or nil
	codec   any // a Codec[V], or nil
}

func defaultGroupConfig() groupConfig {
	return groupConfig{GroupConfig: engine.GroupConfig{
		TTL:         5 * time.Minute,
		LoadTimeout: 10 * time.Second,
		MaxBytes:    64 << 20,
		CopyShare:   0.25,
		MaxLoads:    1000,
	}, policy: S3FIFO}
}

// maxTTL keeps instants and generations far from overflow.
const maxTTL = 10 * 365 * 24 * time.Hour

// WithTTL sets the time to live: no node serves a value whose load began longer ago, except as WithStaleIfError
// and WithStaleWhileRevalidate allow. Each key lives up to a tenth shorter, so that keys loaded together do
// not expire together. Default 5 min, from 1 ms to 10 years: there is no "never".
func WithTTL(d time.Duration) GroupOption { return groupOption(func(c *groupConfig) { c.TTL = d }) }

// WithNegativeTTL caches ErrNotFound for d, at most the group's TTL. Default 0: each Get of a key that the origin
// does not have asks the origin.
func WithNegativeTTL(d time.Duration) GroupOption {
	return groupOption(func(c *groupConfig) { c.NegativeTTL = d })
}

// WithStaleIfError allows a value to be served for up to d past its time to live when a load fails and no region
// has a fresh one. Item.Source is then SourceStale, and the origin is tried again after a second. Default 0:
// never.
func WithStaleIfError(d time.Duration) GroupOption {
	return groupOption(func(c *groupConfig) { c.StaleIfError = d })
}

// WithStrictReads makes reads load the key when this node sees no majority of its region (see
// Stats.Unconfirmed), so that no read returns what a write in another part of a divided network has replaced. A
// value that was Set and that no origin has is then ErrCutOff. Where most of a region vanishes at once, the rest
// loads every read until the discovery no longer lists what has vanished. Default: such reads are served from
// memory, and GetItem marks them.
func WithStrictReads() GroupOption { return groupOption(func(c *groupConfig) { c.Strict = true }) }

// WithRefreshAhead reloads the value of a key in the background when the key is read within the last d of its
// life, so that keys that are read often never miss. The key's owner loads it, once; readers of copies take the
// new value from there. Keys that are not read expire as before. A value that was Set is replaced by what the
// getter returns, too.
//
// If loading fails, the value stays until it expires, and one of the next reads tries again after a quarter of d
// or a second, whichever is shorter. A value whose own TTL is shorter than 2d is reloaded from half of its life
// on. d must be below the group's TTL. Default 0: never.
func WithRefreshAhead(d time.Duration) GroupOption {
	return groupOption(func(c *groupConfig) { c.RefreshAhead = d })
}

// WithStaleWhileRevalidate allows a value to be served for up to d past its time to live while it is reloaded:
// its readers do not wait and get the expired value, with SourceStale as Item.Source. The key's owner loads it,
// once; from its answer on all readers get the new value. Other nodes of the region ask the owner. A value that
// a write has replaced is never served so. If loading fails, one of the next reads tries again, after a second
// at most. Default 0: never.
func WithStaleWhileRevalidate(d time.Duration) GroupOption {
	return groupOption(func(c *groupConfig) { c.Revalidate = d })
}

// WithLoadTimeout sets how long a load may take, from the miss to the value, whatever it takes to get it. While
// there is another region, the getter gets three quarters of it, which leaves time to ask there if it fails. A
// write looks no longer than that for a node to carry it out. Default 10 s, at least 1 ms.
func WithLoadTimeout(d time.Duration) GroupOption {
	return groupOption(func(c *groupConfig) { c.LoadTimeout = d })
}

// WithMaxLoads bounds the calls of this group's getter that run at the same time in this process. Further loads
// wait for their turn, within the load timeout. A getter that does not return keeps its slot, and one that reads
// from its own group takes another slot for what that has to load. Default 1,000.
func WithMaxLoads(n int) GroupOption { return groupOption(func(c *groupConfig) { c.MaxLoads = n }) }

// WithMaxBytes bounds the memory of this group in this process. Keys, encoded values and the cache's own overhead
// for each entry count exactly. Decoded values are estimated, each as its encoded bytes plus its type's size,
// except for []byte and string, which need nothing more. What the group remembers of writes comes on top: about
// 150 bytes for each key written within a TTL, of up to a million keys or one for each 256 bytes of n, whichever
// is more. See also WithMaxEntries and Resize. Default 64 MiB.
func WithMaxBytes(n int64) GroupOption { return groupOption(func(c *groupConfig) { c.MaxBytes = n }) }

// WithCopyShare sets how much of WithMaxBytes and WithMaxEntries copies of other nodes' keys may take, from 0 to 1.
// Copies save round trips for keys that are read often; what they do not use is there for keys that this
// process owns. Default 0.25.
func WithCopyShare(share float64) GroupOption {
	return groupOption(func(c *groupConfig) { c.CopyShare = share })
}

// WithOriginRegion names the region near the origin. Its nodes load the keys, once in the world, and the owners in
// other regions ask them. If that region cannot be reached, or its getter fails, the others load by themselves.
// Default: each region loads for itself.
func WithOriginRegion(region string) GroupOption {
	return groupOption(func(c *groupConfig) { c.OriginRegion = region })
}

// WithHomeRegion names the region in which Updates take place. Default: one of the regions for each key, chosen by
// the key. While a new region becomes known, Updates of the keys that move to it wait until all regions know it.
func WithHomeRegion(region string) GroupOption {
	return groupOption(func(c *groupConfig) { c.HomeRegion = region })
}

// WithSetter makes Set and Update write to the origin. They do so at the key's owner, one write of a key at a time:
// first the origin, then the cache. If set fails, the caller gets the error, and what the cache has of the key is
// dropped in all regions, since nobody knows what the origin holds; the next Get loads it. set should return when
// its context ends, after the group's load timeout. A write may be done twice when its owner dies halfway, so
// set must tolerate that. See WithWriteBehind for writing later. Default: writes stay in the cache.
func WithSetter[V any](set func(ctx context.Context, key string, v V) error) GroupOption {
	return groupOption(func(c *groupConfig) {
		if c.setter = nil; set != nil { // no typed nil
			c.setter = set
		}
	})
}

// WithRemover is WithSetter for Remove. Default: Remove drops what the cache has and leaves the origin alone, as
// Clear always does.
func WithRemover(remove func(ctx context.Context, key string) error) GroupOption {
	return groupOption(func(c *groupConfig) { c.Remove = remove })
}

// WithWriteBehind calls the setter and the remover, both of which it needs, after Set, Update and Remove have
// returned. They return when the key's owner and its successor have the write. Either of the two writes it to
// the origin, so it is lost only with both. Of several writes of a key the last one is written. A write that
// fails is retried after 100 ms at first and every 30 s at most, until it succeeds. Close writes what is left,
// within its time. Until the origin has a write, it answers reads in this region; a read in another region that
// has to load may see the origin without it.
//
// maxBytes bounds what waits to be written in this process, and again what is kept for other nodes. Beyond it,
// writes wait for room until their context ends, or for the load timeout if another node is the owner, and
// then fail with ErrOverloaded. What could never fit fails at once with ErrTooLarge. 0, the default, writes
// through.
func WithWriteBehind(maxBytes int64) GroupOption {
	return groupOption(func(c *groupConfig) { c.WriteBehind = maxBytes })
}

// WithOriginLag says that the origins of all regions but one are replicas that may lag by d. For that long after a
// write, other regions load the key from the region named by WithHomeRegion, else WithOriginRegion, and not from
// their own origin, which could bring back the value before the write. Only after a RemoveTag do they ask their
// own origin first, which tells the tags. If the named region cannot be reached, the load fails. Default 0.
func WithOriginLag(d time.Duration) GroupOption {
	return groupOption(func(c *groupConfig) { c.OriginLag = d })
}

// WithCodec sets how values become bytes. By default, kinds of []byte and string are stored as they are, whatever
// methods they have, protobuf messages as protobuf, and everything else as JSON. An empty []byte is always read
// as one that is not nil.
//
// The default codec gives back what was put in, or refuses it. NewGroup refuses types for which it cannot promise
// that, and names the fields: for example those with unexported fields or interfaces. A string that is not
// UTF-8, and a nil message, are errors of the Set or the Get that brings them. "What was put in" is judged by
// reflect.DeepEqual, with two exceptions. A type with MarshalJSON and UnmarshalJSON, or MarshalText and
// UnmarshalText, is what they make of it; so a time.Time is its instant, if its offset is in whole minutes. And
// omitempty turns an empty slice or map into nil. Use JSON for what is refused.
func WithCodec[V any](codec Codec[V]) GroupOption {
	return groupOption(func(c *groupConfig) { c.codec = codec })
}

// check returns everything that is wrong with c.
func (c *groupConfig) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.TTL < time.Millisecond || c.TTL > maxTTL {
		bad("WithTTL(%v): must be from 1ms to 10 years", c.TTL)
	}
	if c.NegativeTTL < 0 || c.NegativeTTL > max(c.TTL, 0) {
		bad("WithNegativeTTL(%v): must be from 0 to the TTL, %v", c.NegativeTTL, c.TTL)
	}
	if c.StaleIfError < 0 || c.StaleIfError > maxTTL {
		bad("WithStaleIfError(%v): must be from 0 to 10 years", c.StaleIfError)
	}
	if c.RefreshAhead < 0 || c.RefreshAhead > 0 && c.RefreshAhead >= c.TTL {
		bad("WithRefreshAhead(%v): must be from 0 to less than the TTL, %v", c.RefreshAhead, c.TTL)
	}
	if c.Revalidate < 0 || c.Revalidate > maxTTL {
		bad("WithStaleWhileRevalidate(%v): must be from 0 to 10 years", c.Revalidate)
	}
	if c.LoadTimeout < time.Millisecond || c.LoadTimeout > maxTTL {
		bad("WithLoadTimeout(%v): must be from 1ms to 10 years", c.LoadTimeout)
	}
	if c.MaxLoads < 1 {
		bad("WithMaxLoads(%d): must be positive", c.MaxLoads)
	}
	if c.MaxBytes < 1 {
		bad("WithMaxBytes(%d): must be positive", c.MaxBytes)
	}
	if c.MaxEntries < 0 {
		bad("WithMaxEntries(%d): must not be negative", c.MaxEntries)
	}
	if !store.Policy(c.policy).Valid() {
		bad("WithPolicy(%v): no such policy", c.policy)
	}
	if c.OriginLag < 0 || c.OriginLag > maxTTL {
		bad("WithOriginLag(%v): must be from 0 to 10 years", c.OriginLag)
	}
	if c.OriginLag > 0 && c.HomeRegion == "" && c.OriginRegion == "" {
		bad("WithOriginLag needs WithHomeRegion or WithOriginRegion: the region whose origin does not lag")
	}
	if c.WriteBehind > 0 && (c.setter == nil || c.Remove == nil) {
		bad("WithWriteBehind needs WithSetter and WithRemover")
	}
	if c.WriteBehind < 0 {
		bad("WithWriteBehind(%d): must not be negative", c.WriteBehind)
	}
	if err := valid.Name(c.OriginRegion); err != nil && c.OriginRegion != "" {
		bad("WithOriginRegion: %w", err)
	}
	if err := valid.Name(c.HomeRegion); err != nil && c.HomeRegion != "" {
		bad("WithHomeRegion: %w", err)
	}
	if !(c.CopyShare >= 0 && c.CopyShare <= 1) { // NaN too
		bad("WithCopyShare(%v): must be from 0 to 1", c.CopyShare)
	}
	return errors.Join(errs...)
}
