package consul

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/geocache/geocache/internal/testcluster/consul"
	"github.com/geocache/geocache/regions"
	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// agents are the real agents of three datacenters. Tests share them because they take seconds to start; a
// test that changes them restores them.
var agents struct {
	once    sync.Once
	cluster *consul.Cluster
	err     error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if agents.cluster != nil {
		agents.cluster.Stop()
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// cluster returns the agents of the datacenters eu, us and ap.
func cluster(t *testing.T) *consul.Cluster {
	t.Helper()
	agents.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		agents.cluster, agents.err = consul.Start(ctx, "", "eu", "us", "ap")
	})
	if errors.Is(agents.err, consul.ErrNoBinary) {
		t.Skip(agents.err)
	}
	require.NoError(t, agents.err)
	return agents.cluster
}

// config returns a config with a shorter wait than the default, because an agent that forwards a query to a
// failed datacenter retries until the wait is over.
func config(a *consul.Agent) *api.Config {
	return &api.Config{Address: a.Address(), WaitTime: 5 * time.Second}
}

// join starts a node that uses the agent of its datacenter.
func join(t *testing.T, c *consul.Cluster, datacenter string, n regions.Node) *running {
	n.Address = "127.0.0.1:7946"
	return start(t, config(c.Agent(datacenter)), n, WithCheckTTL(2*time.Second))
}

// await waits until each run finds exactly the wanted nodes.
func await(t *testing.T, want []string, runs ...*running) {
	t.Helper()
	for i, r := range runs {
		var got []string
		require.Eventually(t, func() bool {
			got = ids(r.last())
			slices.Sort(got)
			return slices.Equal(got, want)
		}, 30*time.Second, 20*time.Millisecond, "run %d should find %v, log:\n%s", i, want, r.log)
	}
}

// registered returns the IDs of all instances in Consul's catalog, healthy or not.
func registered(t *testing.T, c *consul.Cluster) []string {
	t.Helper()
	list := []string{}
	for _, dc := range []string{"eu", "us", "ap"} {
		conf := config(c.Agent(dc))
		conf.Transport = api.DefaultNonPooledConfig().Transport
		client, err := api.NewClient(conf)
		require.NoError(t, err)
		services, _, err := client.Catalog().Service("profile-api", "", nil)
		require.NoError(t, err)
		for _, s := range services {
			list = append(list, s.ServiceID)
		}
	}
	return list
}

// awaitNothing waits until Consul lists no instance.
func awaitNothing(t *testing.T, c *consul.Cluster) {
	t.Helper()
	require.Eventually(t, func() bool { return len(registered(t, c)) == 0 },
		20*time.Second, 50*time.Millisecond)
}

func TestRealConsulWithThreeDatacenters(t *testing.T) {
	c := cluster(t)
	region, err := New("profile-api", WithConfig(config(c.Agent("us")))).Region(t.Context())
	require.NoError(t, err)
	require.Equal(t, "us", region)

	eu := join(t, c, "eu", regions.Node{ID: "n1", Region: "eu", Weight: 2})
	us := join(t, c, "us", regions.Node{ID: "n2", Region: "us"})
	// Two nodes of different regions share an agent.
	ap := join(t, c, "ap", regions.Node{ID: "10.0.0.7:1/ü %41", Region: "tokyo"})
	ap2 := join(t, c, "ap", regions.Node{ID: "n4", Region: "seoul"})
	all := []*running{eu, us, ap, ap2}
	await(t, []string{"10.0.0.7:1/ü %41", "n1", "n2", "n4"}, all...)
	require.ElementsMatch(t, []regions.Node{
		{ID: "n1", Region: "eu", Address: "127.0.0.1:7946", Weight: 2},
		{ID: "n2", Region: "us", Address: "127.0.0.1:7946"},
		{ID: "10.0.0.7:1/ü %41", Region: "tokyo", Address: "127.0.0.1:7946"},
		{ID: "n4", Region: "seoul", Address: "127.0.0.1:7946"},
	}, eu.last().Nodes)
	require.Eventually(t, func() bool { return len(us.last().Distances) == 4 },
		20*time.Second, 20*time.Millisecond)
	for _, region := range []string{"eu", "us", "tokyo", "seoul"} {
		require.Contains(t, us.last().Distances, region)
	}

	// A node becomes unhealthy and recovers.
	us.setHealth(errSick)
	await(t, []string{"10.0.0.7:1/ü %41", "n1", "n4"}, all...)
	require.Len(t, registered(t, c), 4, "unhealthy, but still registered")
	us.setHealth(nil)
	await(t, []string{"10.0.0.7:1/ü %41", "n1", "n2", "n4"}, all...)

	// All nodes leave, and no registration remains.
	require.NoError(t, ap.stop())
	await(t, []string{"n1", "n2", "n4"}, eu, us, ap2)
	for _, r := range all {
		require.NoError(t, r.stop())
		require.Zero(t, r.log.Count("WARN"), r.log)
	}
	awaitNothing(t, c)
}

// A process that falls silent is listed for no longer than the check's TTL.
func TestRealConsulDropsASilentProcess(t *testing.T) {
	c := cluster(t)
	eu := join(t, c, "eu", regions.Node{ID: "n1", Region: "eu"})
	hang := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	d := New("profile-api", WithConfig(config(c.Agent("us"))), WithCheckTTL(2*time.Second),
		WithLogger(slog.New(slog.DiscardHandler)))
	ended := make(chan error, 1)
	var beats int
	go func() {
		ended <- d.Run(ctx, regions.Node{ID: "n2", Region: "us", Address: "127.0.0.1:1"}, func() error {
			if beats++; beats > 3 {
				<-hang
			}
			return nil
		}, func(regions.View) {})
	}()
	await(t, []string{"n1", "n2"}, eu)
	await(t, []string{"n1"}, eu)
	close(hang)
	await(t, []string{"n1", "n2"}, eu)
	cancel()
	require.NoError(t, <-ended)
	require.NoError(t, eu.stop())
	awaitNothing(t, c)
}

