package peers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// The protocol versions that this package speaks. In a handshake the highest
// that both sides speak is chosen, so a newer node sends an older one only
// what it knows.
const (
	lowestVersion  = 1
	highestVersion = 1
)

// maxHandshake is the size limit of the bodies of hello, welcome and refused.
const maxHandshake = 4 << 10

// acceptOnly is a reader's accept during the handshake.
func acceptOnly(kinds ...kind) func(kind) (int, bool) {
	return func(k kind) (int, bool) {
		for _, want := range kinds {
			if k == want {
				return maxHandshake, true
			}
		}
		return 0, false
	}
}

// greet makes the client's side of the handshake over c, in the time that ctx
// allows. Unless it returns an error, c has become the returned conn.
func (t *Transport) greet(ctx context.Context, c net.Conn, to Endpoint, traffic *traffic) (*conn, welcome, error) {
	until, _ := ctx.Deadline()
	var server *credential
	if t.gate != nil {
		secured, shown, err := t.secureClient(ctx, c, to)
		if err != nil {
			return nil, welcome{}, err
		}
		c, server = secured, shown
	}
	nc := newConn(c, &t.config.Limits, traffic, t.config.Lease)
	nc.credential = server
	nc.reader.accept = acceptOnly(kindWelcome, kindRefused)
	nc.reader.setIdle(time.Until(until))
	nc.reader.until = until
	err := nc.writer.queue(0, nil, func(b []byte) []byte {
		return appendHello(b, t.config.Clock.Physical(), hello{
			lowest:   lowestVersion,
			highest:  highestVersion,
			seed:     t.config.SeedCheck,
			maxValue: uint32(t.config.Limits.MaxValue),
			cluster:  t.config.Cluster,
			id:       t.config.ID,
			region:   t.config.Region,
		})
	})
	if err != nil {
		return nil, welcome{}, err
	}
	nc.writer.flush(false)

	h, body, _, err := nc.reader.next()
	if err != nil {
		return nil, welcome{}, explainHandshake(err, nc.reader.buffer[:nc.reader.end])
	}
	if h.kind == kindRefused {
		refused, err := decodeRefused(body)
		if err != nil {
			return nil, welcome{}, malformed(h.kind, err)
		}
		return nil, welcome{}, refused
	}
	m, err := decodeWelcome(body)
	switch {
	case err != nil:
		return nil, m, malformed(h.kind, err)
	case m.version < lowestVersion || m.version > highestVersion:
		return nil, m, refuse(ReasonVersion, "it chose protocol version %d, we speak %d to %d", m.version, lowestVersion, highestVersion)
	case m.id != to.ID || m.region != to.Region:
		return nil, m, refuse(ReasonIdentity, "at %s is node %q in region %q, not %q in %q", to.Address, m.id, m.region, to.ID, to.Region)
	}
	if err := t.bind(nc, m.id); err != nil {
		return nil, m, err
	}
	return nc, m, t.merge(h)
}

// welcome makes the server's side of the handshake over c. Unless it returns an
// error, c has become the returned conn. The client has been told of an error.
func (t *Transport) welcome(ctx context.Context, c net.Conn) (_ *conn, m hello, err error) {
	until := time.Now().Add(t.config.Limits.handshakeTimeout)
	var client *credential
	if t.gate != nil {
		ctx, cancel := context.WithDeadline(ctx, until)
		defer cancel()
		secured, shown, err := t.secureServer(ctx, c)
		if err != nil {
			return nil, hello{}, err
		}
		c, client = secured, shown
	}
	nc := newConn(c, &t.config.Limits, &t.traffic, t.config.Limits.frameTimeout)
	nc.credential = client
	defer func() {
		if err != nil {
			nc.close(err)
		}
	}()
	m, err = t.checkHello(nc, until)
	if refused := (*refusal)(nil); errors.As(err, &refused) && refused.Reason != ReasonSlow {
		t.sendRefused(nc, refused)
	}
	if err != nil {
		return nil, m, err
	}
	nc.number = t.numbered.Add(1)
	err = nc.writer.queue(0, nil, func(b []byte) []byte {
		return appendWelcome(b, t.config.Clock.Physical(), welcome{
			version: min(m.highest, highestVersion),
			maxKey:  uint16(t.config.Limits.MaxKey),
			maxKeys: uint16(t.config.Limits.maxKeys),
			id:      t.config.ID,
			region:  t.config.Region,
			maxCall: uint32(t.config.Limits.maxCall()),
			instant: t.config.Clock.Instant(),
			epoch:   t.config.Epoch,
		})
	})
	nc.writer.flush(false)
	return nc, m, err
}

