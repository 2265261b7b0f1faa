package consul_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/geocache/geocache/internal/testcluster/consul"
	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestCluster(t *testing.T) {
	defer goleak.VerifyNone(t)
	if _, err := consul.Binary(); errors.Is(err, consul.ErrNoBinary) {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := consul.Start(ctx, "", "one", "two")
	require.NoError(t, err)
	defer c.Stop()

	datacenters := func(a *consul.Agent) []string {
		client, err := api.NewClient(&api.Config{Address: a.Address(),
			Transport: api.DefaultNonPooledConfig().Transport})
		require.NoError(t, err)
		list, _ := client.Catalog().Datacenters()
		return list
	}
	one, two := c.Agent("one"), c.Agent("two")
	require.ElementsMatch(t, []string{"one", "two"}, datacenters(one))
	require.ElementsMatch(t, []string{"one", "two"}, datacenters(two))
	require.Nil(t, c.Agent("three"))

	two.Kill()
	two.Kill()
	require.Empty(t, datacenters(two))
	require.NoError(t, two.Restart(ctx))
	require.ElementsMatch(t, []string{"one", "two"}, datacenters(two))
	require.Error(t, two.Restart(ctx))

	three, err := c.Add(ctx, "three")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"one", "two", "three"}, datacenters(three))
	_, err = c.Add(ctx, "three")
	require.Error(t, err)
	require.NoError(t, three.Leave(ctx))
	require.Eventually(t, func() bool { return len(datacenters(one)) == 2 }, 20*time.Second, 50*time.Millisecond)
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	defer goleak.VerifyNone(t)
	if _, err := consul.Binary(); errors.Is(err, consul.ErrNoBinary) {
		t.Skip(err)
	}
	_, err := consul.Start(t.Context(), `no_such_setting = 1`, "one")
	require.ErrorContains(t, err, "no_such_setting")
}

func TestBinary(t *testing.T) {
	t.Setenv("GEOCACHE_CONSUL", "/opt/consul")
	path, err := consul.Binary()
	require.NoError(t, err)
	require.Equal(t, "/opt/consul", path)

	t.Setenv("GEOCACHE_CONSUL", "")
	dir := t.TempDir()
	below := filepath.Join(dir, "a", "b")
	require.NoError(t, os.MkdirAll(below, 0o755))
	t.Chdir(below)
	_, err = consul.Binary()
	require.ErrorIs(t, err, consul.ErrNoBinary)

	require.NoError(t, os.Mkdir(filepath.Join(dir, ".bin"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".bin", "consul"), nil, 0o755))
	path, err = consul.Binary()
	require.NoError(t, err)
	require.Equal(t, ".bin/consul", path[len(path)-len(".bin/consul"):])
}
