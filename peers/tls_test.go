package peers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// authority returns a certificate for 127.0.0.1 that signs itself, and the pool
// it is in.
func authority(t testing.TB) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestMutualTLS(t *testing.T) {
	certificate, pool := authority(t)
	mutual := &tls.Config{Certificates: []tls.Certificate{certificate}, RootCAs: pool, ClientCAs: pool, ServerName: "127.0.0.1"}
	_, server, peer := pair(t, withTLS(mutual))
	require.Equal(t, tls.NoClientCert, mutual.ClientAuth, "the configuration given was changed")
	value := make([]byte, 3<<20)
	server.handler.lookup = func(*Request) (Answer, bool) { return Answer{Value: value}, true }
	n := 0
	peer.FetchMany(background, Batch{Group: "g", Keys: make([]Key, 20)}, func(_ int, ans Answer, err error) {
		require.NoError(t, err)
		require.Len(t, ans.Value, len(value))
		n++
	})
	require.Equal(t, 20, n)
}

// TestTLSMismatch: whatever is wrong, both sides say so and neither hangs.
func TestTLSMismatch(t *testing.T) {
	certificate, pool := authority(t)
	_, strangers := authority(t)
	full := &tls.Config{Certificates: []tls.Certificate{certificate}, RootCAs: pool, ClientCAs: pool}
	none := &tls.Config{RootCAs: pool, ClientCAs: pool,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none") },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return new(tls.Certificate), nil },
	}
	for name, c := range map[string]struct {
		server, client *tls.Config
		text           string // of the client's error
	}{
		"plain client":         {full, nil, "does not speak TLS, which this node requires"},
		"plain server":         {nil, full, "does not speak TLS"},
		"no certificate":       {full, none, "certificate required"},
		"unknown authority":    {full, &tls.Config{Certificates: full.Certificates, RootCAs: strangers, ClientCAs: pool}, "unknown authority"},
		"of another authority": {&tls.Config{Certificates: full.Certificates, RootCAs: pool, ClientCAs: strangers}, full, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			server := newNode(t, "server", withTLS(c.server)).listen(t)
			client := newNode(t, "client", withTLS(c.client))
			peer := client.connect(t, server)
			require.False(t, peer.Up())
			require.ErrorContains(t, peer.downErr(), c.text)
			eventually(t, func() bool { return server.Stats().Refused[ReasonTLS] > 0 })
		})
	}
}

// TestTLSSlowness: a TLS handshake has to be over in time as well.
func TestTLSSlowness(t *testing.T) {
	certificate, pool := authority(t)
	server := newNode(t, "server", func(c *Config) {
		withTLS(&tls.Config{Certificates: []tls.Certificate{certificate}, ClientCAs: pool})(c)
		c.Limits.handshakeTimeout = 100 * time.Millisecond
	}).listen(t)
	r := dialRogue(t, server)
	r.send([]byte("\x16\x03\x01\x02\x00"))
	eventually(t, func() bool { return server.Stats().Refused[ReasonSlow] == 1 })
}
