package geocache_test

import (
	"context"
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

// invalidDiscovery is a Discovery with mistakes in its configuration.
type invalidDiscovery struct{ regions.Discovery }

func (invalidDiscovery) Validate() error { return errors.New("no service name\nno token") }

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
		geocache.WithDiscovery(invalidDiscovery{regions.Static()}),
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
		open(geocache.WithNodeID("ignored"), geocache.WithNodeID("eu-1"), geocache.WithRegion("eu"),
			geocache.WithWeight(2)), "the last option wins")

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
	n = open(geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(inRegion("us-east")),
		geocache.WithRegion("us"))
	require.Equal(t, "us", n.Region)
	n = open(geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(regions.Static()))
	require.Equal(t, "local", n.Region)

	_, err = geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(inRegion("")))
	require.ErrorContains(t, err,
		"the discovery cannot tell this process's region (WithRegion sets it): no leader")
}

// A node that is in the list under another name would not be found by those that have the same
// list, and each would be alone.
func TestOpenRefusesAListThatContradictsThisNode(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	open := func(n regions.Node, opts ...geocache.Option) error {
		opts = append(opts, geocache.WithListen(address), geocache.WithJoinWait(0),
			geocache.WithDiscovery(regions.Static(n)))
		cache, err := geocache.Open(t.Context(), opts...)
		if err == nil {
			require.NoError(t, cache.Close())
		}
		return err
	}
	require.ErrorContains(t, open(regions.Node{Region: "eu", Address: address}),
		`WithDiscovery: the list has this process as node "`+address+`" in region "eu" at `+address)
	require.ErrorContains(t, open(regions.Node{ID: "eu-1", Region: "local", Address: address}), `as node "eu-1"`)
	require.ErrorContains(t,
		open(regions.Node{ID: "eu-1", Region: "local", Address: "10.0.0.1:1"},
			geocache.WithNodeID("eu-1")), `at 10.0.0.1:1`)
	require.ErrorContains(t, open(regions.Node{Region: "local", Address: address, Weight: 2}), "with weight 2")
	require.NoError(t, open(regions.Node{Region: "eu", Address: address}, geocache.WithRegion("eu")),
		"the port is free again after a refusal")
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
			geocache.WithCodec[int](reversed[int]{}),
		}, []string{
			`geocache: group "": WithTTL(1µs): must be from 1ms to 10 years`,
			"WithNegativeTTL(1s): must be from 0 to the TTL, 1µs",
			"WithStaleIfError(-1ns): must be from 0 to 10 years",
			"WithLoadTimeout(0s): must be from 1ms to 10 years",
			"WithMaxBytes(0): must be positive",
			"WithCopyShare(1.5): must be from 0 to 1",
			"the name is empty",
			"the getter is a nil geocache.GetterFunc[string]",
			"WithCodec: geocache_test.reversed[int] is not a Codec[string]",
		}},
		"long name": {strings.Repeat("x", 256), ada, nil,
			[]string{"the name is 256 bytes long, the limit is 255"}},
		"long TTL": {"g", ada, []geocache.GroupOption{geocache.WithTTL(math.MaxInt64)}, []string{"WithTTL("}},
		"long negative": {"g", ada,
			[]geocache.GroupOption{geocache.WithTTL(time.Minute), geocache.WithNegativeTTL(time.Hour)},
			[]string{"WithNegativeTTL(1h0m0s)"}},
		"nil pointer": {"g", (*table)(nil), nil, []string{"the getter is a nil *geocache_test.table"}},
		"lag of nobody": {"g", nil,
			[]geocache.GroupOption{geocache.WithOriginLag(1), geocache.WithHomeRegion("eu")},
			[]string{"WithOriginLag needs a getter"}},
		"nothing to refresh": {"g", nil,
			[]geocache.GroupOption{geocache.WithRefreshAhead(1), geocache.WithStaleWhileRevalidate(1)},
			[]string{"WithRefreshAhead needs a getter", "WithStaleWhileRevalidate needs a getter"}},
		"always refreshing": {"g", ada,
			[]geocache.GroupOption{geocache.WithTTL(time.Minute), geocache.WithRefreshAhead(time.Minute),
				geocache.WithStaleWhileRevalidate(-1)},
			[]string{"WithRefreshAhead(1m0s): must be from 0 to less than the TTL, 1m0s",
				"WithStaleWhileRevalidate(-1ns): must be from 0 to 10 years"}},
		"two interfaces": {"g", bothGetters{}, nil,
			[]string{"geocache_test.bothGetters is both an ItemGetter and a BatchGetter"}},
		"no share": {"g", ada, []geocache.GroupOption{geocache.WithCopyShare(math.NaN())},
			[]string{"WithCopyShare(NaN)"}},
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
	require.ErrorContains(t, err, "a group of that name already exists")
	require.Len(t, cache.Stats().Groups, 1)

	require.NoError(t, cache.Close())
	_, err = geocache.NewGroup(cache, "late", ada)
	require.ErrorIs(t, err, geocache.ErrClosed)
}

