package geocache_test

import (
	"context"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster/logs"
	"github.com/geocache/geocache/regions"
)

// A lobby is a Discovery over which the nodes of one test find each other, and whoever else is in others.
type lobby struct {
	others []regions.Node

	mu     sync.Mutex // guards the following
	nodes  []regions.Node
	joined []func(regions.View)
}

func (*lobby) Region(context.Context) (string, error) { return "eu", nil }

func (l *lobby) Run(ctx context.Context, self regions.Node, _ func() error, found func(regions.View)) error {
	l.mu.Lock()
	l.nodes, l.joined = append(l.nodes, self), append(l.joined, found)
	for _, tell := range l.joined {
		tell(regions.View{Nodes: append(append([]regions.Node{}, l.nodes...), l.others...)})
	}
	l.mu.Unlock()
	<-ctx.Done()
	return nil
}

// What a node tells others to dial is where it listens, however that was said.
func TestPortZeroIsTheOneBound(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	for name, opts := range map[string][]geocache.Option{
		"both":                  {geocache.WithListen("127.0.0.1:0"), geocache.WithAdvertise("localhost:0")},
		"a wildcard is bound":   {geocache.WithListen(":0"), geocache.WithAdvertise("localhost:0"), geocache.WithPlaintext()},
		"no port is bound":      {geocache.WithListen("127.0.0.1:"), geocache.WithAdvertise("localhost:00")},
		"advertised by default": {geocache.WithListen("localhost:0")},
		"a fixed port is bound": {geocache.WithListener(l), geocache.WithAdvertise("localhost:0")},
	} {
		t.Run(name, func(t *testing.T) {
			var meeting lobby
			first, err := geocache.Open(t.Context(), append(opts, geocache.WithDiscovery(&meeting))...)
			require.NoError(t, err)
			defer first.Close()
			require.Regexp(t, `^localhost:[1-9]\d*$`, first.Node().Address)
			require.Equal(t, first.Node().Address, first.Node().ID)

			second, err := geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(&meeting))
			require.NoError(t, err)
			defer second.Close()
			require.Equal(t, 2, second.Stats().Regions[0].Nodes, "Open has waited for it: %v", second.Stats())
		})
	}

	cache, err := geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"), geocache.WithAdvertise("example.com:7946"))
	require.NoError(t, err, "a port that leads here from elsewhere")
	defer cache.Close()
	require.Equal(t, "example.com:7946", cache.Node().Address)
}

// Who listens where no others can dial says so, and what it would tell them is looked at as what they
// would tell it.
func TestAddressesNobodyCanDial(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	const wildcard, port = "other nodes cannot dial a wildcard address", "port must be a number from"
	for address, why := range map[string]string{
		":7946": wildcard, "0.0.0.0:7946": wildcard, "[::]:7946": wildcard, ":0": wildcard,
		"host:99999": port, "host:": port, "host:http": port, "host:-1": port,
		"host": "missing port", "[fe80::1%eth0]:1": "has a zone", "224.0.0.1:1": "is a multicast or broadcast address", "10.0.0.256:1": "neither an IP address nor a host name",
	} {
		_, err := geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"), geocache.WithAdvertise(address))
		requireMistakes(t, err, why)
		require.ErrorContains(t, err, "WithAdvertise(", address)

		if address != ":0" && address != "host:99999" && address != "host:" && address != "host:http" {
			_, err = geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(regions.Static(regions.Node{ID: "x", Region: "eu", Address: address})))
			requireMistakes(t, err, why)
		}
	}
	_, err := geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(regions.Static(
		regions.Node{Region: "eu", Address: "host:0"}, regions.Node{Region: "eu", Address: ":"}, regions.Node{Region: "eu\xff", Address: "host:99999"})))
	requireMistakes(t, err, "node 0 of the list", "node 1 of the list", "node 2 of the list, \"host:99999\": its region", "node 2 of the list")

	for address, why := range map[string]string{
		"127.0.0.1:99999": "invalid port", "127.0.0.1:-1": "invalid port", "127.0.0.1:no-such-service": "unknown port",
		"[::1%eth0]:0": "has a zone, which means something on one machine only; name one by WithAdvertise",
	} {
		_, err := geocache.Open(t.Context(), geocache.WithListen(address), geocache.WithPlaintext())
		requireMistakes(t, err, why)
	}
	_, err = geocache.Open(t.Context(), geocache.WithAdvertise("host:1"))
	requireMistakes(t, err, "WithAdvertise needs WithListen or WithListener")
}

