package geocache_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/regions"
)

// ada is a getter that has every key.
var ada = geocache.GetterFunc[string](func(_ context.Context, key string) (string, error) { return "value of " + key, nil })

// picky is a Discovery with mistakes in its configuration.
type picky struct{ regions.Discovery }

func (picky) Validate() error { return errors.New("no service name\nno token") }

// requireMistakes checks that err is about exactly the mistakes given, each by
// a part of its text.
func requireMistakes(t *testing.T, err error, mistakes ...string) {
	t.Helper()
	require.Error(t, err)
	for _, mistake := range mistakes {
		require.ErrorContains(t, err, mistake)
	}
	require.Equal(t, len(mistakes)-1, strings.Count(err.Error(), "\n"), "one line for each:\n%v", err)
}

func TestOpenReportsEveryMistakeAtOnce(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	_, err := geocache.Open(t.Context(),
		geocache.WithCluster(""),
		geocache.WithWeight(0),
		geocache.WithLease(time.Millisecond),
		geocache.WithGrace(-1),
		geocache.WithJoinWait(-1),
		geocache.WithMaxDrift(0),
		geocache.WithMaxValueBytes(1<<30+1),
		geocache.WithListen(":7946"),
		geocache.WithAdvertise("nowhere"),
		geocache.WithDiscovery(picky{regions.Static()}),
	)
	requireMistakes(t, err,
		"geocache: WithCluster: the name is empty",
		"WithWeight(0): must be from 0.01 to 100",
		"WithLease(1ms): must be from 10ms to 1 hour",
		"WithGrace(-1ns): must not be negative",
		"WithJoinWait(-1ns): must not be negative",
		"WithMaxDrift(0s): must be positive, and 1 hour at most",
		"WithMaxValueBytes(1073741825): must be from 1 to 1 GiB",
		"WithDiscovery: no service name",
		"no token",
		`WithListen(":7946"): beyond loopback use WithTLS, or say WithPlaintext`,
		`WithAdvertise("nowhere"): address nowhere: missing port in address`,
	)
}

func TestOpenChecksWhereItListens(t *testing.T) {
	const wildcard, plaintext = "other nodes cannot dial a wildcard address", "beyond loopback use WithTLS"
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	for name, test := range map[string]struct {
		opts     []geocache.Option
		mistakes []string
	}{
		"nothing":                  {[]geocache.Option{geocache.WithListen("nonsense")}, []string{`WithListen("nonsense"): address nonsense: missing port`}},
		"wildcard":                 {[]geocache.Option{geocache.WithListen(":0")}, []string{wildcard, plaintext}},
		"wildcard of IPv4":         {[]geocache.Option{geocache.WithListen("0.0.0.0:0")}, []string{wildcard, plaintext}},
		"wildcard of IPv6":         {[]geocache.Option{geocache.WithListen("[::]:0")}, []string{wildcard, plaintext}},
		"wildcard in plaintext":    {[]geocache.Option{geocache.WithListen(":0"), geocache.WithPlaintext()}, []string{wildcard}},
		"advertised, no TLS":       {[]geocache.Option{geocache.WithListen(":0"), geocache.WithAdvertise("10.0.0.1:1")}, []string{plaintext}},
		"an address, no TLS":       {[]geocache.Option{geocache.WithListen("192.0.2.1:0")}, []string{plaintext}},
		"a name, no TLS":           {[]geocache.Option{geocache.WithListen("example.com:0")}, []string{plaintext}},
		"listening twice":          {[]geocache.Option{geocache.WithListen("127.0.0.1:0"), geocache.WithListener(listener)}, []string{"exclude each other"}},
		"discovery, not listening": {[]geocache.Option{geocache.WithDiscovery(regions.Static())}, []string{"WithDiscovery needs WithListen or WithListener"}},
		"TLS without certificates": {[]geocache.Option{geocache.WithListen("192.0.2.1:0"), geocache.WithTLS(&tls.Config{})}, []string{"no certificate for this node", "no ClientCAs"}},
		"TLS that verifies nobody": {[]geocache.Option{geocache.WithTLS(&tls.Config{Certificates: make([]tls.Certificate, 1), ClientCAs: x509.NewCertPool(), InsecureSkipVerify: true})},
			[]string{"WithTLS: InsecureSkipVerify"}},
		"TLS from nowhere": {[]geocache.Option{geocache.WithTLSFunc(func() *tls.Config { return nil })}, []string{"WithTLS: no configuration"}},
		"names without TLS": {[]geocache.Option{geocache.WithPeerNames("*.example.org", "spiffe://d")},
			[]string{"WithPeerNames needs WithTLS", `"*.example.org": a wildcard belongs into a certificate`, `"spiffe://d": no path`}},
		"no names": {[]geocache.Option{geocache.WithTLS(&tls.Config{Certificates: make([]tls.Certificate, 1), ClientCAs: x509.NewCertPool()}), geocache.WithPeerNames()},
			[]string{"WithPeerNames: no name"}},
		"TLS that is one-sided": {[]geocache.Option{geocache.WithTLS(&tls.Config{Certificates: make([]tls.Certificate, 1), RootCAs: x509.NewCertPool()})},
			[]string{"no ClientCAs, so anybody could connect"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := geocache.Open(t.Context(), test.opts...)
			requireMistakes(t, err, test.mistakes...)
		})
	}
	for _, address := range []string{"127.0.0.1:0", "localhost:0", "[::1]:0"} {
		cache, err := geocache.Open(t.Context(), geocache.WithListen(address))
		if address == "[::1]:0" && err != nil {
			continue // a machine without IPv6
		}
		require.NoError(t, err, address)
		require.NoError(t, cache.Close())
	}
}

