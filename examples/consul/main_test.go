package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster/authority"
	agents "github.com/geocache/geocache/internal/testcluster/consul"
	"github.com/geocache/geocache/regions"
	"github.com/geocache/geocache/regions/consul"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start starts the real Consul, with one agent for each datacenter.
func start(t *testing.T, datacenters ...string) *agents.Cluster {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := agents.Start(ctx, "", datacenters...)
	if errors.Is(err, agents.ErrNoBinary) {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(c.Stop)
	return c
}

// at is the discovery of main, at an agent of the test.
func at(a *agents.Agent) regions.Discovery {
	return consul.New(name, consul.WithConfig(&api.Config{Address: a.Address(), WaitTime: 5 * time.Second}))
}

// An instance is one process of the service, as far as it can be in one process.
type instance struct {
	url, peer string // its addresses
	stop      context.CancelFunc
	ended     chan error
}

// launch runs an instance, which ends with the test if not before.
func launch(t *testing.T, a *agents.Agent, certs string) *instance {
	ctx, stop := context.WithCancel(t.Context())
	address := free(t)
	i := &instance{url: "http://" + address, peer: free(t), stop: stop, ended: make(chan error, 1)}
	go func() { i.ended <- run(ctx, address, i.peer, certs, false, at(a)) }()
	t.Cleanup(func() { i.end(t) })
	return i
}

// end ends the instance as a signal would.
func (i *instance) end(t *testing.T) {
	i.stop()
	if i.ended != nil {
		require.NoError(t, <-i.ended)
		i.ended = nil
	}
}

// do makes a request. The status is 0 if the instance does not answer yet.
func (i *instance) do(t *testing.T, method, path, body string) (status int, header http.Header, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, i.url+path, strings.NewReader(body))
	require.NoError(t, err)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, resp.Header, strings.TrimSpace(string(b))
}

func (i *instance) get(t *testing.T, key string) string {
	t.Helper()
	status, _, text := i.do(t, http.MethodGet, "/keys/"+key, "")
	require.Equal(t, http.StatusOK, status, text)
	return text
}

// has returns whether the instance answers with that value.
func (i *instance) has(t *testing.T, key, value string) func() bool {
	return func() bool {
		_, _, text := i.do(t, http.MethodGet, "/keys/"+key, "")
		return text == value
	}
}

func (i *instance) put(t *testing.T, key, value string) {
	t.Helper()
	status, _, text := i.do(t, http.MethodPut, "/keys/"+key, value)
	require.Equal(t, http.StatusNoContent, status, text)
}

// owners returns the owners of some keys as the instance sees them, each once.
func (i *instance) owners(t *testing.T) []string {
	var owners []string
	for key := range strings.SplitSeq("a b c d e f g h i j k l m n o p q r s t", " ") {
		_, header, _ := i.do(t, http.MethodGet, "/keys/"+key, "")
		owners = append(owners, header.Values("X-Owner")...)
	}
	slices.Sort(owners)
	return slices.Compact(owners)
}

// requireSeen waits until the instance sees just these, given as "address in region".
func (i *instance) requireSeen(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	require.Eventually(t, func() bool { return slices.Equal(want, i.owners(t)) }, 30*time.Second, 50*time.Millisecond)
}

// passing returns the instances whose checks pass, as the agent says.
func passing(t *testing.T, a *agents.Agent) []string {
	transport := &http.Transport{DisableKeepAlives: true}
	client, err := api.NewClient(&api.Config{Address: a.Address(), Transport: transport})
	require.NoError(t, err)
	entries, _, err := client.Health().Service(name, "geocache", true, nil)
	require.NoError(t, err)
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Service.ID)
	}
	return ids
}

