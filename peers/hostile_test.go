package peers

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

// A rogue is a client that does what it likes over a real connection.
type rogue struct {
	net.Conn
	t *testing.T
}

// hostile gives a test a server, and watches over an honest neighbour that
// fetches all the while.
func hostile(t *testing.T, change func(*Config)) (server *node, r *rogue) {
	t.Helper()
	server = newNode(t, "server", change).listen(t)
	neighbour := newNode(t, "neighbour", func(c *Config) {
		if change != nil {
			change(c)
		}
		c.Lease = time.Minute // it is not its heartbeat that is tested
	})
	peer := neighbour.connect(t, server)
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if _, err := peer.Fetch(background, Request{Group: "g", Key: "neighbour"}); err != nil {
				stopped <- err
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		require.NoError(t, <-stopped, "the neighbour noticed")
		require.EqualValues(t, 1, neighbour.Stats().Peers[0].Connects, "the neighbour had to connect again")
	})
	return server, dialRogue(t, server)
}

func dialRogue(t *testing.T, server *node) *rogue {
	t.Helper()
	c, err := net.Dial("tcp", server.address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return &rogue{Conn: c, t: t}
}

func (r *rogue) send(frames ...[]byte) {
	r.t.Helper()
	for _, frame := range frames {
		_, err := r.Write(frame)
		require.NoError(r.t, err)
	}
}

var honest = hello{lowest: 1, highest: 1, maxValue: 64 << 20, cluster: "test", id: "rogue", region: "here"}

func now() expiry.Generation { return expiry.At(time.Now()) }

// join makes an honest handshake.
func (r *rogue) join() {
	r.t.Helper()
	r.send(appendHello(nil, now(), honest))
	h, _ := r.read()
	require.Equal(r.t, kindWelcome, h.kind)
}

func (r *rogue) read() (header, []byte) {
	r.t.Helper()
	require.NoError(r.t, r.SetReadDeadline(time.Now().Add(10*time.Second)))
	head := make([]byte, headerSize)
	_, err := io.ReadFull(r, head)
	require.NoError(r.t, err)
	h, err := parseHeader(head)
	require.NoError(r.t, err)
	body := make([]byte, h.size)
	_, err = io.ReadFull(r, body)
	require.NoError(r.t, err)
	return h, body
}

// closedFor waits until the server has closed the connection, counted it under
// the reason, and logged it.
func (r *rogue) closedFor(server *node, reason Reason) {
	r.t.Helper()
	require.NoError(r.t, r.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err := io.Copy(io.Discard, r)
	if timeout, ok := err.(net.Error); ok {
		require.False(r.t, timeout.Timeout(), "the connection was not closed")
	}
	eventually(r.t, func() bool { return server.Stats().Refused[reason] == 1 }, "not counted as %v: %v", reason, server.Stats().Refused)
	require.Len(r.t, server.Stats().Refused, 1)
	eventually(r.t, func() bool {
		for line := range strings.Lines(server.log.String()) {
			if strings.Contains(line, "level=WARN") && strings.Contains(line, "reason="+reason.String()) {
				return true
			}
		}
		return false
	}, "not logged")
	eventually(r.t, func() bool { return server.Stats().Connections == 1 })
}

// someFetchFrame is a fetch for n keys like key.
func someFetchFrame(id uint64, n int, key string) []byte {
	keys := make([]Key, n)
	for i := range keys {
		keys[i].Key = key
	}
	return appendFetch(nil, id, now(), fetch{hop: HopOwner}, "g", keys)
}

// someCallFrame is a call with this payload.
func someCallFrame(id uint64, payload string) []byte {
	return append(appendCall(nil, id, now(), call{method: 1, payload: []byte(payload)}), payload...)
}

// frameOf is a frame with any kind, length and body.
func frameOf(k kind, length uint32, body string) []byte {
	b := append(beginFrame(nil, k, 1, now()), body...)
	binary.BigEndian.PutUint32(b, length)
	return b
}

// TestHostileHandshake: who says the wrong thing first is told so and let go.
func TestHostileHandshake(t *testing.T) {
	with := func(change func(*hello)) []byte {
		h := honest
		change(&h)
		return appendHello(nil, now(), h)
	}
	for name, c := range map[string]struct {
		send   []byte
		reason Reason
	}{
		"cluster":        {with(func(h *hello) { h.cluster = "other" }), ReasonCluster},
		"older version":  {with(func(h *hello) { h.lowest, h.highest = 0, 0 }), ReasonVersion},
		"newer version":  {with(func(h *hello) { h.lowest, h.highest = 2, 9 }), ReasonVersion},
		"seed":           {with(func(h *hello) { h.seed = 1 }), ReasonSeed},
		"the same id":    {with(func(h *hello) { h.id = "server" }), ReasonIdentity},
		"no id":          {with(func(h *hello) { h.id = "" }), ReasonIdentity},
		"clock":          {appendHello(nil, now().Add(10*time.Second), honest), ReasonClock},
		"request first":  {someFetchFrame(1, 1, "k"), ReasonProtocol},
		"welcome":        {appendWelcome(nil, now(), someWelcome), ReasonProtocol},
		"magic":          {frameOf(kindHello, headerRest+40, strings.Repeat("x", 40)), ReasonProtocol},
		"cut short":      {frameOf(kindHello, headerRest+20, string(appendHello(nil, 0, honest)[headerSize:][:20])), ReasonProtocol},
		"long":           {frameOf(kindHello, 1<<30, ""), ReasonLimit},
		"unknown kind":   {frameOf(200, headerRest, ""), ReasonProtocol},
		"TLS":            {[]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 40)), ReasonTLS},
		"HTTP":           {[]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), ReasonProtocol},
		"shorter header": {frameOf(kindHello, headerRest-1, ""), ReasonProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			server, r := hostile(t, nil)
			r.send(c.send)
			h, body := r.read()
			require.Equal(t, kindRefused, h.kind)
			refused, err := decodeRefused(body)
			require.NoError(t, err)
			require.Equal(t, c.reason, refused.Reason)
			r.closedFor(server, c.reason)
		})
	}
}