// bothGetters is both an ItemGetter and a BatchGetter, which is a mistake.
type bothGetters struct {
	geocache.ItemGetterFunc[string]
}

// neverAsked is a Discovery that must not be called.
type neverAsked struct{ regions.Discovery }

func (*neverAsked) Validate() error { panic("asked") }

// A name that is too long or not UTF-8 is refused wherever one is given.
func TestNames(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	long, bad := strings.Repeat("x", 256), "eu\xff"
	for _, name := range []string{long, bad} {
		why := "the name is 256 bytes long, the limit is 255"
		if name == bad {
			why = "is not UTF-8"
		}
		_, err := geocache.Open(t.Context(), geocache.WithCluster(name), geocache.WithRegion(name),
			geocache.WithNodeID(name))
		requireMistakes(t, err, "WithCluster: ", "WithNodeID: ",
			"WithRegion: "+err.Error()[strings.LastIndex(err.Error(), ": ")+2:])
		require.Equal(t, 3, strings.Count(err.Error(), why))

		_, err = geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"),
			geocache.WithDiscovery(inRegion(name)))
		require.ErrorContains(t, err, why, "the region that a discovery reports")

		cache, err := geocache.Open(t.Context())
		require.NoError(t, err)
		_, err = geocache.NewGroup(cache, name, ada, geocache.WithOriginRegion(name), geocache.WithHomeRegion(name))
		require.Equal(t, 3, strings.Count(err.Error(), why), "%v", err)
		require.NoError(t, cache.Close())
	}

	most := strings.Repeat("ä", 127) + "x"
	cache, err := geocache.Open(t.Context(), geocache.WithCluster(most), geocache.WithRegion(most),
		geocache.WithNodeID(most), geocache.WithListen("127.0.0.1:0"))
	require.NoError(t, err)
	defer cache.Close()
	_, err = geocache.NewGroup(cache, most, ada, geocache.WithOriginRegion(most), geocache.WithHomeRegion(most))
	require.NoError(t, err)
}

