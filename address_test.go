package geocache_test

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster/logs"
	"github.com/geocache/geocache/regions"
)

// A node tells others to dial the port that it has bound, however it was given.
func TestPortZero(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	for name, opts := range map[string][]geocache.Option{
		"both": {geocache.WithListen("127.0.0.1:0"), geocache.WithAdvertise("localhost:0")},
		"a wildcard is bound": {geocache.WithListen(":0"), geocache.WithAdvertise("localhost:0"),
			geocache.WithPlaintext()},
		"no port is bound":      {geocache.WithListen("127.0.0.1:"), geocache.WithAdvertise("localhost:00")},
		"advertised by default": {geocache.WithListen("localhost:0")},
		"a fixed port is bound": {geocache.WithListener(l), geocache.WithAdvertise("localhost:0")},
	} {
		t.Run(name, func(t *testing.T) {
			var meeting sharedDiscovery
			first, err := geocache.Open(t.Context(), append(opts, geocache.WithDiscovery(&meeting))...)
			require.NoError(t, err)
			defer first.Close()
			require.Regexp(t, `^localhost:[1-9]\d*$`, first.Node().Address)
			require.Equal(t, first.Node().Address, first.Node().ID)

			second, err := geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"),
				geocache.WithDiscovery(&meeting))
			require.NoError(t, err)
			defer second.Close()
			require.Equal(t, 2, second.Stats().Regions[0].Nodes, "Open must have waited for it: %v", second.Stats())
		})
	}

	cache, err := geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"),
		geocache.WithAdvertise("example.com:7946"))
	require.NoError(t, err, "a port that is forwarded to this node")
	defer cache.Close()
	require.Equal(t, "example.com:7946", cache.Node().Address)
}

// An address that others cannot dial is refused, whether the node would announce it or finds it in
// its discovery's list.
func TestAddressesNobodyCanDial(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	const wildcard, port = "other nodes cannot dial a wildcard address", "port must be a number from"
	for address, why := range map[string]string{
		":7946": wildcard, "0.0.0.0:7946": wildcard, "[::]:7946": wildcard, ":0": wildcard,
		"host:99999": port, "host:": port, "host:http": port, "host:-1": port,
		"host": "missing port", "[fe80::1%eth0]:1": "has a zone", "224.0.0.1:1": "is a multicast or broadcast address",
		"10.0.0.256:1": "neither an IP address nor a host name",
	} {
		_, err := geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"), geocache.WithAdvertise(address))
		requireMistakes(t, err, why)
		require.ErrorContains(t, err, "WithAdvertise(", address)

		if address != ":0" && address != "host:99999" && address != "host:" && address != "host:http" {
			_, err = geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"),
				geocache.WithDiscovery(regions.Static(regions.Node{ID: "x", Region: "eu", Address: address})))
			requireMistakes(t, err, why)
		}
	}
	unusable := regions.Static(
		regions.Node{Region: "eu", Address: "host:0"},
		regions.Node{Region: "eu", Address: ":"},
		regions.Node{Region: "eu\xff", Address: "host:99999"})
	_, err := geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(unusable))
	requireMistakes(t, err, "node 0 of the list", "node 1 of the list",
		"node 2 of the list, \"host:99999\": its region", "node 2 of the list")

	for address, why := range map[string]string{
		"127.0.0.1:99999": "invalid port", "127.0.0.1:-1": "invalid port",
		"127.0.0.1:no-such-service": "unknown port",
		"[::1%eth0]:0": "has a zone, which means something on one machine only; name one by " +
			"WithAdvertise",
	} {
		_, err := geocache.Open(t.Context(), geocache.WithListen(address), geocache.WithPlaintext())
		requireMistakes(t, err, why)
	}
	_, err = geocache.Open(t.Context(), geocache.WithAdvertise("host:1"))
	requireMistakes(t, err, "WithAdvertise needs WithListen or WithListener")
}

// unixListener has an address that is not a TCP one.
type unixListener struct{ net.Listener }

func (unixListener) Addr() net.Addr { return &net.UnixAddr{Name: "/run/cache.sock", Net: "unix"} }

func TestListenersOfOtherNetworks(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, err = geocache.Open(t.Context(), geocache.WithListener(unixListener{l}))
	requireMistakes(t, err,
		"WithListener: address /run/cache.sock: missing port in address; name an address by WithAdvertise")
	_, err = geocache.Open(t.Context(), geocache.WithListener(unixListener{l}), geocache.WithAdvertise("host:0"))
	require.ErrorContains(t, err, "address of this node: address host:: port must be a number from 1 to 65535")
}

