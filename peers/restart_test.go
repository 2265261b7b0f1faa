package peers

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// A process that is in the place of another one, under its ID and at its address, is told from it, be
// the connection only broken in between.
func TestRestart(t *testing.T) {
	restarted := make(chan *Peer, 10)
	first := newNode(t, "server", func(c *Config) { c.Epoch = 7 }).listen(t)
	client := newNode(t, "client", func(c *Config) { c.OnRestart = func(p *Peer) { restarted <- p } })
	peer := client.connect(t, first)
	require.EqualValues(t, 7, peer.Epoch())

	first.stop()
	l, err := net.Listen("tcp", first.address)
	require.NoError(t, err)
	second := newNode(t, "server", func(c *Config) { c.Epoch = 8 })
	second.Serve(l)
	require.Same(t, peer, <-restarted)
	require.EqualValues(t, 8, peer.Epoch())

	eventually(t, func() bool {
		breakConnections(second)
		return peer.stats().Connects > 2
	})
	require.Empty(t, restarted, "it is the same process")
}

// breakConnections closes the connections that a node has accepted.
func breakConnections(n *node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for s := range n.accepted {
		s.close(errClosed)
	}
}
