package geocache

import (
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/geocache/geocache/peers"
)

// WithTLS encrypts and authenticates the connections between nodes, in both directions with the same configuration.
// It needs a certificate of this node that is good for servers and clients, RootCAs to check servers, and
// ClientCAs to check clients.
//
// A node is let in if its certificate is valid for a name that this node accepts: one of WithPeerNames, else the
// configuration's ServerName, else the host of the address under which the discovery lists the node that it
// claims to be, so that an unlisted node stays out. This goes for servers and clients alike, and no callback of
// the configuration can allow more. ClientAuth is ignored, a configuration from GetConfigForClient counts for its
// certificates and authorities only, and sessions are not resumed. While a node is connected, others that claim
// its ID need a certificate for the same names, so a node must show the same one as server and as client. A
// connection ends no later than the certificates that it was made with, and is renewed before.
//
// Package peertls makes a configuration from files, for WithTLSFunc.
func WithTLS(t *tls.Config) Option {
	return cacheOption(func(c *config) {
		c.TLS = nil
		if t != nil { // an option may be used for several Caches
			own := t.Clone()
			c.TLS = func() *tls.Config { return own }
		}
	})
}

// WithTLSFunc is WithTLS with a configuration that changes, so that certificates and authorities are rotated
// without a restart. f is called for each connection and once a second. It must not block, must return the
// same pointer as before if nothing has changed, and must not modify what it has returned. After a change all
// connections are renewed without failing requests; those that the new configuration would refuse end.
func WithTLSFunc(f func() *tls.Config) Option { return cacheOption(func(c *config) { c.TLS = f }) }

// WithPeerNames sets the names for which a node's certificate must be valid, as client or server: for one of
// them. A name is a DNS name or IP address, as certificates for hosts have it, or a SPIFFE ID:
//
//	cache.profile-api                              a DNS name, which a certificate may have as a wildcard
//	spiffe://example.org/ns/prod/sa/profile-api    this ID alone
//	spiffe://example.org/ns/prod/*                 all IDs below this path
//	spiffe://example.org/*                         all of this trust domain
//
// It needs WithTLS or WithTLSFunc. With it, a configuration's VerifyPeerCertificate is called without verified
// chains; VerifyConnection has them.
func WithPeerNames(names ...string) Option {
	return cacheOption(func(c *config) { c.PeerNames = append([]string{}, names...) })
}

// checkIdentity returns everything that is wrong with the TLS configuration and the peers' names.
func (c *config) checkIdentity() (errs []error) {
	if c.TLS != nil {
		for _, err := range peers.CheckTLS(c.TLS()) {
			errs = append(errs, fmt.Errorf("WithTLS: %w", err))
		}
	}
	if c.PeerNames == nil {
		return errs
	}
	switch {
	case len(c.PeerNames) == 0:
		errs = append(errs, errors.New("WithPeerNames: no name, so nobody could connect"))
	case c.TLS == nil:
		errs = append(errs, errors.New("WithPeerNames needs WithTLS: without it nobody shows a name"))
	}
	for _, name := range c.PeerNames {
		if err := peers.CheckName(name); err != nil {
			errs = append(errs, fmt.Errorf("WithPeerNames: %w", err))
		}
	}
	return errs
}
