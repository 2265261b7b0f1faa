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

// An Option configures a Cache in Open. If one is given twice, the last wins.
// Open checks all of them together and reports every mistake at once.
//
// Names of clusters, nodes, regions and groups are UTF-8 of at most 255 bytes. An empty string, nil, or
// an option that is not given at all means the default.
type Option interface{ applyCache(*config) }

type cacheOption func(*config)

func (o cacheOption) applyCache(c *config) { o(c) }

// config is what the options of a Cache come to.
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

// WithCluster names the cluster. Nodes of different clusters refuse each other,
// so a mix-up of addresses does no harm. Default "geocache".
func WithCluster(name string) Option { return cacheOption(func(c *config) { c.Cluster = name }) }

// WithRegion names the region this process is in. Default: what the discovery
// says (for Consul the datacenter), else "local".
func WithRegion(name string) Option { return cacheOption(func(c *config) { c.Region = name }) }

// WithNodeID names this process, uniquely in the cluster. Its share of the keys
// follows from it, so a process that is restarted under its old ID gets its old
// keys. Default: the advertised address; "alone" without a listener.
func WithNodeID(id string) Option { return cacheOption(func(c *config) { c.ID = id }) }

// WithWeight sets the share of its region's keys that this process owns,
// relative to the others', from 0.01 to 100. Default 1.
func WithWeight(w float64) Option { return cacheOption(func(c *config) { c.Weight = w }) }

// WithSeed sets the seed of the rings, which decides who owns which key. It
// must be the same in the whole cluster: nodes with another one are refused.
// Where users of a service choose keys, a secret seed keeps them from choosing
// keys that all land on one node. Default 0.
func WithSeed(seed uint64) Option { return cacheOption(func(c *config) { c.Seed = seed }) }

// WithListen sets the TCP address, host:port, at which peers reach this
// process. Port 0 chooses a free one. Without it, and without WithListener, the
// Cache has no peers.
func WithListen(address string) Option { return cacheOption(func(c *config) { c.Listen = address }) }

// WithListener is WithListen with a listener of the caller's making. Once Open
// has found the options good, the Cache closes it.
func WithListener(l net.Listener) Option { return cacheOption(func(c *config) { c.Listener = l }) }

// WithAdvertise sets the address that other nodes are told to dial: a host that they can dial, and a
// port, of which 0 stands for the one that this process listens on. Default:
// the one given to WithListen, as it was written. It is required if that is a wildcard such as ":7946".
func WithAdvertise(address string) Option {
	return cacheOption(func(c *config) { c.Advertise = address })
}

// WithDialer sets how peers are dialled. The function should return when its context
// ends: otherwise it is left behind, and Close waits for it. Default: TCP.
func WithDialer(dial func(ctx context.Context, address string) (net.Conn, error)) Option {
	return cacheOption(func(c *config) { c.Dial = dial })
}

// WithPlaintext allows peers to be reached without TLS beyond the loopback
// interface: whoever is on that network can then read and change what is
// cached.
func WithPlaintext() Option { return cacheOption(func(c *config) { c.plaintext = true }) }

// WithDiscovery sets how nodes find each other: consul.New from package
// regions/consul, or regions.Static. Without it the Cache is alone.
func WithDiscovery(d regions.Discovery) Option {
	return cacheOption(func(c *config) { c.Discovery = d })
}

// WithMaxValueBytes limits the size of an encoded value: nodes take no larger one from each
// other, nor one from Set or from a getter, which is ErrTooLarge. It must be the same on all
// nodes. Default 64 MiB, at most 1 GiB.
func WithMaxValueBytes(n int) Option {
	return cacheOption(func(c *config) { c.Limits.MaxValue = n })
}

// WithLease sets how long a node may be silent before the others take it to be
// down; heartbeats are sent four times as often. It bounds how long readers
// wait for a node that vanished. It must be the same on all nodes of a region, or a write can
// return while one of them still serves what is older. Default 1 s, at least 10 ms, at most 1 h.
func WithLease(d time.Duration) Option { return cacheOption(func(c *config) { c.Lease = d }) }

// WithGrace sets how long a node that still answers is kept after the discovery
// has stopped listing it. Then it leaves its region's ring by itself, after it has handed over
// what it owns, and goes on as a guest: its reads and writes go to the keys' owners, until it is
// listed again. See Stats.Guest. Default 1 min.
func WithGrace(d time.Duration) Option { return cacheOption(func(c *config) { c.Grace = d }) }

// WithJoinWait sets how long Open waits at most for the discovery and the
// first connections to the nodes it finds, so that the first reads are answered
// by the cluster. When the time is up Open goes on all the same. Default 5 s; 0
// does not wait.
func WithJoinWait(d time.Duration) Option { return cacheOption(func(c *config) { c.JoinWait = d }) }