// unixListener has an address that is none of TCP's.
type unixListener struct{ net.Listener }

func (unixListener) Addr() net.Addr { return &net.UnixAddr{Name: "/run/cache.sock", Net: "unix"} }

func TestListenersOfOtherNetworks(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, err = geocache.Open(t.Context(), geocache.WithListener(unixListener{l}))
	requireMistakes(t, err, "WithListener: address /run/cache.sock: missing port in address; name an address by WithAdvertise")
	_, err = geocache.Open(t.Context(), geocache.WithListener(unixListener{l}), geocache.WithAdvertise("host:0"))
	require.ErrorContains(t, err, "address of this node: address host:: port must be a number from 1 to 65535")
}

// An odd node that a discovery lists is left out, with one warning, and harms nobody.
func TestOddNodesOfADiscovery(t *testing.T) {
	log := new(logs.Buffer)
	meeting := lobby{others: []regions.Node{
		{}, {ID: "a", Region: "eu", Address: "host:0"}, {ID: "b", Region: "eu", Address: ":1"}, {ID: "c\xff", Region: "eu", Address: "host:1"},
		{ID: "d", Region: "\xff", Address: "host:1"}, {ID: "e", Region: "eu", Address: "host:1", Weight: math.NaN()},
		{ID: strings.Repeat("f", 256), Region: "eu", Address: "host:1"},
	}}
	open := func() *geocache.Cache {
		cache, err := geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(&meeting), geocache.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
		require.NoError(t, err)
		return cache
	}
	first := open()
	defer first.Close()
	for range 3 { // three more views for the first
		defer open().Close()
	}
	require.Len(t, first.Stats().Peers, 3)
	self := "self=" + first.Node().ID
	require.Equal(t, len(meeting.others), log.Count("unusable node found", self), log)
}

// A name that is not UTF-8, or too long, is refused wherever one is given.
func TestNames(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	long, bad := strings.Repeat("x", 256), "eu\xff"
	for _, name := range []string{long, bad} {
		why := "the name is 256 bytes long, the limit is 255"
		if name == bad {
			why = "is not UTF-8"
		}
		_, err := geocache.Open(t.Context(), geocache.WithCluster(name), geocache.WithRegion(name), geocache.WithNodeID(name))
		requireMistakes(t, err, "WithCluster: ", "WithNodeID: ", "WithRegion: "+err.Error()[strings.LastIndex(err.Error(), ": ")+2:])
		require.Equal(t, 3, strings.Count(err.Error(), why))

		_, err = geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(inRegion(name)))
		require.ErrorContains(t, err, why, "the region that a discovery tells")

		cache, err := geocache.Open(t.Context())
		require.NoError(t, err)
		_, err = geocache.NewGroup(cache, name, ada, geocache.WithOriginRegion(name), geocache.WithHomeRegion(name))
		require.Equal(t, 3, strings.Count(err.Error(), why), "%v", err)
		require.NoError(t, cache.Close())
	}

	most := strings.Repeat("ä", 127) + "x"
	cache, err := geocache.Open(t.Context(), geocache.WithCluster(most), geocache.WithRegion(most), geocache.WithNodeID(most), geocache.WithListen("127.0.0.1:0"))
	require.NoError(t, err)
	defer cache.Close()
	_, err = geocache.NewGroup(cache, most, ada, geocache.WithOriginRegion(most), geocache.WithHomeRegion(most))
	require.NoError(t, err)
}

// nothing is a Discovery that must not be asked.
type nothing struct{ regions.Discovery }

func (*nothing) Validate() error { panic("asked") }