// checkHello reads the client's hello and agrees to it or not. The clock is
// merged only when all else is known to be right: another cluster's time is
// none of ours.
func (t *Transport) checkHello(nc *conn, until time.Time) (hello, error) {
	nc.reader.accept = acceptOnly(kindHello)
	nc.reader.setIdle(time.Until(until))
	nc.reader.until = until
	h, body, _, err := nc.reader.next()
	if err != nil {
		return hello{}, explainHandshake(err, nc.reader.buffer[:nc.reader.end])
	}
	m, err := decodeHello(body)
	switch {
	case err != nil:
		return m, malformed(h.kind, err)
	case m.highest < lowestVersion || m.lowest > highestVersion:
		return m, refuse(ReasonVersion, "node %q speaks protocol versions %d to %d, node %q %d to %d", m.id, m.lowest, m.highest, t.config.ID, lowestVersion, highestVersion)
	case m.cluster != t.config.Cluster:
		return m, refuse(ReasonCluster, "node %q belongs to cluster %q, node %q to %q", m.id, m.cluster, t.config.ID, t.config.Cluster)
	case m.seed != t.config.SeedCheck:
		return m, refuse(ReasonSeed, "nodes %q and %q have different ring seeds", m.id, t.config.ID)
	case m.id == "" || m.region == "":
		return m, refuse(ReasonIdentity, "a node without id or region")
	case m.id == t.config.ID:
		return m, refuse(ReasonIdentity, "two nodes with the id %q", m.id)
	}
	if e, ok := t.mayConnect(m.id); ok && e.Region != m.region {
		return m, refuse(ReasonIdentity, "node %q says that it is in region %q, and is listed in %q", m.id, m.region, e.Region)
	}
	if err := t.admit(nc, m); err != nil {
		return m, err
	}
	return m, t.merge(h)
}

// merge learns of the time in a frame's header, or refuses it. The clock of the
// other node itself is judged where a frame shows it alone: what it knows of
// third ones' is not its fault.
func (t *Transport) merge(h header) error {
	switch h.kind {
	case kindHello, kindWelcome, kindPing, kindPong:
		if err := t.config.Clock.Check(h.clock); err != nil {
			return refuseFor(ReasonClock, err)
		}
	}
	if err := t.config.Clock.Merge(h.clock); err != nil {
		return refuseFor(ReasonClock, err)
	}
	return nil
}

// sendRefused tells the other side why the connection is about to be closed,
// as well as can be. It may wait for a write.
func (t *Transport) sendRefused(nc *conn, refused *refusal) {
	_ = nc.writer.queue(0, nil, func(b []byte) []byte {
		return appendRefused(b, t.config.Clock.Read(), refused.Reason, refused.Text)
	})
	nc.writer.flush(false)
}

// secureClient makes the client's side of the TLS handshake. The server has shown that it may be the node
// that is dialled.
func (t *Transport) secureClient(ctx context.Context, c net.Conn, to Endpoint) (*tls.Conn, *credential, error) {
	r, err := t.gate.now()
	if err != nil {
		return nil, nil, err
	}
	config, both := r.clientFor(to)
	secured := tls.Client(c, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, nil, explainTLS(err)
	}
	server, err := both.done()
	return secured, server, err
}

// secureServer makes the server's side of the TLS handshake. The client has shown that it has a
// certificate; whether that lets it in is for admit to say.
func (t *Transport) secureServer(ctx context.Context, c net.Conn) (*tls.Conn, *credential, error) {
	r, err := t.gate.now()
	if err != nil {
		return nil, nil, err
	}
	secured := tls.Server(c, r.server)
	if err := secured.HandshakeContext(ctx); err != nil {
		refused := explainTLS(err)
		if plain := (tls.RecordHeaderError{}); errors.As(err, &plain) && plain.Conn != nil {
			refused = refuse(ReasonTLS, "a client that does not speak TLS, which this node requires")
			t.sendRefused(newConn(c, &t.config.Limits, &t.traffic, t.config.Lease), refused)
		}
		return nil, nil, refused
	}
	state := secured.ConnectionState()
	client, err := newCredential(r, x509.ExtKeyUsageClientAuth, state.PeerCertificates, state.VerifiedChains)
	return secured, client, err
}

// explainTLS turns the error of a TLS handshake into a refusal.
func explainTLS(err error) *refusal {
	refused, other := (*refusal)(nil), x509.HostnameError{}
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.As(err, &other):
		return refuseName(other.Certificate, []string{other.Host})
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		return refuse(ReasonSlow, "a TLS handshake not complete in time")
	case errors.As(err, new(tls.RecordHeaderError)):
		return &refusal{Reason: ReasonTLS, Text: "the other side does not speak TLS: " + err.Error(), err: err}
	}
	return &refusal{Reason: ReasonTLS, Text: "TLS handshake: " + err.Error(), err: err}
}

// explainHandshake makes the errors of a handshake's first frame clearer, of
// which received is the beginning: a TLS record in its place is the most
// common mistake.
func explainHandshake(err error, received []byte) error {
	const handshake, alert, major = 22, 21, 3
	told := (*net.OpError)(nil)
	switch {
	case errors.As(err, &told) && told.Op == "remote error": // with TLS 1.3 a server judges a client that is done already
		return &refusal{Reason: ReasonTLS, Remote: true, Text: told.Err.Error(), err: err}
	case len(received) >= 2 && (received[0] == handshake || received[0] == alert) && received[1] == major:
		return refuse(ReasonTLS, "the other side speaks TLS, which is not configured here")
	case err == io.EOF:
		return fmt.Errorf("the connection was closed in the handshake: %w", err)
	}
	return err
}
