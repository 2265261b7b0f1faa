package peers

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	ca "github.com/geocache/geocache/internal/testcluster/authority"
)

// A passive node is not dialled, and may connect as others may that are listed.
func TestPassive(t *testing.T) {
	t.Parallel()
	a := ca.New(t)
	config := func() func(*Config) { return withTLS(a.Config(a.Issue(ca.IP("127.0.0.1")))) }
	old, young := newNode(t, "old", config()).listen(t), newNode(t, "young", config()).listen(t)
	passive := young.endpoint()
	passive.Passive = true
	old.SetPeers([]Endpoint{passive})
	require.Nil(t, old.Peer("young"))
	require.Empty(t, old.Stats().Peers)
	require.True(t, young.connect(t, old).Up())
	require.Empty(t, young.Stats().Connections)

	old.SetPeers([]Endpoint{young.endpoint()})
	require.NoError(t, old.Tried(t.Context()))
	require.True(t, old.Peer("young").Up())
	old.SetPeers([]Endpoint{passive})
	require.Nil(t, old.Peer("young"))
	eventually(t, func() bool { return young.Stats().Connections == 0 })
	require.True(t, young.Peer("old").Up())

	liar := passive
	liar.Region = "elsewhere"
	old.SetPeers([]Endpoint{liar})
	young.SetPeers(nil)
	require.Equal(t, ReasonIdentity, refusalOf(young.connect(t, old).downErr()).Reason)
}

// A peer that says nothing has been tried after a lease, though the attempt goes on.
func TestTriedIsOverAfterALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, "node", func(c *Config) {
			c.Dial = func(ctx context.Context, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		})
		n.SetPeers([]Endpoint{{ID: "silent", Region: "elsewhere", Address: "silent:1"}})
		require.False(t, n.Peer("silent").Tried())
		time.Sleep(n.config.Lease)
		require.False(t, n.Peer("silent").Tried())
		time.Sleep(time.Nanosecond)
		require.True(t, n.Peer("silent").Tried())
		n.stop()
	})
}