// An unusable node that a discovery lists is ignored, with one warning, and harms nobody.
func TestUnusableNodesOfADiscovery(t *testing.T) {
	log := new(logs.Buffer)
	meeting := sharedDiscovery{others: []regions.Node{
		{},
		{ID: "a", Region: "eu", Address: "host:0"},
		{ID: "b", Region: "eu", Address: ":1"},
		{ID: "c\xff", Region: "eu", Address: "host:1"},
		{ID: "d", Region: "\xff", Address: "host:1"},
		{ID: "e", Region: "eu", Address: "host:1", Weight: math.NaN()},
		{ID: strings.Repeat("f", 256), Region: "eu", Address: "host:1"},
	}}
	open := func() *geocache.Cache {
		cache, err := geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"),
			geocache.WithDiscovery(&meeting), geocache.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
		require.NoError(t, err)
		return cache
	}
	first := open()
	defer first.Close()
	for range 3 { // the first gets three more views
		defer open().Close()
	}
	require.Len(t, first.Stats().Peers, 3)
	self := "self=" + first.Node().ID
	require.Equal(t, len(meeting.others), log.Count("unusable node found", self), log)
}

func TestOpenChecksWhereItListens(t *testing.T) {
	const wildcard, plaintext = "other nodes cannot dial a wildcard address", "beyond loopback use WithTLS"
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	certificates := make([]tls.Certificate, 1)
	nobodyVerified := &tls.Config{Certificates: certificates, ClientCAs: x509.NewCertPool(),
		InsecureSkipVerify: true}
	twoSided := &tls.Config{Certificates: certificates, ClientCAs: x509.NewCertPool()}
	oneSided := &tls.Config{Certificates: certificates, RootCAs: x509.NewCertPool()}
	opts := func(opts ...geocache.Option) []geocache.Option { return opts }
	for name, test := range map[string]struct {
		opts     []geocache.Option
		mistakes []string
	}{
		"nothing": {
			opts(geocache.WithListen("nonsense")),
			[]string{`WithListen("nonsense"): address nonsense: missing port`},
		},
		"wildcard":         {opts(geocache.WithListen(":0")), []string{wildcard, plaintext}},
		"wildcard of IPv4": {opts(geocache.WithListen("0.0.0.0:0")), []string{wildcard, plaintext}},
		"wildcard of IPv6": {opts(geocache.WithListen("[::]:0")), []string{wildcard, plaintext}},
		"wildcard in plaintext": {
			opts(geocache.WithListen(":0"), geocache.WithPlaintext()),
			[]string{wildcard},
		},
		"advertised, no TLS": {
			opts(geocache.WithListen(":0"), geocache.WithAdvertise("10.0.0.1:1")),
			[]string{plaintext},
		},
		"an address, no TLS": {opts(geocache.WithListen("192.0.2.1:0")), []string{plaintext}},
		"a name, no TLS":     {opts(geocache.WithListen("example.com:0")), []string{plaintext}},
		"listening twice": {
			opts(geocache.WithListen("127.0.0.1:0"), geocache.WithListener(listener)),
			[]string{"exclude each other"},
		},
		"discovery, not listening": {
			opts(geocache.WithDiscovery(regions.Static())),
			[]string{"WithDiscovery needs WithListen or WithListener"},
		},
		"TLS without certificates": {
			opts(geocache.WithListen("192.0.2.1:0"), geocache.WithTLS(&tls.Config{})),
			[]string{"no certificate for this node", "no ClientCAs"},
		},
		"TLS that verifies nobody": {
			opts(geocache.WithTLS(nobodyVerified)),
			[]string{"WithTLS: InsecureSkipVerify"},
		},
		"TLS from nowhere": {
			opts(geocache.WithTLSFunc(func() *tls.Config { return nil })),
			[]string{"WithTLS: no configuration"},
		},
		"names without TLS": {
			opts(geocache.WithPeerNames("*.example.org", "spiffe://d")),
			[]string{
				"WithPeerNames needs WithTLS",
				`"*.example.org": a wildcard belongs into a certificate`,
				`"spiffe://d": no path`,
			},
		},
		"no names": {
			opts(geocache.WithTLS(twoSided), geocache.WithPeerNames()),
			[]string{"WithPeerNames: no name"},
		},
		"TLS that is one-sided": {
			opts(geocache.WithTLS(oneSided)),
			[]string{"no ClientCAs, so anybody could connect"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := geocache.Open(t.Context(), test.opts...)
			requireMistakes(t, err, test.mistakes...)
		})
	}
	for _, address := range []string{"127.0.0.1:0", "localhost:0", "[::1]:0"} {
		cache, err := geocache.Open(t.Context(), geocache.WithListen(address))
		if address == "[::1]:0" && err != nil {
			continue // this machine has no IPv6
		}
		require.NoError(t, err, address)
		require.NoError(t, cache.Close())
	}
}

func TestListenerIsCheckedLikeAnAddress(t *testing.T) {
	l, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	defer l.Close()
	_, err = geocache.Open(t.Context(), geocache.WithListener(l))
	require.ErrorContains(t, err, "other nodes cannot dial a wildcard address")
	require.ErrorContains(t, err, "beyond loopback use WithTLS, or say WithPlaintext")
}
