package geocache_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
	"github.com/geocache/geocache/internal/testcluster/authority"
	"github.com/geocache/geocache/peertls"
	"github.com/geocache/geocache/regions"
)

const service = "cache.profile-api"

// joinUnlisted opens a node that nobody lists, which joins nodes, reads and writes. None of that
// reaches them.
func joinUnlisted(t *testing.T, nodes []*tcpNode, opts ...geocache.Option) {
	t.Helper()
	known := keys(50)
	for _, key := range known {
		require.NoError(t, nodes[0].group.Set(t.Context(), key, "value of "+key))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	listed := []regions.Node{{ID: "intruder", Region: "eu", Address: l.Addr().String()}}
	for _, n := range nodes {
		listed = append(listed, n.Node())
	}
	intruder, err := geocache.Open(t.Context(), append([]geocache.Option{
		silent, geocache.WithRegion("eu"), geocache.WithNodeID("intruder"), geocache.WithListener(l),
		geocache.WithDiscovery(regions.Static(listed...)), geocache.WithJoinWait(200 * time.Millisecond),
	}, opts...)...)
	require.NoError(t, err)
	defer intruder.Close()
	g, err := geocache.NewGroup[string](intruder, "test", nil)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for _, key := range known {
		_, err := g.Get(ctx, key)
		require.Error(t, err, "it read %s", key)
		_ = g.Set(ctx, key, "poison", geocache.WithAck(geocache.AckWorld))
	}
	for _, n := range nodes {
		require.Eventually(t, func() bool {
			refused := n.Stats().Refused
			return refused["name"]+refused["tls"]+refused["unlisted"] > 0
		}, 10*time.Second, 5*time.Millisecond)
	}
	readThrough(t, known, nodes...)
	waitJoined(t, nodes...)
}

// A certificate of the authority alone lets nobody in.
func TestIntruders(t *testing.T) {
	a := authority.New(t)
	mine := a.Issue(authority.DNS(service), authority.IP("127.0.0.1"))
	named := func(c tls.Certificate) *tls.Config {
		config := a.Config(c)
		config.ServerName = service
		return config
	}
	rotating := named(mine)
	rotating.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{mine}}, nil
	}
	none := named(mine)
	none.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return new(tls.Certificate), nil
	}
	for name, c := range map[string]struct{ ours, theirs []geocache.Option }{
		"of another service": {
			[]geocache.Option{geocache.WithTLS(named(mine))},
			[]geocache.Option{geocache.WithTLS(named(a.Issue(authority.DNS("some-other-service"))))},
		},
		"without a certificate, and GetConfigForClient": {
			[]geocache.Option{geocache.WithTLS(rotating)},
			[]geocache.Option{geocache.WithTLS(none)},
		},
		"that nobody lists": {
			[]geocache.Option{geocache.WithTLS(a.Config(mine))},
			[]geocache.Option{geocache.WithTLS(a.Config(mine))},
		},
		"of another SPIFFE ID": {
			[]geocache.Option{geocache.WithTLS(a.Config(a.Issue(authority.URI("spiffe://corp/profile-api")))),
				geocache.WithPeerNames("spiffe://corp/profile-api")},
			[]geocache.Option{geocache.WithTLS(a.Config(a.Issue(authority.URI("spiffe://corp/other")))),
				geocache.WithPeerNames("spiffe://corp/*")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			nodes := openTCP(t, 2, func(int) []geocache.Option { return c.ours })
			waitJoined(t, nodes...)
			joinUnlisted(t, nodes, c.theirs...)
			for _, n := range nodes {
				require.NoError(t, n.Close())
			}
		})
	}
}

// byAddress is TLS without a name: nodes are identified by the addresses that the directory lists.
func byAddress(t *testing.T, nodes int) geocache.Option {
	a, now := authority.New(t), time.Now()
	var hosts []string
	for i := range nodes {
		hosts = append(hosts, fmt.Sprintf("eu-%d", i+1))
	}
	config := a.Config(a.Issue(authority.DNS(hosts...)))
	config.Time = func() time.Time { return now } // certificates do not follow the bubble's time
	return geocache.WithTLS(config)
}

// Nodes that are identified by their listed addresses admit each other as soon as both list each
// other, whichever comes last.
func TestNodeJoinsByItsAddress(t *testing.T) {
	for name, nodes := range map[string]int{"two alone": 1, "others vouch": 3} {
		t.Run(name, func(t *testing.T) {
			config := testcluster.Config{Nodes: nodes, Cache: []geocache.Option{byAddress(t, nodes+1)}}
			testcluster.Run(t, config, func(c *testcluster.Cluster) {
				young := fmt.Sprintf("eu-%d", nodes+1)
				c.Directory.Hide("eu-1", young) // eu-1 is told later
				c.Add("eu")
				time.Sleep(10 * time.Second)
				c.Directory.Show("eu-1", young)
				time.Sleep(100 * time.Millisecond) // a refused node waits for a second and more before it tries again
				for _, n := range c.Nodes() {
					require.Len(t, n.Cache.Stats().Peers, nodes)
					for _, p := range n.Cache.Stats().Peers {
						require.True(t, p.Up, "%s to %s", n.Name, p.ID)
					}
				}
				_, err := c.Node(young).Set("key", "written")
				require.NoError(t, err)
				require.Equal(t, "written", text(t, c.Node("eu-1"), "key"))
			})
		})
	}
}

