package peers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/lease"
	"github.com/geocache/geocache/internal/valid"
)

// A Config configures a Transport. Cluster, ID, Region, Clock and Handler are required. Every other field's zero
// value is its default.
type Config struct {
	Cluster string // nodes of other clusters are refused
	ID      string // this node's id, unique in the cluster
	Region  string // this node's region

	// Epoch is when this process started. It tells it from earlier processes with its ID.
	Epoch expiry.Generation

	// SeedCheck is a hash of the ring's seed. Nodes with another one are refused: their rings would place every
	// key elsewhere.
	SeedCheck uint64

	// Clock is read into every frame sent, and merged with every one received.
	Clock *expiry.Clock

	// Handler answers the requests of peers.
	Handler Handler

	// Dial connects to a peer's address; by default with TCP. ctx bounds the dialling only. A deadline that is set
	// while a Read waits must end that Read, as net.Conn demands.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	// TLS, if not nil, returns the configuration for new connections, in both directions. It is called for each of
	// them, and once a second. When it returns another configuration than before, connections are renewed, and those
	// that the new one would refuse end. It must not block, and what it returned must not be changed. CheckTLS says
	// what a configuration must have. Nodes verify each other, whatever it says of that, and sessions are not
	// resumed.
	TLS func() *tls.Config

	// PeerNames are the names of which a node's certificate must have one, as client or server. Without any, it is the
	// configuration's ServerName, and without that the host in the node's address: then a node that SetPeers does not
	// list cannot connect. CheckName says what a name may be.
	PeerNames []string

	// Lease is how long a peer may be silent before it is taken to be down, and how long a lease is that this node's
	// pongs grant. Pings are sent four times as often. Default 1 s. It must be the same on all nodes of a region for
	// what is promised of leases, and should be the same everywhere.
	Lease time.Duration

	// Leases decides what pings and pongs mean for leases. Its length and clock are those of Lease and Clock. Default:
	// one made from LeaseConfig.
	Leases *lease.Table

	Limits Limits

	// Logger is where connections and refusals are logged; by default slog.Default().
	Logger *slog.Logger

	// Counts reports whether this node counts another one, which pings it, among the nodes of its region; known is
	// false if it cannot tell. It is called for each ping and must be quick. A node that has not been counted for
	// Grace is told so, see lease.Standing; one that never was, after a lease and a quarter. Nil means that this node
	// can never tell.
	Counts func(id string) (counts, known bool)

	// Grace is how long a node of the region that was counted may be missing before it is told so. Default 0.
	Grace time.Duration

	// OnChange, if not nil, is called when a peer comes up or goes down, or says something new of itself or of this
	// node (see lease.Guest and lease.Standing). It runs on a goroutine that the peer's connection needs, so it must
	// not block. Two calls may overtake each other, so ask the Peer how it is. It is not called for a peer that
	// SetPeers has dropped, nor once Close has begun.
	OnChange func(p *Peer)

	// OnPong, if not nil, is called after each pong of a peer has been taken in, with no lock held, on the goroutine
	// that reads its connection, so it must not block. Leases then says what the pong said.
	OnPong func(p *Peer)

	// OnRestart, if not nil, is called when the process behind a peer turns out to be a new one. The peer can be called
	// by then. It runs on the goroutine that reads the connection and must not block.
	OnRestart func(p *Peer)

	// OnOtherView, if not nil, is called after a node of this region, be it a peer or not, has pinged with another view
	// than this node's. It runs on the goroutine that reads the connection, so it must not block.
	OnOtherView func(id string)
}

// Limits bound what a peer can make this node spend. They are enforced before memory is taken. Nodes tell each other
// their limits in the handshake and keep to those of the other, so only a node that breaks the protocol exceeds
// them, and loses its connection. Zero values are the defaults. Other packages set only the sizes of keys
// and values.
type Limits struct {
	MaxKey      int // bytes in a key; default 4 KiB, at most 65,535
	MaxValue    int // bytes in a value, in either direction; default 64 MiB, at most 1 GiB
	maxKeys     int // keys in one frame; default 1,024, at most 65,535; larger batches are split
	maxInFlight int // loads and calls running at once for one connection; default 4,096; beyond it the answer is CodeBusy

	// maxQueued is how many bytes may wait to be written to one connection; default 4 MiB. Beyond it a server reads no
	// further requests from that connection, and requests to that peer fail with CodeBusy.
	maxQueued int

	// handshakeTimeout is how long connecting, TLS and the handshake may take together; default 5 s.
	handshakeTimeout time.Duration

	// frameTimeout is how long a frame may take once its first byte is there, in either direction, with a second more
	// for each MiB of it; default 10 s.
	frameTimeout time.Duration
}

