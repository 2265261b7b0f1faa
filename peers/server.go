package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	// maxRequest is the size limit of the bodies of fetch and cancel. A
	// client splits batches that are larger.
	maxRequest = 1 << 20

	// maxHandshakes is how many connections may be in their handshake at
	// once: they have shown no right to be here yet.
	maxHandshakes = 256

	// idleLeases is after how many leases without a byte a server gives a
	// connection up: the other side's end of it is gone, since it would ping.
	idleLeases = 10
)

// Serve accepts the connections of peers from l, which it closes when Close is
// called. It does not block. It may be called for several listeners.
func (t *Transport) Serve(l net.Listener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.leaving.Err() != nil {
		_ = l.Close()
		return
	}
	stop := context.AfterFunc(t.leaving, func() { _ = l.Close() })
	t.servers.Go(func() {
		defer stop()
		defer l.Close()
		t.acceptAll(l)
	})
}

func (t *Transport) acceptAll(l net.Listener) {
	var delay time.Duration
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			delay = 0
			t.servers.Go(func() { t.serve(c) })
			continue
		case t.leaving.Err() != nil:
			return
		case errors.Is(err, net.ErrClosed):
			t.config.Logger.Warn("listener was closed: no more peers are accepted", "address", l.Addr(), "error", err)
			return
		}
		// Such as too many open files: it may pass.
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		t.config.Logger.Warn("cannot accept connections of peers", "address", l.Addr(), "error", err, "retry in", delay)
		select {
		case <-t.leaving.Done():
			return
		case <-time.After(delay):
		}
	}
}

// serve does all for one accepted connection.
func (t *Transport) serve(c net.Conn) {
	remote := slog.String("remote", c.RemoteAddr().String())
	nc, who, err := t.receive(c)
	if err != nil {
		_ = closeNow(c)
		t.report(err, "peer refused", remote, slog.String("node", who.id), slog.String("region", who.region))
		return
	}
	s := &serverConn{conn: nc, transport: t, client: who, loads: make(map[uint64]load)}
	s.ctx, s.cancel = context.WithCancel(t.ctx)
	err = errClosed
	if t.enter(s) {
		t.config.Logger.Debug("peer connected to us", "node", who.id, "region", who.region, remote)
		err = s.run()
	}
	if err = s.close(err); errors.Is(err, errStalled) {
		err = refuse(ReasonSlow, "%v", err)
	}
	s.cancel()
	s.tasks.Wait()
	t.leave(s)
	t.report(err, "connection of peer closed", remote, slog.String("node", who.id), slog.String("region", who.region))
}

// receive makes the handshake, if there are not too many in progress.
func (t *Transport) receive(c net.Conn) (*conn, hello, error) {
	if t.handshakes.Add(1) > maxHandshakes {
		t.handshakes.Add(-1)
		return nil, hello{}, refuse(ReasonBusy, "more than %d connections in their handshake", maxHandshakes)
	}
	defer t.handshakes.Add(-1)
	stop := context.AfterFunc(t.leaving, func() { _ = c.Close() })
	nc, who, err := t.welcome(t.leaving, c)
	if !stop() {
		err = errClosed
	}
	return nc, who, err
}

// enter makes s one of the connections that Close says goodbye to. It returns
// false if Close has begun.
func (t *Transport) enter(s *serverConn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.leaving.Err() != nil {
		return false
	}
	t.accepted[s] = struct{}{}
	if p := t.Peer(s.client.id); p != nil && !p.Up() {
		select {
		case p.seen <- struct{}{}:
		default:
		}
	}
	return true
}

func (t *Transport) leave(s *serverConn) {
	t.mu.Lock()
	delete(t.accepted, s)
	t.mu.Unlock()
	t.checkEnded(s.client.id)
}

// A serverConn answers the requests of one client.
type serverConn struct {
	*conn
	transport *Transport
	client    hello
	ctx       context.Context // of all loads; ends with the connection
	cancel    context.CancelFunc
	request   Request   // for Lookup, overwritten by each
	call      Call      // for Take, overwritten by each
	calls     numbers   // of those that have come
	assured   time.Time // when the client was last told that a frame of its is arriving

	mu    sync.Mutex      // guards the following
	loads map[uint64]load // running, by request
}

// A load is a request that a goroutine is answering.
type load struct {
	kind   kind // fetch or call
	cancel context.CancelFunc
}