// The others cannot even ping this node, and it knows of them all the same.
func TestIsolatedNodeThatRefusesItsPeers(t *testing.T) {
	config := testcluster.Config{Cache: []geocache.Option{byAddress(t, 4)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		lonely := c.Add("eu", geocache.WithDiscovery(isolatedDiscovery{c.Directory, nil}), geocache.WithJoinWait(0))
		time.Sleep(2 * time.Minute)
		require.Positive(t, lonely.Cache.Stats().Refused["unlisted"])
		old := c.Node("eu-1")
		key := c.KeyOf(old.Name)
		old.MustGet(key)
		if _, err := lonely.Set(key, "written"); err == nil {
			require.Equal(t, "written", text(t, old, key))
		}
	})
}

// certFiles is the directory with a node's certificate, key and authorities.
type certFiles struct {
	t   *testing.T
	dir string
}

func (c certFiles) write(file string, content ...[]byte) {
	var all []byte
	for _, part := range content {
		all = append(all, part...)
	}
	require.NoError(c.t, os.WriteFile(filepath.Join(c.dir, file), all, 0o600))
}

func (c certFiles) issue(a *authority.Authority, id string) {
	certificate, key := authority.Files(c.t, a.Issue(authority.URI(id)))
	c.write("tls.crt", certificate)
	c.write("tls.key", key)
}

func (c certFiles) load() *peertls.Files {
	f, err := peertls.Load(peertls.Options{
		Certificate: filepath.Join(c.dir, "tls.crt"),
		Key:         filepath.Join(c.dir, "tls.key"),
		Authorities: filepath.Join(c.dir, "ca.crt"),
		Interval:    20 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(c.t, err)
	return f
}

// Certificates and the authority are rotated under load. Nothing fails, and then the old authority
// is refused.
func TestCertificateRotation(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	old, young := authority.New(t), authority.New(t)
	id := func(i int) string { return fmt.Sprintf("spiffe://example.org/profile-api/%d", i) }
	of, files := make([]certFiles, 3), make([]*peertls.Files, 3)
	for i := range of {
		of[i] = certFiles{t, t.TempDir()}
		of[i].issue(old, id(i))
		of[i].write("ca.crt", old.PEM())
		files[i] = of[i].load()
		defer files[i].Close()
	}
	nodes := openTCP(t, 3, func(i int) []geocache.Option {
		return []geocache.Option{geocache.WithTLSFunc(files[i].TLS),
			geocache.WithPeerNames("spiffe://example.org/profile-api/*")}
	})
	waitJoined(t, nodes...)

	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for i := range nodes {
		for worker := range 2 {
			load.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					key, value := fmt.Sprintf("%d/%d/%d", i, worker, n%20), fmt.Sprint(n)
					if err := nodes[i].group.Set(t.Context(), key, value); err != nil {
						t.Errorf("write: %v", err)
						return
					}
					for _, reader := range nodes {
						if v, err := reader.group.Get(t.Context(), key); err != nil || v != value {
							t.Errorf("read: %q, %v; want %q", v, err, value)
							return
						}
					}
				}
			})
		}
	}
	step := func(do func(i int)) {
		t.Helper()
		loaded, connects := make([]uint64, 3), make([]uint64, 3)
		for i, n := range nodes {
			loaded[i], connects[i] = files[i].Stats().Loaded, 0
			for _, p := range n.Stats().Peers {
				connects[i] += p.Connects
			}
		}
		for i := range nodes {
			do(i)
		}
		for i, n := range nodes {
			require.Eventually(t, func() bool {
				sum := uint64(0)
				for _, p := range n.Stats().Peers {
					sum += p.Connects
				}
				return files[i].Stats().Loaded > loaded[i] && sum >= connects[i]+2
			}, 20*time.Second, 5*time.Millisecond, "%v", files[i].Stats())
		}
	}
	step(func(i int) { of[i].write("ca.crt", old.PEM(), young.PEM()) })
	step(func(i int) { of[i].issue(young, id(i)) })
	step(func(i int) { of[i].write("ca.crt", young.PEM()) })
	cancel()
	load.Wait()
	for i, n := range nodes {
		for _, p := range n.Stats().Peers {
			require.True(t, p.Up)
		}
		require.WithinDuration(t, files[i].Stats().NotAfter, n.Stats().Certificate, 0)
	}

	joinUnlisted(t, nodes, geocache.WithTLS(old.Config(old.Issue(authority.URI(id(4))), old, young)),
		geocache.WithPeerNames("spiffe://example.org/*"))
	for _, n := range nodes {
		require.Positive(t, n.Stats().Refused["tls"])
		require.NoError(t, n.Close())
	}
}
