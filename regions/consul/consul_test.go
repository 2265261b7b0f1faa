package consul

import (
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/geocache/geocache/regions"
	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"
)

func TestValidate(t *testing.T) {
	require.NoError(t, New("profile-api").Validate())
	require.NoError(t, New("a.b_c-9", WithConfig(&api.Config{Address: "10.0.0.1:8500"}),
		WithCheckTTL(time.Second), WithDeregisterAfter(time.Minute), WithLogger(slog.Default())).Validate())

	d := New("a/b", WithCheckTTL(time.Millisecond), WithDeregisterAfter(time.Second), WithLogger(nil),
		WithConfig(nil), WithConfig(&api.Config{TokenFile: "/no/such/file"}))
	err := d.Validate()
	for _, word := range []string{
		`service name "a/b"`, "WithCheckTTL: 1ms", "WithDeregisterAfter: 1s",
		"WithLogger", "WithConfig", "/no/such/file",
	} {
		require.ErrorContains(t, err, word)
	}
	_, regionErr := d.Region(t.Context())
	require.EqualError(t, regionErr, err.Error())
	require.EqualError(t, d.Run(t.Context(), self, nil, nil), err.Error())

	for _, name := range []string{"", "-a", "a b", "a%41", "ä"} {
		require.ErrorContains(t, New(name).Validate(), "service name")
	}
	short := &http.Client{Timeout: time.Minute}
	require.ErrorContains(t, New("a", WithConfig(&api.Config{HttpClient: short})).Validate(), "Timeout")
	config := &api.Config{WaitTime: 30 * time.Second, HttpClient: short}
	require.NoError(t, New("a", WithConfig(config)).Validate())
}

func TestRunRejectsASelfThatCannotBeRegistered(t *testing.T) {
	f := newFake("eu")
	d := New("profile-api", WithConfig(f.config()))
	for _, n := range []regions.Node{
		{Address: "192.0.2.1:80"},
		{ID: "n"},
		{ID: "n", Address: "192.0.2.1"},
		{ID: "n", Address: "192.0.2.1:http"},
		{ID: "n", Address: "192.0.2.1:0"},
		{ID: "n", Address: "192.0.2.1:65536"},
		{ID: "n", Address: ":7946"},
		{ID: "n", Address: "0.0.0.0:7946"},
		{ID: "n", Address: "[::]:7946"},
		{ID: "n\xff", Address: "192.0.2.1:80"},
		{ID: strings.Repeat("n", 256), Address: "192.0.2.1:80"},
		{ID: "n", Region: "eu\xff", Address: "192.0.2.1:80"},
	} {
		require.ErrorContains(t, d.Run(t.Context(), n, nil, nil), "cannot register", n)
	}
	require.Empty(t, f.requests)
}

func TestRegion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu-west")
		d := New("profile-api", WithConfig(f.config()))
		region, err := d.Region(t.Context())
		require.NoError(t, err)
		require.Equal(t, "eu-west", region)

		f.fault = func(*http.Request) *http.Response { return answer(403, "Permission denied") }
		_, err = d.Region(t.Context())
		require.ErrorContains(t, err, "Permission denied")

		f.fault = func(r *http.Request) *http.Response { <-r.Context().Done(); return refused }
		began := time.Now()
		_, err = d.Region(t.Context())
		require.Error(t, err)
		require.Equal(t, requestTimeout, time.Since(began))
	})
}

// Without this check, an agent without a datacenter would put the process into a region of its own.
func TestRegionOfAnAgentWithoutADatacenter(t *testing.T) {
	for body, why := range map[string]string{
		`{}`:                           "the name is empty",
		`null`:                         "the name is empty",
		`{"Config":null}`:              "the name is empty",
		`{"Config":{"Datacenter":""}}`: "the name is empty",
		`{"Config":{"Datacenter":"` + strings.Repeat("x", 256) + `"}}`: "the name is 256 bytes long",
		`[]`: "cannot unmarshal",
	} {
		f := newFake("eu")
		f.fault = func(*http.Request) *http.Response { return answer(http.StatusOK, body) }
		_, err := New("profile-api", WithConfig(f.config())).Region(t.Context())
		require.ErrorContains(t, err, why, body)
	}
}

// The config's CA file and token are used in requests to the agent.
func TestTLSAndToken(t *testing.T) {
	agent := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Consul-Token") != "secret" {
			http.Error(w, "Permission denied", http.StatusForbidden)
			return
		}
		w.Write([]byte(`{"Config":{"Datacenter":"eu"}}`))
	}))
	agent.Config.ErrorLog = log.New(io.Discard, "", 0)
	agent.StartTLS()
	defer agent.Close()
	authority := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: agent.Certificate().Raw})
	require.NoError(t, os.WriteFile(authority, block, 0o600))

	config := &api.Config{
		Address:   strings.TrimPrefix(agent.URL, "https://"),
		Scheme:    "https",
		Token:     "secret",
		TLSConfig: api.TLSConfig{CAFile: authority},
	}
	region, err := New("profile-api", WithConfig(config)).Region(t.Context())
	require.NoError(t, err)
	require.Equal(t, "eu", region)
	require.Nil(t, config.HttpClient, "the user's config is not modified")
	require.Nil(t, config.Transport)

	config.TLSConfig = api.TLSConfig{}
	_, err = New("profile-api", WithConfig(config)).Region(t.Context())
	require.ErrorContains(t, err, "certificate")
}

func TestRegionAndRunLeaveNoConnectionOpen(t *testing.T) {
	var open atomic.Int64
	agent := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/agent/self":
			w.Write([]byte(`{"Config":{"Datacenter":"eu"}}`))
		case "/v1/catalog/datacenters":
			w.Write([]byte(`["eu"]`))
		default:
			w.Write([]byte(`[]`))
		}
	}))
	agent.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	agent.Start()
	defer agent.Close()
	closed := func() bool { return open.Load() == 0 }

	config := &api.Config{Address: agent.URL}
	_, err := New("profile-api", WithConfig(config)).Region(t.Context())
	require.NoError(t, err)
	require.Eventually(t, closed, 10*time.Second, time.Millisecond)

	r := start(t, config, self)
	require.Eventually(t, func() bool { return len(r.all()) > 0 }, 10*time.Second, time.Millisecond)
	require.NoError(t, r.stop())
	require.Eventually(t, closed, 10*time.Second, time.Millisecond)
}