// run reads frames until the connection ends, and returns why.
func (s *serverConn) run() error {
	t := s.transport
	s.reader.accept = acceptRequests(&t.config.Limits)
	s.reader.setIdle(idleLeases * t.config.Lease)
	s.reader.until, s.reader.waiting = time.Time{}, time.Time{}
	s.reader.beforeBlock = s.catchUp
	for {
		h, body, owned, err := s.reader.next()
		if err == nil {
			err = t.merge(h)
		}
		if err == nil {
			err = s.handle(h, body, owned)
		}
		if err == nil {
			continue
		}
		if err == errSilent {
			err = refuse(ReasonIdle, "nothing was heard for %v", time.Duration(s.reader.idle.Load()))
		}
		if refused := (*refusal)(nil); errors.As(err, &refused) && refused.Reason != ReasonSlow {
			t.sendRefused(s.conn, refused)
		}
		return err
	}
}

func acceptRequests(limits *Limits) func(kind) (int, bool) {
	return func(k kind) (int, bool) {
		switch k {
		case kindFetch, kindCancel:
			return maxRequest, true
		case kindCall:
			return callSize + limits.maxCall(), true
		case kindPing:
			return pingSize, true
		}
		return 0, false
	}
}

// catchUp is called before the reader may have to wait: whatever was answered
// is sent. If the client does not read its answers, it is not read from either.
//
// A client whose large payload is under way has its pings behind it and would
// take this node to be down. So it gets pongs to none as long as bytes come.
func (s *serverConn) catchUp() {
	if began := s.reader.began; !began.IsZero() {
		if began.After(s.assured) {
			s.assured = began
		}
		if time.Since(s.assured) >= s.transport.config.Lease/4 {
			s.assured = time.Now()
			_ = s.queuePong(0, pong{})
		}
	}
	s.writer.flush(false)
	s.writer.waitBelow(s.transport.config.Limits.maxQueued)
}

func (s *serverConn) handle(h header, body []byte, owned bool) error {
	switch h.kind {
	case kindPing:
		view, err := decodePing(body)
		if err != nil {
			return refuse(ReasonProtocol, "a ping that is malformed")
		}
		return s.pong(h.id, view)
	case kindCall:
		return s.handleCall(h, body, owned)
	case kindCancel:
		ids, err := decodeCancel(body)
		if err != nil {
			return malformed(h.kind, err)
		}
		s.cancelLoads(ids)
		return nil
	}
	return s.handleFetch(h, body)
}