func TestOpenNamesTheNode(t *testing.T) {
	open := func(opts ...geocache.Option) regions.Node {
		cache, err := geocache.Open(t.Context(), opts...)
		require.NoError(t, err)
		defer cache.Close()
		require.Equal(t, cache.Node(), cache.Stats().Node)
		return cache.Node()
	}
	require.Equal(t, regions.Node{ID: "alone", Region: "local", Weight: 1}, open())
	require.Equal(t, regions.Node{ID: "eu-1", Region: "eu", Weight: 2},
		open(geocache.WithNodeID("ignored"), geocache.WithNodeID("eu-1"), geocache.WithRegion("eu"), geocache.WithWeight(2)), "the last wins")

	n := open(geocache.WithListen("127.0.0.1:0"))
	_, port, err := net.SplitHostPort(n.Address)
	require.NoError(t, err)
	require.NotEqual(t, "0", port)
	require.Equal(t, n.Address, n.ID)
	n = open(geocache.WithListen("127.0.0.1:0"), geocache.WithAdvertise("10.0.3.7:7946"))
	require.Equal(t, "10.0.3.7:7946", n.Address)

	n = open(geocache.WithListen("localhost:0"))
	require.True(t, strings.HasPrefix(n.Address, "localhost:"), n.Address)

	n = open(geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(inRegion("us-east")))
	require.Equal(t, "us-east", n.Region)
	n = open(geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(inRegion("us-east")), geocache.WithRegion("us"))
	require.Equal(t, "us", n.Region)
	n = open(geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(regions.Static()))
	require.Equal(t, "local", n.Region)

	_, err = geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(inRegion("")))
	require.ErrorContains(t, err, "the discovery did not tell this process's region; name it by WithRegion to start without: no leader")
}

// inRegion is a Discovery that knows nothing but the region, or not even that.
type inRegion string

func (r inRegion) Region(context.Context) (string, error) {
	if r == "" {
		return "", errors.New("no leader")
	}
	return string(r), nil
}

func (r inRegion) Run(ctx context.Context, self regions.Node, healthy func() error, found func(regions.View)) error {
	return regions.Static().Run(ctx, self, healthy, found)
}

// Whoever is in the list as somebody else would not be found by those who have the same
// list, and each would be alone.
func TestOpenRefusesAListThatHasThisNodeAsAnother(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	open := func(n regions.Node, opts ...geocache.Option) error {
		opts = append(opts, geocache.WithListen(address), geocache.WithJoinWait(0), geocache.WithDiscovery(regions.Static(n)))
		cache, err := geocache.Open(t.Context(), opts...)
		if err == nil {
			require.NoError(t, cache.Close())
		}
		return err
	}
	require.ErrorContains(t, open(regions.Node{Region: "eu", Address: address}),
		`WithDiscovery: the list has this process as node "`+address+`" in region "eu" at `+address)
	require.ErrorContains(t, open(regions.Node{ID: "eu-1", Region: "local", Address: address}), `as node "eu-1"`)
	require.ErrorContains(t, open(regions.Node{ID: "eu-1", Region: "local", Address: "10.0.0.1:1"}, geocache.WithNodeID("eu-1")), `at 10.0.0.1:1`)
	require.ErrorContains(t, open(regions.Node{Region: "local", Address: address, Weight: 2}), "of weight 2")
	require.NoError(t, open(regions.Node{Region: "eu", Address: address}, geocache.WithRegion("eu")), "the port is free again")
	require.NoError(t, open(regions.Node{ID: "eu-1", Region: "eu", Address: "10.0.0.1:1"}), "another node")
	require.ErrorContains(t, open(regions.Node{Address: "10.0.0.1"}), "WithDiscovery: node 0 of the list")
}

