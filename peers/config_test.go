package peers

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

// TestConfigErrors: all mistakes are named at once.
func TestConfigErrors(t *testing.T) {
	_, err := New(Config{
		Region: strings.Repeat("r", 256),
		Lease:  -1,
		Limits: Limits{MaxKey: 70_000, MaxValue: -1, maxKeys: 1 << 20, maxInFlight: -1, maxQueued: -1, handshakeTimeout: -1, frameTimeout: -1},
	})
	require.Error(t, err)
	for _, field := range []string{
		"Cluster", "ID", "Region", "Clock", "Handler", "Lease",
		"MaxKey", "MaxValue", "maxKeys", "maxInFlight", "maxQueued", "handshakeTimeout", "frameTimeout",
	} {
		require.ErrorContains(t, err, field)
	}
}

func TestConfigDefaults(t *testing.T) {
	given := Config{
		Cluster: "c", ID: "i", Region: "r", Clock: expiry.NewClock(nil, 0), Handler: &handler{},
	}
	c, err := given.withDefaults()
	require.NoError(t, err)
	require.Equal(t, time.Second, c.Lease)
	require.Equal(t, Limits{
		MaxKey: 4096, MaxValue: 64 << 20, maxKeys: 1024, maxInFlight: 4096, maxQueued: 4 << 20,
		handshakeTimeout: 5 * time.Second, frameTimeout: 10 * time.Second,
	}, c.Limits)
}

// TestFirstCause: a connection ended because of what the first to notice said,
// unless it was refused: that the refusal could not be sent is no news.
func TestFirstCause(t *testing.T) {
	end := func(errs ...error) (why error) {
		local, remote := net.Pipe()
		defer remote.Close()
		c := newConn(local, &Limits{}, new(traffic), time.Second)
		for _, err := range errs {
			why = c.close(err)
		}
		return why
	}
	refusal := refuse(ReasonLimit, "too much")
	require.Equal(t, errSilent, end(errSilent, net.ErrClosed))
	require.Equal(t, refusal, end(io.ErrClosedPipe, refusal))
}

// TestErrorTexts: an error says who, where, what and why.
func TestErrorTexts(t *testing.T) {
	n := newNode(t, "asker", nil)
	n.SetPeers([]Endpoint{{ID: "gone", Region: "eu", Address: "127.0.0.1:1"}})
	require.NoError(t, n.Tried(t.Context()))
	_, err := n.Peer("gone").Fetch(t.Context(), Request{Group: "g", Key: "k"})
	require.ErrorIs(t, err, CodeUnavailable)
	require.ErrorContains(t, err, "node gone in region eu taken to be unavailable: dial tcp 127.0.0.1:1")
}