// TestHostileFrames: the same after an honest handshake.
func TestHostileFrames(t *testing.T) {
	for name, c := range map[string]struct {
		send   []byte
		reason Reason
	}{
		"oversized":       {frameOf(kindFetch, headerRest+maxRequest+1, ""), ReasonLimit},
		"huge":            {frameOf(kindFetch, 1<<32-1, ""), ReasonLimit},
		"ping with body":  {frameOf(kindPing, headerRest+9, "123456789"), ReasonLimit},
		"key too long":    {someFetchFrame(1, 1, strings.Repeat("k", 4097)), ReasonLimit},
		"too many keys":   {someFetchFrame(1, 1025, "k"), ReasonLimit},
		"no keys":         {someFetchFrame(1, 0, "k"), ReasonProtocol},
		"number overflow": {someFetchFrame(1<<64-1, 2, "k"), ReasonProtocol},
		"number twice":    {append(someFetchFrame(1, 1, "hold"), someFetchFrame(1, 1, "hold")...), ReasonProtocol},
		"second hello":    {appendHello(nil, now(), honest), ReasonProtocol},
		"answer":          {appendAnswer(nil, 1, now(), new(Answer), 0, 0), ReasonProtocol},
		"unknown kind":    {frameOf(11, headerRest, ""), ReasonProtocol},
		"ping cut short":  {frameOf(kindPing, headerRest+7, "1234567"), ReasonProtocol},
		"huge call":       {frameOf(kindCall, headerRest+callSize+65<<20+1, ""), ReasonLimit},
		"short call":      {frameOf(kindCall, headerRest+callSize-1, strings.Repeat("x", callSize-1)), ReasonProtocol},
		"call's instant":  {frameOf(kindCall, headerRest+callSize, "\x01"+strings.Repeat("\x00", 8)+strings.Repeat("\xff", 8)), ReasonProtocol},
		"call's number":   {append(someFetchFrame(1, 1, "hold"), someCallFrame(1, "x")...), ReasonProtocol},
		"fetch's number":  {append(someCallFrame(1, "hold"), someFetchFrame(1, 1, "x")...), ReasonProtocol},
		"short fetch":     {frameOf(kindFetch, headerRest+5, "12345"), ReasonProtocol},
		"odd cancel":      {frameOf(kindCancel, headerRest+5, "12345"), ReasonProtocol},
		"clock":           {appendPing(nil, 1, now().Add(10*time.Second), 0), ReasonClock},
	} {
		t.Run(name, func(t *testing.T) {
			server, r := hostile(t, nil)
			r.join()
			r.send(c.send)
			r.closedFor(server, c.reason)
		})
	}
}