func TestTwoDatacenters(t *testing.T) {
	c := start(t, "eu", "us")
	eu, us := c.Agent("eu"), c.Agent("us")
	a, b, far := launch(t, eu, ""), launch(t, eu, ""), launch(t, us, "")
	all := []string{a.peer + " in eu", b.peer + " in eu", far.peer + " in us"}
	for _, i := range []*instance{a, b, far} {
		i.requireSeen(t, slices.Clone(all)...)
	}
	require.Len(t, passing(t, eu), 2)
	require.Len(t, passing(t, us), 1)

	_, _, report := a.do(t, http.MethodGet, "/", "")
	require.Contains(t, report, "node "+a.peer+" in region eu")
	require.Contains(t, report, far.peer)

	require.Equal(t, a.get(t, "ada"), b.get(t, "ada"), "loaded once in the region")
	a.put(t, "ada", "Lovelace")
	require.Equal(t, "Lovelace", b.get(t, "ada"))
	require.Eventually(t, far.has(t, "ada", "Lovelace"), 10*time.Second, 10*time.Millisecond)

	b.end(t)
	require.Len(t, passing(t, eu), 1, "Close has withdrawn it")
	for _, i := range []*instance{a, far} {
		i.requireSeen(t, a.peer+" in eu", far.peer+" in us")
	}
	require.Equal(t, "Lovelace", a.get(t, "ada"), "it has been handed over, if it was not there")

	eu.Kill()
	a.put(t, "ada", "King")
	require.Eventually(t, far.has(t, "ada", "King"), 10*time.Second, 10*time.Millisecond,
		"without Consul they stay together")
}

func TestTLS(t *testing.T) {
	c := start(t, "eu")
	ours := authority.New(t)
	certs := newCertificates(t, ours, name)
	a, b := launch(t, c.Agent("eu"), certs), launch(t, c.Agent("eu"), certs)
	stranger := launch(t, c.Agent("eu"), newCertificates(t, authority.New(t), name)) // of another authority
	other := launch(t, c.Agent("eu"), newCertificates(t, ours, "some-other-service"))
	for _, i := range []*instance{stranger, other} {
		i.requireSeen(t, i.peer+" in eu")
	}
	for _, i := range []*instance{a, b} {
		i.requireSeen(t, a.peer+" in eu", b.peer+" in eu")
	}
	a.put(t, "ada", "Lovelace")
	require.Equal(t, "Lovelace", b.get(t, "ada"))
	require.Len(t, passing(t, c.Agent("eu")), 4)
	for _, i := range []*instance{stranger, other} {
		i.put(t, "ada", "poison")
		i.requireSeen(t, i.peer+" in eu")
	}
	require.Equal(t, "Lovelace", a.get(t, "ada"))
	require.Equal(t, "Lovelace", b.get(t, "ada"))
}

// TestMistakes: what is wrong is said before anything is asked or listened on.
func TestMistakes(t *testing.T) {
	discovery := consul.New(name)
	_, err := open(t.Context(), "10.0.3.7:7946", "", false, discovery)
	require.ErrorContains(t, err, "beyond loopback use WithTLS, or say WithPlaintext")
	_, err = open(t.Context(), ":7946", "", true, consul.New("a name"))
	require.ErrorContains(t, err, "wildcard")
	require.ErrorContains(t, err, `service name "a name"`)
	_, err = open(t.Context(), "10.0.3.7:7946", t.TempDir(), false, discovery)
	require.ErrorContains(t, err, "node.pem")
}

// TestWithoutConsul: an instance that cannot ask for its region does not start, and says
// what to do.
func TestWithoutConsul(t *testing.T) {
	discovery := consul.New(name, consul.WithConfig(&api.Config{Address: free(t)}))
	var cache *geocache.Cache
	cache, err := open(t.Context(), "127.0.0.1:0", "", false, discovery)
	require.ErrorContains(t, err, "WithRegion")
	require.Nil(t, cache)
}

// newCertificates makes a directory with what a node needs of an authority, for the name of a service.
func newCertificates(t *testing.T, a *authority.Authority, service string) (dir string) {
	dir = t.TempDir()
	certificate, key := authority.Files(t, a.Issue(authority.DNS(service)))
	for file, content := range map[string][]byte{"ca.pem": a.PEM(), "node.pem": certificate, "node-key.pem": key} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), content, 0o600))
	}
	return dir
}

// free returns an address that nobody listened on a moment ago.
func free(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}
