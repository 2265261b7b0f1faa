package peers

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/testcluster/logs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// handler is a Handler made of functions. The defaults hit nothing and load
// "<key> from <id>", but hold the key "hold" until it is cancelled. Likewise
// they take no call and answer with the payload.
type handler struct {
	id     string
	lookup func(req *Request) (Answer, bool)
	load   func(ctx context.Context, req *Request) Answer
	take   func(call *Call) (Answer, bool)
	call   func(ctx context.Context, call *Call) Answer
}

func (h *handler) Lookup(req *Request) (Answer, bool) {
	if h.lookup == nil {
		return Answer{}, false
	}
	return h.lookup(req)
}

func (h *handler) Load(ctx context.Context, req *Request) Answer {
	if h.load == nil {
		if req.Key == "hold" {
			<-ctx.Done()
		}
		return Answer{Value: []byte(req.Key + " from " + h.id)}
	}
	return h.load(ctx, req)
}

func (h *handler) Take(call *Call) (Answer, bool) {
	if h.take == nil {
		return Answer{}, false
	}
	return h.take(call)
}

func (h *handler) Call(ctx context.Context, call *Call) Answer {
	if h.call == nil {
		if string(call.Payload) == "hold" {
			<-ctx.Done()
		}
		return Answer{Value: call.Payload}
	}
	return h.call(ctx, call)
}

// A node is a Transport in a test, with what it logged.
type node struct {
	*Transport
	handler *handler
	log     *logs.Buffer
	address string
}

// newNode makes a node that is closed when the test ends. change may change its
// configuration.
func newNode(t testing.TB, id string, change func(*Config)) *node {
	t.Helper()
	n := &node{handler: &handler{id: id}, log: new(logs.Buffer)}
	config := Config{
		Cluster: "test",
		ID:      id,
		Region:  "here",
		Clock:   expiry.NewClock(nil, 0),
		Handler: n.handler,
		Logger:  slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&config)
	}
	transport, err := New(config)
	require.NoError(t, err)
	n.Transport = transport
	t.Cleanup(func() { n.stop() })
	return n
}

// stop closes n without waiting for anybody.
func (n *node) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = n.Close(ctx)
}

// listen makes n accept connections over loopback.
func (n *node) listen(t testing.TB) *node {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n.Serve(l)
	n.address = l.Addr().String()
	return n
}

// endpoint returns what others list n as.
func (n *node) endpoint() Endpoint {
	return Endpoint{ID: n.config.ID, Region: n.config.Region, Address: n.address}
}

// connect makes to the only peer of n, and waits for the first attempt.
func (n *node) connect(t testing.TB, to *node) *Peer {
	t.Helper()
	n.SetPeers([]Endpoint{to.endpoint()})
	require.NoError(t, n.Tried(t.Context()))
	return n.Peer(to.config.ID)
}

// pair returns a client and a server that are connected over loopback.
func pair(t testing.TB, change func(*Config)) (client, server *node, peer *Peer) {
	t.Helper()
	server = newNode(t, "server", change).listen(t)
	client = newNode(t, "client", change)
	peer = client.connect(t, server)
	require.True(t, peer.Up(), "%v", peer.downErr())
	return client, server, peer
}

// withTLS has a node use config, or no TLS if it is nil.
func withTLS(config *tls.Config) func(*Config) {
	return func(c *Config) {
		if config != nil {
			c.TLS = func() *tls.Config { return config }
		}
	}
}

// eventually polls in real time, for tests over real connections.
func eventually(t testing.TB, condition func() bool, message ...any) {
	t.Helper()
	require.Eventually(t, condition, 10*time.Second, time.Millisecond, message...)
}

func logged(n *node, text string) bool { return strings.Contains(n.log.String(), text) }
