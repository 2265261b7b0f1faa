package peers

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// This file decides who is let in, and nothing else does. What the user's configuration says, and what its
// callbacks return, may refuse more, but never allow more.
//
// A connection is let in if the other side has shown a certificate that
//
//   - an authority of the configuration in force has issued for the role that the other side has here:
//     VerifiedChains, or where crypto/tls has not verified it, our own verification;
//   - is valid for one of the accepted names, see gate.accepted; and
//   - has the same names as those by which connections of the node with this ID are already up, see bind.
//
// Invariant: each handshake is a full one. A resumed session would bring back the certificate of an earlier
// connection and defeat a rotation. VerifyConnection runs for those too, but there are none.

// CheckTLS returns everything that keeps a configuration from serving both directions between nodes.
func CheckTLS(c *tls.Config) (errs []error) {
	if c == nil {
		return []error{errors.New("no configuration")}
	}
	if len(c.Certificates) == 0 && (c.GetCertificate == nil || c.GetClientCertificate == nil) {
		errs = append(errs, errors.New("no certificate for this node, which is server and client to the others"))
	}
	if c.ClientCAs == nil {
		errs = append(errs, errors.New("no ClientCAs, so anybody could connect; TLS between nodes is mutual"))
	}
	if c.InsecureSkipVerify {
		errs = append(errs, errors.New("InsecureSkipVerify: nodes always verify each other; to accept other names there is WithPeerNames"))
	}
	return errs
}

// A gate has the configurations of both roles, made from the one that the user gives.
type gate struct {
	source func() *tls.Config
	names  []string // Config.PeerNames

	mu   sync.Mutex // guards the following
	last *roles     // made of what source returned last
}

// roles is one configuration in both roles. It never changes.
type roles struct {
	given          *tls.Config
	server, client *tls.Config
	names          []string // accepted from everybody; none if it depends on the node
}

// now returns the configurations in force.
func (g *gate) now() (*roles, error) {
	given := g.source()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.last != nil && g.last.given == given {
		return g.last, nil
	}
	if err := errors.Join(CheckTLS(given)...); err != nil {
		return nil, &refusal{Reason: ReasonTLS, Text: "this node's TLS configuration: " + err.Error(), err: err}
	}
	r := &roles{given: given, server: serverRole(given, given.ClientCAs), client: given.Clone(), names: g.names}
	if len(r.names) == 0 && given.ServerName != "" {
		r.names = []string{given.ServerName}
	}
	if get := given.GetConfigForClient; get != nil {
		r.server.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := get(hello)
			if err != nil || c == nil {
				return nil, err
			}
			return serverRole(c, given.ClientCAs), nil
		}
	}
	r.client.ClientSessionCache = nil
	r.client.Renegotiation = tls.RenegotiateNever
	// With a name in the handshake crypto/tls verifies the chain and that one name. It cannot be told
	// several, or SPIFFE IDs: then verifyServer does both.
	r.client.InsecureSkipVerify = len(g.names) > 0
	g.last = r
	return r, nil
}

// serverRole returns c as a server uses it: clients have to show a certificate of one of its ClientCAs.
func serverRole(c *tls.Config, authorities *x509.CertPool) *tls.Config {
	c = c.Clone()
	c.ClientAuth = tls.RequireAndVerifyClientCert
	if c.ClientCAs == nil {
		c.ClientCAs = authorities
	}
	c.GetConfigForClient = nil
	c.SessionTicketsDisabled = true
	return c
}

// accepted returns the names of which a certificate must have one, if the node's address is known to be this.
func (r *roles) accepted(address string) []string {
	if len(r.names) > 0 {
		return r.names
	}
	return []string{hostOf(address)}
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	host, _, _ = strings.Cut(host, "%") // an IPv6 zone is this machine's business
	return host
}

// A credential is what a connection was let in by. A connection without TLS has none, which is nil.
type credential struct {
	roles *roles              // under which
	usage x509.ExtKeyUsage    // what the other side has shown its certificate for
	shown []*x509.Certificate // the certificate, and those that lead to an authority
	names []string            // of the certificate
	ends  time.Time           // when that chain does
	renew time.Time           // when the connection should be made anew; of a client only
}