func TestOptionsAtTheirLimits(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	const most = time.Duration(math.MaxInt64)
	for name, test := range map[string]struct {
		opts     []geocache.Option
		mistakes []string
	}{
		"a weight of NaN": {[]geocache.Option{geocache.WithWeight(math.NaN())}, []string{"WithWeight(NaN)"}},
		"a weight of Inf": {[]geocache.Option{geocache.WithWeight(math.Inf(1))}, []string{"WithWeight(+Inf)"}},
		"a small weight":  {[]geocache.Option{geocache.WithWeight(0.009)}, []string{"WithWeight(0.009)"}},
		"a large weight":  {[]geocache.Option{geocache.WithWeight(100.1)}, []string{"WithWeight(100.1)"}},
		"a lease of ages": {[]geocache.Option{geocache.WithLease(most)},
			[]string{"WithLease(2562047h47m16.854775807s): must be from 10ms to 1 hour"}},
		"a negative lease": {[]geocache.Option{geocache.WithLease(-most)}, []string{"WithLease(-"}},
		"a drift of ages": {[]geocache.Option{geocache.WithMaxDrift(most)},
			[]string{"WithMaxDrift(2562047h47m16.854775807s): must be positive, and 1 hour at most"}},
		"no value": {[]geocache.Option{geocache.WithMaxValueBytes(0)}, []string{"WithMaxValueBytes(0)"}},
		"negative values": {[]geocache.Option{geocache.WithMaxValueBytes(math.MinInt)},
			[]string{"WithMaxValueBytes(-"}},
		"a nil discovery": {
			[]geocache.Option{geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery((*neverAsked)(nil))},
			[]string{"WithDiscovery: it is a nil *geocache_test.neverAsked"},
		},
		"a nil listener": {[]geocache.Option{geocache.WithListener((*net.TCPListener)(nil))},
			[]string{"WithListener: it is a nil *net.TCPListener"}},
		"the last is checked": {[]geocache.Option{geocache.WithWeight(1), geocache.WithWeight(-1)},
			[]string{"WithWeight(-1)"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := geocache.Open(t.Context(), test.opts...)
			requireMistakes(t, err, test.mistakes...)
		})
	}
	cache, err := geocache.Open(t.Context(), geocache.WithWeight(math.NaN()), geocache.WithWeight(0.01),
		geocache.WithLease(10*time.Millisecond), geocache.WithMaxDrift(time.Hour),
		geocache.WithGrace(most), geocache.WithJoinWait(most), geocache.WithMaxValueBytes(1<<30),
		geocache.WithSeed(math.MaxUint64),
		geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(regions.Static()),
		// These count as not given:
		geocache.WithNodeID(""), geocache.WithRegion(""), geocache.WithAdvertise(""), geocache.WithListener(nil),
		geocache.WithDialer(nil), geocache.WithTLS(nil),
		geocache.WithClock(nil), geocache.WithLogger(nil))
	require.NoError(t, err)
	defer cache.Close()

	// The largest values that a group accepts work.
	const years = 10 * 365 * 24 * time.Hour
	g, err := geocache.NewGroup(cache, "g", ada, geocache.WithTTL(years), geocache.WithNegativeTTL(years),
		geocache.WithStaleIfError(years),
		geocache.WithStaleWhileRevalidate(years), geocache.WithRefreshAhead(years-1),
		geocache.WithLoadTimeout(years), geocache.WithMaxBytes(math.MaxInt64),
		geocache.WithMaxEntries(math.MaxInt), geocache.WithMaxLoads(math.MaxInt), geocache.WithCopyShare(1),
		geocache.WithOriginLag(years), geocache.WithHomeRegion("local"),
		geocache.WithSetter(func(context.Context, string, string) error { return nil }),
		geocache.WithRemover(func(context.Context, string) error { return nil }),
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

func TestSetterOptionMistakes(t *testing.T) {
	cache, err := geocache.Open(t.Context())
	require.NoError(t, err)
	defer cache.Close()
	_, err = geocache.NewGroup(cache, "test", ada,
		geocache.WithSetter(func(context.Context, string, int) error { return nil }),
		geocache.WithWriteBehind(1000),
		geocache.WithOriginLag(time.Second))
	requireMistakes(t, err,
		"WithSetter: func(context.Context, string, int) error does not take a string",
		"WithWriteBehind needs WithSetter and WithRemover",
		"WithOriginLag needs WithHomeRegion or WithOriginRegion")
	_, err = geocache.NewGroup(cache, "test", ada,
		geocache.WithSetter[string](nil),
		geocache.WithWriteBehind(-1),
		geocache.WithOriginLag(-1))
	requireMistakes(t, err,
		"WithWriteBehind(-1): must not be negative",
		"WithOriginLag(-1ns): must be from 0 to 10 years")
	_, err = geocache.NewGroup(cache, "test", ada,
		geocache.WithSetter[string](nil),
		geocache.WithRemover(func(context.Context, string) error { return nil }),
		geocache.WithWriteBehind(1))
	requireMistakes(t, err, "WithWriteBehind needs WithSetter and WithRemover")
}