// TestHostileTruncation: a frame that is never finished.
func TestHostileTruncation(t *testing.T) {
	server, r := hostile(t, nil)
	r.join()
	frame := someFetchFrame(1, 1, "k")
	r.send(frame[:len(frame)-1])
	require.NoError(t, r.Conn.(*net.TCPConn).CloseWrite())
	r.closedFor(server, ReasonProtocol)
}

// TestHostileSlowness: bytes that trickle in do not keep a connection, neither
// in the handshake nor after it.
func TestHostileSlowness(t *testing.T) {
	for name, joined := range map[string]bool{"handshake": false, "frame": true} {
		t.Run(name, func(t *testing.T) {
			server, r := hostile(t, func(c *Config) {
				c.Limits.handshakeTimeout = 300 * time.Millisecond
				c.Limits.frameTimeout = 300 * time.Millisecond
			})
			frame := appendHello(nil, now(), honest)
			if joined {
				r.join()
				frame = someFetchFrame(1, 1, strings.Repeat("k", 100))
			}
			go func() {
				for i := range frame {
					if _, err := r.Write(frame[i : i+1]); err != nil {
						return
					}
					time.Sleep(20 * time.Millisecond)
				}
			}()
			r.closedFor(server, ReasonSlow)
		})
	}
}

// TestHostileIdleness: a client that never pings is gone.
func TestHostileIdleness(t *testing.T) {
	server, r := hostile(t, func(c *Config) { c.Lease = 30 * time.Millisecond })
	r.join()
	r.closedFor(server, ReasonIdle)
}

// TestHostileReader: a client that asks and does not read is not answered from
// memory without end. It is read no further, and after a while closed.
func TestHostileReader(t *testing.T) {
	value := make([]byte, 1<<20)
	server, r := hostile(t, func(c *Config) {
		c.Limits.frameTimeout = 500 * time.Millisecond
		c.Limits.maxQueued = 2 << 20
		c.Handler.(*handler).lookup = func(req *Request) (Answer, bool) { return Answer{Value: value}, req.Key == "large" }
	})
	r.join()
	hits := server.Stats().Hits
	r.send(someFetchFrame(1, 1000, "large"), someFetchFrame(1001, 1000, "large"))
	eventually(t, func() bool { return server.Stats().Hits > hits })
	eventually(t, func() bool { return server.Stats().Refused[ReasonSlow] == 1 })
	require.Less(t, server.Stats().Hits-hits, uint64(100))
	r.closedFor(server, ReasonSlow)
}

// TestHostileReaderOfLoads: the same while it is the goroutine of a load that
// is stuck in the write and not the one that reads.
func TestHostileReaderOfLoads(t *testing.T) {
	server, r := hostile(t, func(c *Config) {
		c.Limits.maxQueued = 2 << 20
		h := c.Handler.(*handler)
		h.lookup = func(req *Request) (Answer, bool) { return Answer{}, req.Key == "hit" }
		h.load = func(_ context.Context, req *Request) Answer {
			if req.Key == "large" {
				return Answer{Value: make([]byte, 32<<20)}
			}
			return Answer{}
		}
	})
	r.join()
	r.send(someFetchFrame(1, 1, "large"))
	eventually(t, func() bool { return server.writing("rogue") >= 32<<20 })
	r.send(someFetchFrame(2, 1000, "hit"))
	require.Never(t, func() bool { return server.Stats().Hits > 1 }, 100*time.Millisecond, 10*time.Millisecond)

	// Once it reads, it gets everything.
	for range 1001 {
		h, _ := r.read()
		require.Equal(t, kindAnswer, h.kind)
	}
	require.EqualValues(t, 1000, server.Stats().Hits)
}

// writing returns how many bytes are being written to a client.
func (n *node) writing(client string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	for s := range n.accepted {
		if s.client.id == client {
			s.writer.mu.Lock()
			defer s.writer.mu.Unlock()
			return s.writer.current
		}
	}
	return 0
}