// WithMaxDrift sets how far ahead of this node's clock another's may be.
// Nodes further ahead are refused. Default 500 ms, at most 1 h.
func WithMaxDrift(d time.Duration) Option { return cacheOption(func(c *config) { c.MaxDrift = d }) }

// WithClock sets the wall clock, for tests. It must never return a time that
// its caller has not reached yet. Default: time.Now, which hits read through a
// clock that is updated every 20 ms (nearer to an expiry than that they read the exact one); a clock that is set here is read
// exactly, and that ticker does not run.
func WithClock(now func() time.Time) Option { return cacheOption(func(c *config) { c.Clock = now }) }

// WithLogger sets where the Cache logs. Its handler is called on goroutines of its own, one record
// after the other where they come from one goroutine. While a call has not returned for a second,
// records are lost. Default slog.Default().
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

// A GroupOption configures a Group in NewGroup. If one is given twice, the last
// wins. NewGroup checks all of them together and reports every mistake at once.
type GroupOption interface{ applyGroup(*groupConfig) }

type groupOption func(*groupConfig)

func (o groupOption) applyGroup(c *groupConfig) { o(c) }

// groupConfig is what the options of a Group come to.
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

// WithTTL sets the time to live: no node serves a value whose load began longer
// ago, but for WithStaleIfError and WithStaleWhileRevalidate. Each key lives up to a tenth shorter, so that
// keys loaded together do not expire together. Default 5 min, at least 1 ms, at most 10
// years: there is no "never".
func WithTTL(d time.Duration) GroupOption { return groupOption(func(c *groupConfig) { c.TTL = d }) }

// WithNegativeTTL caches ErrNotFound for d, at most the group's TTL. Default 0:
// each Get of a key that the origin does not have asks the origin.
func WithNegativeTTL(d time.Duration) GroupOption {
	return groupOption(func(c *groupConfig) { c.NegativeTTL = d })
}

// WithStaleIfError lets a value be served for up to d past its time to live
// when a load fails and no region has a fresh one. Item.Source is then SourceStale;
// the origin is tried again after a second. Default 0: not at all.
func WithStaleIfError(d time.Duration) GroupOption {
	return groupOption(func(c *groupConfig) { c.StaleIfError = d })
}

// WithRefreshAhead has the value of a key that is read within the last d of its life
// loaded anew in the background, so that keys that are read often never miss. The
// key's owner loads it, once; readers of copies take the new value over from there.
// Nothing changes for keys that are not read: they expire. That holds for values that
// were Set as well, whose place what the getter returns then takes.
//
// If loading fails, the value stays until it expires, and loading it is tried again
// by one of the next reads, after a quarter of d or a second, whichever is
// shorter. A value that lives shorter than 2d by a TTL of its own is loaded anew from half of
// its life on. d must be below the group's TTL. Default 0: not at all.
func WithRefreshAhead(d time.Duration) GroupOption {
	return groupOption(func(c *groupConfig) { c.RefreshAhead = d })
}

// WithStaleWhileRevalidate has a value served for up to d past its time to live while
// it is loaded anew: who reads it then does not wait, gets the expired value, and
// Item.Source is SourceStale. The key's owner loads it, once; from its answer on all get
// the new one. Other nodes of the region ask the owner. A value that has been replaced by a
// write is never served so. If loading fails, it is tried again by one of the next reads, after
// a second at most. Default 0: not at all.
func WithStaleWhileRevalidate(d time.Duration) GroupOption {
	return groupOption(func(c *groupConfig) { c.Revalidate = d })
}

// WithLoadTimeout sets how long a load may take, from the miss to the value,
// however it is come by. While there is another region, the getter gets three
// quarters of it, so that time is left to ask there if it fails. A write, too, looks for no
// longer than that for a node to carry it out. Default 10 s, at least 1 ms.
func WithLoadTimeout(d time.Duration) GroupOption {
	return groupOption(func(c *groupConfig) { c.LoadTimeout = d })
}

// WithMaxLoads bounds the calls of this group's getter that run at the same time in this
// process; further loads wait for their turn, within the load timeout. A getter
// that does not return keeps its place, and one that reads from its own group
// takes another for what that has to load. Default 1,000.
func WithMaxLoads(n int) GroupOption { return groupOption(func(c *groupConfig) { c.MaxLoads = n }) }