func TestNilsAreMistakes(t *testing.T) {
	_, err := geocache.Open(t.Context(), nil, geocache.WithWeight(-1))
	require.ErrorContains(t, err, "option 0 is nil")
	require.ErrorContains(t, err, "WithWeight(-1)")
	_, err = geocache.NewGroup[string](nil, "g", nil, geocache.WithTTL(time.Minute), nil)
	require.EqualError(t, err, "geocache: group \"g\": option 1 is nil\nthe cache is nil")

	cache, err := geocache.Open(t.Context())
	require.NoError(t, err)
	defer cache.Close()
	g, err := geocache.NewGroup[string](cache, "g", nil)
	require.NoError(t, err)
	_, err = g.Update(t.Context(), "k", nil)
	require.ErrorContains(t, err, "the function is nil")
}

func TestNewGroupReportsEveryMistakeAtOnce(t *testing.T) {
	cache, err := geocache.Open(t.Context())
	require.NoError(t, err)
	defer cache.Close()
	for name, test := range map[string]struct {
		name     string
		getter   geocache.Getter[string]
		opts     []geocache.GroupOption
		mistakes []string
	}{
		"all": {"", geocache.GetterFunc[string](nil), []geocache.GroupOption{
			geocache.WithTTL(time.Microsecond),
			geocache.WithNegativeTTL(time.Second),
			geocache.WithStaleIfError(-1),
			geocache.WithLoadTimeout(0),
			geocache.WithMaxBytes(0),
			geocache.WithCopyShare(1.5),
			geocache.WithCodec[int](upsideDown[int]{}),
		}, []string{
			`geocache: group "": WithTTL(1µs): must be from 1ms to 10 years`,
			"WithNegativeTTL(1s): must be from 0 to the TTL, 1µs",
			"WithStaleIfError(-1ns): must be from 0 to 10 years",
			"WithLoadTimeout(0s): must be from 1ms to 10 years",
			"WithMaxBytes(0): must be positive",
			"WithCopyShare(1.5): must be from 0 to 1",
			"the name is empty",
			"the getter is a nil geocache.GetterFunc[string]",
			"WithCodec: geocache_test.upsideDown[int] is not a Codec[string]",
		}},
		"long name":     {strings.Repeat("x", 256), ada, nil, []string{"the name is 256 bytes long, the limit is 255"}},
		"long TTL":      {"g", ada, []geocache.GroupOption{geocache.WithTTL(math.MaxInt64)}, []string{"WithTTL("}},
		"long negative": {"g", ada, []geocache.GroupOption{geocache.WithTTL(time.Minute), geocache.WithNegativeTTL(time.Hour)}, []string{"WithNegativeTTL(1h0m0s)"}},
		"nil pointer":   {"g", (*table)(nil), nil, []string{"the getter is a nil *geocache_test.table"}},
		"lag of nobody": {"g", nil, []geocache.GroupOption{geocache.WithOriginLag(1), geocache.WithHomeRegion("eu")}, []string{"WithOriginLag needs a getter"}},
		"nothing to refresh": {"g", nil, []geocache.GroupOption{geocache.WithRefreshAhead(1), geocache.WithStaleWhileRevalidate(1)},
			[]string{"WithRefreshAhead needs a getter", "WithStaleWhileRevalidate needs a getter"}},
		"always refreshing": {"g", ada, []geocache.GroupOption{geocache.WithTTL(time.Minute), geocache.WithRefreshAhead(time.Minute), geocache.WithStaleWhileRevalidate(-1)},
			[]string{"WithRefreshAhead(1m0s): must be from 0 to less than the TTL, 1m0s", "WithStaleWhileRevalidate(-1ns): must be from 0 to 10 years"}},
		"two interfaces": {"g", bothGetters{}, nil, []string{"geocache_test.bothGetters is both an ItemGetter and a BatchGetter"}},
		"no share":       {"g", ada, []geocache.GroupOption{geocache.WithCopyShare(math.NaN())}, []string{"WithCopyShare(NaN)"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := geocache.NewGroup(cache, test.name, test.getter, test.opts...)
			requireMistakes(t, err, test.mistakes...)
		})
	}

	g, err := geocache.NewGroup(cache, strings.Repeat("x", 255), ada)
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("x", 255), g.Name())
	_, err = geocache.NewGroup(cache, g.Name(), ada)
	require.ErrorContains(t, err, "there is one of that name already")
	require.Len(t, cache.Stats().Groups, 1)

	require.NoError(t, cache.Close())
	_, err = geocache.NewGroup(cache, "late", ada)
	require.ErrorIs(t, err, geocache.ErrClosed)
}

func TestAListenerIsCheckedAsAnAddressIs(t *testing.T) {
	l, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	defer l.Close()
	_, err = geocache.Open(t.Context(), geocache.WithListener(l))
	require.ErrorContains(t, err, "other nodes cannot dial a wildcard address")
	require.ErrorContains(t, err, "beyond loopback use WithTLS, or say WithPlaintext")
}