// TestHostileLoads: a client cannot start more loads than it may, and they end
// with it.
func TestHostileLoads(t *testing.T) {
	server, r := hostile(t, func(c *Config) { c.Limits.maxInFlight = 10 })
	r.join()
	r.send(someFetchFrame(1, 1000, "hold"))
	for range 990 {
		h, body := r.read()
		require.Equal(t, kindAnswer, h.kind)
		ans, _, err := decodeAnswer(body)
		require.NoError(t, err)
		require.Equal(t, CodeBusy, ans.Code)
	}
	require.EqualValues(t, 990, server.Stats().Busy)
	require.NoError(t, r.Close())
	eventually(t, func() bool { return server.Stats().Connections == 1 })
	require.Empty(t, server.Stats().Refused)
}

// TestHostileMemory: a length costs nothing until the bytes come.
func TestHostileMemory(t *testing.T) {
	server, _ := hostile(t, nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 50 {
		r := dialRogue(t, server)
		r.join()
		r.send(frameOf(kindFetch, headerRest+64<<20, ""))
	}
	eventually(t, func() bool { return server.Stats().Refused[ReasonLimit] == 50 })
	runtime.ReadMemStats(&after)
	require.Less(t, after.HeapInuse, before.HeapInuse+64<<20)
}

// TestHostileCrowd: connections that do not shake hands are bounded.
func TestHostileCrowd(t *testing.T) {
	server, _ := hostile(t, nil)
	for range maxHandshakes + 10 {
		dialRogue(t, server)
	}
	eventually(t, func() bool { return server.Stats().Refused[ReasonBusy] > 0 })
}

// TestHostileServer: a client does not believe everything either.
func TestHostileServer(t *testing.T) {
	greeted := func(frame []byte) []byte {
		return append(appendWelcome(nil, now(), welcome{version: 1, maxKey: 100, maxKeys: 10, id: "server", region: "here"}), frame...)
	}
	for name, c := range map[string]struct {
		send   []byte
		reason Reason
	}{
		"another node":   {appendWelcome(nil, now(), welcome{version: 1, id: "other", region: "here"}), ReasonIdentity},
		"another region": {appendWelcome(nil, now(), welcome{version: 1, id: "server", region: "there"}), ReasonIdentity},
		"version":        {appendWelcome(nil, now(), welcome{version: 2, id: "server", region: "here"}), ReasonVersion},
		"clock":          {appendWelcome(nil, now().Add(10*time.Second), welcome{version: 1, id: "server", region: "here"}), ReasonClock},
		"no welcome":     {appendGoodbye(nil, now()), ReasonProtocol},
		"unasked answer": {greeted(appendAnswer(nil, 99, now(), new(Answer), 0, 0)), ReasonProtocol},
		"short welcome":  {frameOf(kindWelcome, headerRest+19, strings.Repeat("\x00", 19)), ReasonProtocol},
		"short pong":     {greeted(frameOf(kindPong, headerRest+8, "12345678")), ReasonProtocol},
		"huge lease":     {greeted(frameOf(kindPong, headerRest+25, strings.Repeat("\xff", 25))), ReasonProtocol},
		"bad standing":   {greeted(frameOf(kindPong, headerRest+25, strings.Repeat("\x00", 24)+"\x03")), ReasonProtocol},
		"huge answer":    {greeted(frameOf(kindAnswer, 1<<31, "")), ReasonLimit},
		"late clock":     {greeted(appendGoodbye(nil, now().Add(10*time.Second))), ReasonClock},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer l.Close()
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = conn.Write(c.send)
					_, _ = io.Copy(io.Discard, conn)
					_ = conn.Close()
				}
			}()
			client := newNode(t, "client", nil)
			client.SetPeers([]Endpoint{{ID: "server", Region: "here", Address: l.Addr().String()}})
			peer := client.Peer("server")
			eventually(t, func() bool { return client.Stats().Refused[c.reason] > 0 && !peer.Up() })
			var refused *refusal
			require.ErrorAs(t, peer.downErr(), &refused)
			require.False(t, refused.Remote)
			eventually(t, func() bool { return strings.Contains(client.log.String(), "level=WARN") })
		})
	}
}