// maxCall is the largest payload of a call that is taken: the largest value, and
// room for what is said of it.
func (l *Limits) maxCall() int { return l.MaxValue + callRoom }

// callRoom is how much a call's payload or reply, or the tags of an answer, may exceed the largest value.
const callRoom = 1 << 20

// maxName is the limit on the length of cluster names, node IDs, regions and groups.
const maxName = valid.MaxName

// withDefaults returns c with defaults filled in, or everything that is wrong
// with it.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	name := func(what, s string) {
		switch {
		case s == "":
			errs = append(errs, fmt.Errorf("peers: Config.%s is required", what))
		case len(s) > maxName:
			errs = append(errs, fmt.Errorf("peers: Config.%s has %d bytes, at most %d are allowed", what, len(s), maxName))
		}
	}
	number := func(what string, n *int, byDefault, most int) {
		switch {
		case *n == 0:
			*n = byDefault
		case *n < 0 || *n > most:
			errs = append(errs, fmt.Errorf("peers: Config.Limits.%s is %d, it must be between 1 and %d", what, *n, most))
		}
	}
	duration := func(what string, d *time.Duration, byDefault time.Duration) {
		switch {
		case *d == 0:
			*d = byDefault
		case *d < 0:
			errs = append(errs, fmt.Errorf("peers: Config.%s is %v, it must be positive", what, *d))
		}
	}

	name("Cluster", c.Cluster)
	name("ID", c.ID)
	name("Region", c.Region)
	if c.Clock == nil {
		errs = append(errs, errors.New("peers: Config.Clock is required"))
	}
	if c.Handler == nil {
		errs = append(errs, errors.New("peers: Config.Handler is required"))
	}
	number("MaxKey", &c.Limits.MaxKey, 4<<10, math.MaxUint16)
	number("MaxValue", &c.Limits.MaxValue, 64<<20, 1<<30)
	number("maxKeys", &c.Limits.maxKeys, 1024, math.MaxUint16)
	number("maxInFlight", &c.Limits.maxInFlight, 4096, math.MaxInt32)
	number("maxQueued", &c.Limits.maxQueued, 4<<20, math.MaxInt32)
	duration("Lease", &c.Lease, time.Second)
	duration("Limits.handshakeTimeout", &c.Limits.handshakeTimeout, 5*time.Second)
	duration("Limits.frameTimeout", &c.Limits.frameTimeout, 10*time.Second)

	if c.Dial == nil {
		c.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	if c.TLS != nil {
		for _, err := range CheckTLS(c.TLS()) {
			errs = append(errs, fmt.Errorf("peers: Config.TLS: %w", err))
		}
	} else if len(c.PeerNames) > 0 {
		errs = append(errs, errors.New("peers: Config.PeerNames needs Config.TLS"))
	}
	for _, name := range c.PeerNames {
		if err := CheckName(name); err != nil {
			errs = append(errs, fmt.Errorf("peers: Config.PeerNames: %w", err))
		}
	}
	c.PeerNames = slices.Clone(c.PeerNames)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Logger = c.Logger.With("cluster", c.Cluster)
	return c, errors.Join(errs...)
}

// LeaseConfig returns the configuration of a lease.Table for a Transport, which knows how long it pauses between two
// attempts.
func LeaseConfig(length, grace time.Duration, clock *expiry.Clock) lease.Config {
	c := lease.Config{Length: length, Grace: grace, Retry: lastBackoff, Clock: clock}
	if began.Round(0).Before(time.Now()) { // not in virtual time, where each node is to count as a process of its own
		c.Started = began
	}
	return c
}

// began is when this process started, or shortly after.
var began = time.Now()