// newCredential makes a credential of chains that have been verified.
func newCredential(r *roles, usage x509.ExtKeyUsage, shown []*x509.Certificate, chains [][]*x509.Certificate) (*credential, error) {
	if len(chains) == 0 || len(shown) == 0 {
		return nil, refuse(ReasonTLS, "the other side has no certificate that was verified")
	}
	c := &credential{roles: r, usage: usage, shown: shown, names: namesOf(shown[0])}
	for _, chain := range chains {
		first := slices.MinFunc(chain, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
		if first.NotAfter.After(c.ends) {
			c.ends = first.NotAfter
		}
	}
	return c, nil
}

// check returns a refusal unless the certificate is valid for one of the names.
func (c *credential) check(accepted []string) error {
	if validFor(c.shown[0], accepted) {
		return nil
	}
	return refuseName(c.shown[0], accepted)
}

func refuseName(leaf *x509.Certificate, accepted []string) *refusal {
	return refuse(ReasonName, "the certificate is for %s; accepted is %s", listed(namesOf(leaf)), listed(accepted))
}

// verify verifies a certificate by the authorities of r.
func (r *roles) verify(shown []*x509.Certificate, usage x509.ExtKeyUsage) (chains [][]*x509.Certificate, err error) {
	if len(shown) == 0 {
		return nil, errors.New("no certificate")
	}
	opts := x509.VerifyOptions{
		Roots:         r.client.RootCAs,
		CurrentTime:   r.time(),
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{usage},
	}
	if usage == x509.ExtKeyUsageClientAuth {
		opts.Roots = r.server.ClientCAs
	}
	for _, c := range shown[1:] {
		opts.Intermediates.AddCert(c)
	}
	return shown[0].Verify(opts)
}

func (r *roles) time() time.Time {
	if r.given.Time != nil {
		return r.given.Time()
	}
	return time.Now()
}

// clientFor returns the configuration for dialling a node, and what the handshake fills in.
func (r *roles) clientFor(to Endpoint) (*tls.Config, *shownBoth) {
	c, both := r.client.Clone(), new(shownBoth)
	c.ServerName = cmp.Or(c.ServerName, hostOf(to.Address))
	user := c.VerifyConnection
	c.VerifyConnection = func(state tls.ConnectionState) (err error) {
		if c.InsecureSkipVerify {
			state.VerifiedChains, err = r.verify(state.PeerCertificates, x509.ExtKeyUsageServerAuth)
			if err != nil {
				return err
			}
		}
		both.server, err = newCredential(r, x509.ExtKeyUsageServerAuth, state.PeerCertificates, state.VerifiedChains)
		if err == nil {
			err = both.server.check(r.accepted(to.Address))
		}
		if err == nil && user != nil {
			err = user(state)
		}
		return err
	}
	certificates, get := c.Certificates, c.GetClientCertificate
	c.GetClientCertificate = func(request *tls.CertificateRequestInfo) (own *tls.Certificate, err error) {
		if get != nil {
			own, err = get(request)
		} else {
			own = new(tls.Certificate) // none, as crypto/tls has it
			for i := range certificates {
				if request.SupportsCertificate(&certificates[i]) == nil {
					own = &certificates[i]
					break
				}
			}
		}
		both.own = endOf(own)
		return own, err
	}
	return c, both
}

// shownBoth is what both sides of a connection have shown, as the client sees it.
type shownBoth struct {
	server *credential
	own    time.Time // when this node's own certificate ends; zero if that is not known
}

// done returns the credential of the server, after the handshake.
func (b *shownBoth) done() (*credential, error) {
	c := b.server
	if c == nil {
		return nil, refuse(ReasonTLS, "the server's certificate was not verified")
	}
	now, ends := c.roles.time(), c.ends
	if !b.own.IsZero() && b.own.Before(ends) {
		ends = b.own
	}
	c.renew = now.Add(max(ends.Sub(now)*3/4, time.Second))
	return c, nil
}

// endOf returns when a certificate ends, or zero.
func endOf(c *tls.Certificate) time.Time {
	if c == nil {
		return time.Time{}
	}
	leaf := c.Leaf
	if leaf == nil && len(c.Certificate) > 0 {
		leaf, _ = x509.ParseCertificate(c.Certificate[0])
	}
	if leaf == nil {
		return time.Time{}
	}
	return leaf.NotAfter
}

// admit decides about a client that has said who it is. It is called before anything that the client says is used.
// crypto/tls has verified the client's certificate.
func (t *Transport) admit(nc *conn, m hello) error {
	c := nc.credential
	if c == nil {
		return nil
	}
	address := ""
	if len(c.roles.names) == 0 {
		e, ok := t.mayConnect(m.id)
		if !ok {
			if m.region == t.config.Region {
				t.leases.Refused(m.id)
			}
			return refuse(ReasonUnlisted, "node %q is not listed at node %q (yet), so its certificate cannot be judged; it is for %s",
				m.id, t.config.ID, listed(c.names))
		}
		address = e.Address
	}
	if err := c.check(c.roles.accepted(address)); err != nil {
		return err
	}
	return t.bind(nc, m.id)
}

// A binding is the names by which connections of a node are up, in either direction.
type binding struct {
	names []string
	conns int
}

// bind binds the ID of a node to the names that nc has shown, until nc is closed. It refuses nc if there are connections by
// other names. Rotating a certificate keeps its names; a node whose names change is let in when its old connections are
// gone.
func (t *Transport) bind(nc *conn, id string) error {
	if nc.credential == nil {
		return nil
	}
	t.bound.mu.Lock()
	defer t.bound.mu.Unlock()
	b := t.bound.nodes[id]
	if b == nil {
		b = &binding{names: nc.credential.names}
		t.bound.nodes[id] = b
	}
	if !slices.Equal(b.names, nc.credential.names) {
		return refuse(ReasonTaken, "node %q is connected by a certificate for %s; this one is for %s", id, listed(b.names), listed(nc.credential.names))
	}
	b.conns++
	nc.unbind = func() {
		t.bound.mu.Lock()
		defer t.bound.mu.Unlock()
		if b.conns--; b.conns == 0 {
			delete(t.bound.nodes, id)
		}
	}
	return nil
}

// bindings has the binding of each node that is connected.
type bindings struct {
	mu    sync.Mutex
	nodes map[string]*binding
}

// over returns why a connection must not go on, or nil: a certificate has ended, or its authority is
// not one of those in force any more. (What a GetConfigForClient would say now is not known without a
// client.)
func (c *credential) over(r *roles) error {
	if c == nil {
		return nil
	}
	if now := r.time(); !now.Before(c.ends) {
		return refuse(ReasonExpired, "the certificate for %s has ended at %s", listed(c.names), c.ends.UTC().Format(time.DateTime))
	}
	if c.roles == r || r.given.GetConfigForClient != nil && c.usage == x509.ExtKeyUsageClientAuth {
		return nil
	}
	if _, err := r.verify(c.shown, c.usage); err != nil {
		return &refusal{Reason: ReasonTLS, Text: fmt.Sprintf("the certificate for %s is not accepted any more: %v", listed(c.names), err), err: err}
	}
	if len(r.names) > 0 {
		return c.check(r.names)
	}
	return nil
}

// inspectEvery is how often connections are checked: whether they must end, or should be renewed.
const inspectEvery = time.Second

// inspect checks all connections from time to time, until Close.
func (t *Transport) inspect() {
	ticker := time.NewTicker(inspectEvery)
	defer ticker.Stop()
	for {
		select {
		case <-t.leaving.Done():
			return
		case <-ticker.C:
		}
		r, err := t.gate.now()
		if err != nil {
			continue // handshakes fail and say so; what stands is as good as it was
		}
		t.mu.Lock()
		var accepted []*serverConn
		for s := range t.accepted {
			accepted = append(accepted, s)
		}
		t.mu.Unlock()
		for _, s := range accepted {
			if err := s.credential.over(r); err != nil {
				t.servers.Go(func() {
					t.sendRefused(s.conn, err.(*refusal))
					s.close(err)
				})
			}
		}
		for _, p := range t.Peers() {
			p.inspect(r)
		}
	}
}

// ownEnd returns when the certificate of this node ends that it shows first, or zero if that is not known.
func (g *gate) ownEnd() time.Time {
	if g == nil {
		return time.Time{}
	}
	r, err := g.now()
	if err != nil || len(r.given.Certificates) == 0 {
		return time.Time{}
	}
	return endOf(&r.given.Certificates[0])
}