// While the only agent of a datacenter is down, no node is lost anywhere. It comes back without its data,
// and the nodes register again.
func TestRealConsulAgentKilled(t *testing.T) {
	c := cluster(t)
	eu := join(t, c, "eu", regions.Node{ID: "n1", Region: "eu"})
	us := join(t, c, "us", regions.Node{ID: "n2", Region: "us"})
	us2 := join(t, c, "us", regions.Node{ID: "n3", Region: "us"})
	ap := join(t, c, "ap", regions.Node{ID: "n4", Region: "ap"})
	all := []*running{eu, us, us2, ap}
	full := []string{"n1", "n2", "n3", "n4"}
	await(t, full, all...)

	c.Agent("us").Kill()
	require.Eventually(t, func() bool {
		return us.log.Count("WARN", "announcing") == 1 &&
			us.log.Count("WARN", "watching a datacenter", "datacenter=ap") == 1
	}, 20*time.Second, 20*time.Millisecond, "%s", us.log)
	// The other datacenters still see each other's changes. Nodes that use the dead agent keep the last
	// view.
	ap2 := join(t, c, "ap", regions.Node{ID: "n5", Region: "ap"})
	await(t, []string{"n1", "n2", "n3", "n4", "n5"}, eu, ap)
	require.NoError(t, ap2.stop())
	await(t, full, eu, ap, us, us2)
	for _, r := range all {
		views := r.all()
		first := slices.IndexFunc(views, func(v regions.View) bool { return len(v.Nodes) == 4 })
		for _, v := range views[first:] {
			require.GreaterOrEqual(t, len(v.Nodes), 4)
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, c.Agent("us").Restart(ctx))
	require.Eventually(t, func() bool { return us.log.Count("WARN", "lost") == 1 },
		20*time.Second, 20*time.Millisecond, "%s", us.log)
	us3 := join(t, c, "us", regions.Node{ID: "n6", Region: "us"})
	await(t, []string{"n1", "n2", "n3", "n4", "n6"}, all...)
	require.NoError(t, us3.stop())
	await(t, full, all...)
	require.Eventually(t, func() bool { return len(registered(t, c)) == 4 },
		20*time.Second, 50*time.Millisecond)
	for _, r := range all {
		require.NoError(t, r.stop())
	}
	awaitNothing(t, c)
}

// A datacenter joins Consul after the start, and leaves again.
func TestRealConsulDatacenterJoinsAndLeaves(t *testing.T) {
	c := cluster(t)
	eu := join(t, c, "eu", regions.Node{ID: "n1", Region: "eu"})
	await(t, []string{"n1"}, eu)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	sa, err := c.Add(ctx, "sa")
	require.NoError(t, err)
	n := join(t, c, "sa", regions.Node{ID: "n2", Region: "sa"})
	await(t, []string{"n1", "n2"}, eu, n)
	require.NoError(t, n.stop())
	require.NoError(t, sa.Leave(ctx))
	require.Eventually(t, func() bool { return eu.log.Count("has left", "datacenter=sa") == 1 },
		30*time.Second, 20*time.Millisecond, "%s", eu.log)
	await(t, []string{"n1"}, eu)
}

func TestRealConsulACL(t *testing.T) {
	const token = "0d3ee5b2-5c4d-4f0c-9f0a-0a3b8ce57a11"
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := consul.Start(ctx, fmt.Sprintf(`acl {
		enabled = true
		default_policy = "deny"
		tokens { initial_management = %q, agent = %[1]q }
	}`, token), "eu")
	if errors.Is(err, consul.ErrNoBinary) {
		t.Skip(err)
	}
	require.NoError(t, err)
	defer c.Stop()

	n := regions.Node{ID: "n1", Region: "eu", Address: "127.0.0.1:7946"}
	with := config(c.Agent("eu"))
	with.Token = token
	allowed := start(t, with, n)
	await(t, []string{"n1"}, allowed)
	require.Zero(t, allowed.log.Count("WARN", "denied"), allowed.log)

	n.ID = "n2"
	denied := start(t, config(c.Agent("eu")), n, WithCheckTTL(time.Second))
	require.Eventually(t, func() bool {
		return denied.log.Count("WARN", "announcing", "403", "Permission denied", "service:write") == 1
	},
		10*time.Second, 20*time.Millisecond, denied.log)
	time.Sleep(2 * time.Second) // it keeps retrying
	require.Equal(t, 1, denied.log.Count("WARN", "announcing"), "once: %s", denied.log)
	require.Empty(t, denied.last().Nodes)
	_, err = New("profile-api", WithConfig(config(c.Agent("eu")))).Region(ctx)
	require.ErrorContains(t, err, "Permission denied")

	// A valid token without any permission.
	client, err := api.NewClient(with)
	require.NoError(t, err)
	defer with.HttpClient.CloseIdleConnections()
	poor, _, err := client.ACL().TokenCreate(&api.ACLToken{}, nil)
	require.NoError(t, err)
	blind := config(c.Agent("eu"))
	blind.Token = poor.SecretID
	n.ID = "n3"
	filtered := start(t, blind, n)
	require.Eventually(t, func() bool {
		return filtered.log.Count("WARN", "ACL token may not read", "datacenter=eu") == 1
	},
		10*time.Second, 20*time.Millisecond, filtered.log)
	require.Empty(t, filtered.all(), "a filtered answer is not reported")

	for _, r := range []*running{allowed, denied, filtered} {
		require.NoError(t, r.stop())
	}
}