// handleFetch answers what memory has and starts loads for the rest.
func (s *serverConn) handleFetch(h header, body []byte) error {
	limits := &s.transport.config.Limits
	m, err := decodeFetch(body)
	switch {
	case err != nil:
		return malformed(h.kind, err)
	case h.id+uint64(m.n) < h.id:
		return refuse(ReasonProtocol, "a fetch whose request numbers overflow")
	case m.n > limits.maxKeys:
		return refuse(ReasonLimit, "a fetch of %d keys, at most %d are allowed", m.n, limits.maxKeys)
	}
	s.transport.requests.Add(uint64(m.n))
	// Loads begin when it is known how many they are, those of a fetch that turns out
	// to be malformed too: they have places that must be given back.
	var loads []loading
	defer func() { s.startLoads(loads) }()
	for id := h.id; m.n > 0; id++ {
		floor, key, err := m.nextKey()
		switch {
		case err != nil:
			return malformed(h.kind, err)
		case len(key) > limits.MaxKey:
			return refuse(ReasonLimit, "a key of %d bytes, at most %d are allowed", len(key), limits.MaxKey)
		}
		s.request = Request{
			Group: alias(m.group),
			Key:   alias(key),
			Floor: floor,
			Hop:   m.hop,
			Peek:  m.peek,

			Region: s.client.region,
		}
		ans, ok := s.transport.config.Handler.Lookup(&s.request)
		switch {
		case ok:
			s.transport.hits.Add(1)
			err = s.answer(id, &ans)
		case m.peek && s.home():
			err = s.answer(id, &Answer{Code: CodeMiss})
		default:
			loads, err = s.beginLoad(loads, id, m.timeout)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// answer queues an answer. Should it be the one that fills the queue, answer
// waits until there is room again: one fetch can ask for many large values.
func (s *serverConn) answer(id uint64, ans *Answer) error {
	err := s.queueAnswer(id, ans, 0)
	s.writer.mu.Lock()
	full := s.writer.queued.bytes+s.writer.current >= s.transport.config.Limits.maxQueued
	s.writer.mu.Unlock()
	if full {
		s.catchUp()
	}
	return err
}

// queueAnswer queues the answer to a request that was held for so long.
func (s *serverConn) queueAnswer(id uint64, ans *Answer, held time.Duration) error {
	value := ans.Value
	most := int(s.client.maxValue)
	if ans.reply || ans.Tagged { // tags come on top of the value
		most += callRoom
	}
	if len(value) > most {
		ans = &Answer{Code: CodeTooLarge, Text: fmt.Sprintf("the value has %d bytes, you take %d", len(value), most)}
	}
	if !ans.Code.carriesValue() {
		value = []byte(ans.Text[:min(len(ans.Text), maxText)])
	}
	return s.writer.queue(0, value, func(b []byte) []byte {
		return appendAnswer(b, id, s.transport.config.Clock.Read(), ans, held, len(value))
	})
}

// A loading is a request that has begun.
type loading struct {
	id  uint64
	ctx context.Context
	req *Request
}

// beginLoad adds s.request to loads.
func (s *serverConn) beginLoad(loads []loading, id uint64, timeout time.Duration) ([]loading, error) {
	if s.running(id) != 0 {
		return loads, refuse(ReasonProtocol, "a fetch with the number of another request that is in flight")
	}
	ctx := s.begin(id, kindFetch, timeout)
	if ctx == nil {
		return loads, s.answer(id, &errTooMany)
	}
	req := s.request
	req.Group = strings.Clone(req.Group)
	req.Key = strings.Clone(req.Key)
	return append(loads, loading{id, ctx, &req}), nil
}

// startLoads answers requests by Handler.Load, each on a goroutine of its own.
func (s *serverConn) startLoads(loads []loading) {
	var together *Together
	if len(loads) > 1 {
		together = &Together{Keys: len(loads)}
	}
	for _, l := range loads {
		l.req.Together = together
		s.finish(l.id, func() Answer { return s.transport.config.Handler.Load(l.ctx, l.req) })
	}
}

// running returns the kind of the request with this number that a goroutine is
// answering, or zero if there is none.
func (s *serverConn) running(id uint64) kind {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loads[id].kind
}

// errTooMany is the answer to a request that begin turns away.
var errTooMany = Answer{Code: CodeBusy, Text: "too many requests in flight"}

// begin makes a request one of those that are being answered, and returns its
// context. It returns nil if there are too many. The request is not running
// yet: only the goroutine that reads begins any.
func (s *serverConn) begin(id uint64, k kind, timeout time.Duration) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.loads) >= s.transport.config.Limits.maxInFlight {
		s.transport.busy.Add(1)
		return nil
	}
	var ctx context.Context
	var cancel context.CancelFunc
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(s.ctx, timeout)
	} else {
		ctx, cancel = context.WithCancel(s.ctx)
	}
	s.loads[id] = load{kind: k, cancel: cancel}
	return ctx
}

// finish gives the answer to a request that has begun, on a goroutine of its
// own.
func (s *serverConn) finish(id uint64, answer func() Answer) {
	t := s.transport
	began := t.config.Clock.Instant()
	t.loading.Add(1)
	s.tasks.Go(func() {
		defer t.loading.Add(-1)
		ans := answer()
		s.mu.Lock()
		s.loads[id].cancel()
		delete(s.loads, id)
		s.mu.Unlock()
		if ans.At == 0 {
			ans.At = t.config.Clock.Instant()
		}
		if s.queueAnswer(id, &ans, max(ans.At.Sub(began), 0)) == nil {
			s.writer.flush(false)
		}
	})
}

// cancelLoads ends the contexts of those requests that are still running. The
// client no longer waits for the answers and ignores them.
func (s *serverConn) cancelLoads(ids []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if l, ok := s.loads[id]; ok {
			l.cancel()
		}
	}
}

// goodbye asks the client to send no more requests, and to close the
// connection when it has all its answers. Close waits for that, so from now on a client of
// which nothing is heard for a lease is given up: one that is there pings.
func (s *serverConn) goodbye() {
	s.reader.setIdle(s.transport.config.Lease)
	s.reader.interrupt()
	err := s.writer.queue(0, nil, func(b []byte) []byte {
		return appendGoodbye(b, s.transport.config.Clock.Read())
	})
	if err == nil {
		s.writer.flushSoon()
	}
}

// report counts and logs why a connection ended or never stood.
func (t *Transport) report(err error, message string, attrs ...slog.Attr) {
	level := slog.LevelDebug
	if refused := (*refusal)(nil); errors.As(err, &refused) && !refused.Remote {
		if t.refusals.count(refused.Reason) {
			level = refused.level()
		}
		attrs = append(attrs, slog.String("reason", refused.Reason.String()))
	}
	if err != io.EOF {
		attrs = append(attrs, slog.Any("error", err))
	}
	t.config.Logger.LogAttrs(context.Background(), level, message, attrs...)
}