// WithMaxBytes bounds the memory of this one group in this process: keys, encoded
// values, and what the cache itself needs for each entry, exactly; and decoded
// values, by an estimate: each as its encoded bytes and its type's size, but for
// []byte and string, which need nothing more. What is remembered of writes comes on top, about
// 150 bytes for each key written within a TTL, of a million keys, or of one for each 256 bytes of n
// if that is more. See also WithMaxEntries and Resize. Default 64 MiB.
func WithMaxBytes(n int64) GroupOption { return groupOption(func(c *groupConfig) { c.MaxBytes = n }) }

// WithCopyShare sets the most of MaxBytes, and of MaxEntries, that may be taken up by copies of
// keys that other nodes own, from 0 to 1. Copies save round trips for keys that
// are read often; what they do not use is there for the keys owned. Default 0.25.
func WithCopyShare(share float64) GroupOption {
	return groupOption(func(c *groupConfig) { c.CopyShare = share })
}

// WithOriginRegion names the region that is near the origin: its nodes load the
// keys, once in the world, and the owners in other regions ask them. If it
// cannot be reached, or its getter fails, they load by themselves. Default: each
// region loads for itself.
func WithOriginRegion(region string) GroupOption {
	return groupOption(func(c *groupConfig) { c.OriginRegion = region })
}

// WithHomeRegion names the region in which Update takes place. Default: one of the
// regions for each key, chosen by the key; then all processes must know the same
// regions, and while they come to know a new one, Updates of some keys may be lost.
func WithHomeRegion(region string) GroupOption {
	return groupOption(func(c *groupConfig) { c.HomeRegion = region })
}

// WithSetter has Set and Update write to the origin. They do so at the key's owner,
// one write of a key at a time: first the origin, then the cache. If set fails, that
// is the caller's error, and what the cache has of the key is dropped in all
// regions, since nobody knows what the origin holds; the next Get loads it. set should
// return when its context ends, which it does after the group's load timeout. A
// write may be done twice when its owner goes away in the middle, so set must
// bear that. See WithWriteBehind for writing later. Default: writes are the cache's
// alone.
func WithSetter[V any](set func(ctx context.Context, key string, v V) error) GroupOption {
	return groupOption(func(c *groupConfig) {
		if c.setter = nil; set != nil { // no typed nil
			c.setter = set
		}
	})
}

// WithRemover is WithSetter for Remove. Default: Remove drops what the cache has
// and leaves the origin alone. Clear always does.
func WithRemover(remove func(ctx context.Context, key string) error) GroupOption {
	return groupOption(func(c *groupConfig) { c.Remove = remove })
}

// WithWriteBehind has the setter and the remover, both of which it needs, called after Set, Update
// and Remove have returned. They return when the key's owner and its successor
// have the write; either of them writes it to the origin, so it is lost only if
// both are. Of several writes of a key the last one is written. A write that fails is
// tried again, after 100 ms at first and 30 s at most, until it succeeds. Close writes what there
// is, for as long as it may. Until the origin has a write, reads in this region are
// answered with it; a read in another region that has to load may see the origin without it.
//
// maxBytes bounds what waits to be written in this process, as much again what is kept for
// other nodes. Beyond it, writes wait for room until their context ends, or the load timeout is over
// where another node is the owner, with ErrOverloaded. What would never fit is ErrTooLarge at
// once. 0, the default, writes through.
func WithWriteBehind(maxBytes int64) GroupOption {
	return groupOption(func(c *groupConfig) { c.WriteBehind = maxBytes })
}

// WithOriginLag says that the origins of all regions but one are replicas that may
// lag by d. For so long after a write, other regions load the key from the region named by
// WithHomeRegion, else WithOriginRegion, and not from their own origin, which could
// bring back the value before the write. Only a RemoveTag has them ask their own first, which
// tells the tags. If that region cannot be reached the load
// fails. Default 0.
func WithOriginLag(d time.Duration) GroupOption {
	return groupOption(func(c *groupConfig) { c.OriginLag = d })
}

// WithCodec sets how values become bytes. Default: kinds of []byte and string as they
// are, whatever methods they have, protobuf messages as protobuf, everything else as JSON. An empty
// []byte is read as one that is not nil, wherever it comes from.
//
// The default gives back what was put in, or refuses it. NewGroup refuses types of which that cannot be
// said, with the names of the fields: those with unexported fields or interfaces in them, say. A string
// in them that is not UTF-8, and a nil message, are errors of the Set or the Get that brings them. What is the same when it comes
// back is told by reflect.DeepEqual, but for these: a type with MarshalJSON and UnmarshalJSON, or
// MarshalText and UnmarshalText, is what they make of it, so that a time.Time is its instant (to be
// exact with an offset of whole minutes); and a tag with omitempty makes an empty slice or map nil. For
// what is refused there is JSON.
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