func TestOptionsAtTheirLimits(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	const most = time.Duration(math.MaxInt64)
	for name, test := range map[string]struct {
		opts     []geocache.Option
		mistakes []string
	}{
		"a weight of NaN":     {[]geocache.Option{geocache.WithWeight(math.NaN())}, []string{"WithWeight(NaN)"}},
		"a weight of Inf":     {[]geocache.Option{geocache.WithWeight(math.Inf(1))}, []string{"WithWeight(+Inf)"}},
		"a small weight":      {[]geocache.Option{geocache.WithWeight(0.009)}, []string{"WithWeight(0.009)"}},
		"a large weight":      {[]geocache.Option{geocache.WithWeight(100.1)}, []string{"WithWeight(100.1)"}},
		"a lease of ages":     {[]geocache.Option{geocache.WithLease(most)}, []string{"WithLease(2562047h47m16.854775807s): must be from 10ms to 1 hour"}},
		"a negative lease":    {[]geocache.Option{geocache.WithLease(-most)}, []string{"WithLease(-"}},
		"a drift of ages":     {[]geocache.Option{geocache.WithMaxDrift(most)}, []string{"WithMaxDrift(2562047h47m16.854775807s): must be positive, and 1 hour at most"}},
		"no value":            {[]geocache.Option{geocache.WithMaxValueBytes(0)}, []string{"WithMaxValueBytes(0)"}},
		"negative values":     {[]geocache.Option{geocache.WithMaxValueBytes(math.MinInt)}, []string{"WithMaxValueBytes(-"}},
		"a nil discovery":     {[]geocache.Option{geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery((*nothing)(nil))}, []string{"WithDiscovery: it is a nil *geocache_test.nothing"}},
		"a nil listener":      {[]geocache.Option{geocache.WithListener((*net.TCPListener)(nil))}, []string{"WithListener: it is a nil *net.TCPListener"}},
		"the last is checked": {[]geocache.Option{geocache.WithWeight(1), geocache.WithWeight(-1)}, []string{"WithWeight(-1)"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := geocache.Open(t.Context(), test.opts...)
			requireMistakes(t, err, test.mistakes...)
		})
	}
	cache, err := geocache.Open(t.Context(), geocache.WithWeight(math.NaN()), geocache.WithWeight(0.01), geocache.WithLease(10*time.Millisecond), geocache.WithMaxDrift(time.Hour),
		geocache.WithGrace(most), geocache.WithJoinWait(most), geocache.WithMaxValueBytes(1<<30), geocache.WithSeed(math.MaxUint64),
		geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(regions.Static()),
		// As if they were not given:
		geocache.WithNodeID(""), geocache.WithRegion(""), geocache.WithAdvertise(""), geocache.WithListener(nil), geocache.WithDialer(nil), geocache.WithTLS(nil),
		geocache.WithClock(nil), geocache.WithLogger(nil))
	require.NoError(t, err)
	defer cache.Close()

	// The largest that a group takes, and what it then does.
	const years = 10 * 365 * 24 * time.Hour
	g, err := geocache.NewGroup(cache, "g", ada, geocache.WithTTL(years), geocache.WithNegativeTTL(years), geocache.WithStaleIfError(years),
		geocache.WithStaleWhileRevalidate(years), geocache.WithRefreshAhead(years-1), geocache.WithLoadTimeout(years), geocache.WithMaxBytes(math.MaxInt64),
		geocache.WithMaxEntries(math.MaxInt), geocache.WithMaxLoads(math.MaxInt), geocache.WithCopyShare(1), geocache.WithOriginLag(years), geocache.WithHomeRegion("local"),
		geocache.WithSetter(func(context.Context, string, string) error { return nil }), geocache.WithRemover(func(context.Context, string) error { return nil }),
		geocache.WithWriteBehind(math.MaxInt64))
	require.NoError(t, err)
	for _, key := range []string{"", "a", "\xff", strings.Repeat("k", 4096)} {
		v, err := g.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, "value of "+key, v)
		require.NoError(t, g.Set(t.Context(), key, "set", geocache.WithItemTTL(most), geocache.WithReceipt(nil)))
		item, err := g.GetItem(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, "set", item.Value)
		require.WithinDuration(t, time.Now().Add(years), item.Expires, years/9)
	}
	require.Equal(t, 4, g.Len())
	require.NoError(t, g.Resize(math.MaxInt64, 0))
	require.NoError(t, g.Resize(1, math.MaxInt))
	require.Zero(t, g.Len())
	require.ErrorContains(t, g.Resize(math.MinInt64, math.MinInt), "WithMaxEntries(-")
}
