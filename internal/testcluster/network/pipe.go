package network

import (
	"bytes"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	segmentSize = 1460       // of data, at most
	window      = 256 * 1024 // bytes a pipe holds, sent and unread

	// A segment that was not acknowledged is sent again after firstTimeout, which doubles each time
	// up to maxTimeout. These are Linux's values.
	firstTimeout = 200 * time.Millisecond
	maxTimeout   = 120 * time.Second
)

// A pipe is one direction of a connection. The network's mu guards it.
//
// It holds what has been sent and not read. Things happen to data only when it is sent, when a cut
// is made or healed, and when it arrives. For the latter there is one timer, and no goroutine.
type pipe struct {
	net      *Network
	src, dst *conn
	random   *rand.Rand // decides what is lost
	salt     uint64     // of the jitter

	// flight is what has been sent and has not arrived, oldest first. A segment arrives at its
	// time, but not before those ahead of it.
	//
	// Invariant: unless the pipe is cut, timer runs until the first segment's time, or that is due
	// and arriving is true.
	//
	// Invariant: the pipe is in net.inFlight while flight is not empty.
	flight   []segment
	timer    *time.Timer
	arriving bool // a goroutine is about to call arrive

	// cut reports whether there is a cut between the two hosts, so that flight waits for its end.
	// It is kept up to date only while flight is not empty.
	cut bool

	arrived bytes.Buffer // but not read
	eof     bool         // a FIN has arrived
	size    int          // bytes in flight and arrived
}

type kind uint8

const (
	data kind = iota
	ack       // the end of the handshake: the connection can be accepted
	fin
	rst
)

type segment struct {
	kind kind
	data []byte
	sent time.Time
	at   time.Time // when it arrives
}

func newPipe(src, dst *conn) *pipe {
	h := fnv.New64a()
	io.WriteString(h, string(src.local)+" "+string(dst.local))
	return &pipe{
		net:    src.host.net,
		src:    src,
		dst:    dst,
		random: rand.New(rand.NewPCG(src.host.net.seed, h.Sum64())),
		salt:   h.Sum64(),
	}
}

// spaceLocked returns how many bytes can be written now.
func (p *pipe) spaceLocked() int { return window - p.size }

// writeLocked sends a copy of b. There must be space for it.
func (p *pipe) writeLocked(b []byte) {
	p.size += len(b)
	for part := range slices.Chunk(bytes.Clone(b), segmentSize) {
		p.sendLocked(segment{kind: data, data: part})
	}
}

// readLocked moves what has arrived into b.
func (p *pipe) readLocked(b []byte) int {
	n, _ := p.arrived.Read(b)
	p.freeLocked(n)
	return n
}

func (p *pipe) freeLocked(n int) {
	p.size -= n
	p.src.changed.Broadcast()
}

// sendLocked sends a segment, which is kept until it arrives.
func (p *pipe) sendLocked(s segment) {
	if len(p.flight) == 0 {
		p.cut = p.net.isCutLocked(p.src.host, p.dst.host)
		p.net.inFlight[p] = struct{}{}
	}
	s.sent = time.Now()
	p.flight = append(p.flight, s)
	if !p.cut {
		p.scheduleLocked(len(p.flight) - 1)
	}
}

// resetLocked sends a RST, once, and forgets what would have had to be sent again.
func (p *pipe) resetLocked() {
	if p.net.isCutLocked(p.src.host, p.dst.host) {
		p.dropLocked()
		return
	}
	if !p.lostLocked() {
		p.sendLocked(segment{kind: rst})
	}
}

// dropLocked empties the flight.
func (p *pipe) dropLocked() {
	p.flight = nil
	p.armLocked()
}

// cutsChangedLocked takes note of a cut that was made or healed. Segments that are on their way
// when a cut is made are lost, like those sent while it lasts.
func (p *pipe) cutsChangedLocked() {
	cut := p.net.isCutLocked(p.src.host, p.dst.host)
	if cut == p.cut {
		return
	}
	p.cut = cut
	if cut {
		// A RST is the last segment of its flight and is not sent again, and its sender has
		// forgotten the rest.
		if p.flight[len(p.flight)-1].kind == rst {
			p.flight = nil
		}
		p.armLocked()
		return
	}
	// The first segment's timeouts have run on. The others are sent again when it is.
	now := time.Now()
	again := retry(p.flight[0].sent, func(t time.Time) bool { return !t.After(now) })
	for i := range p.flight {
		p.flight[i].sent = again
	}
	p.scheduleLocked(0)
}

// scheduleLocked decides when the segments from the i-th on arrive, given when they were sent and
// what is lost.
func (p *pipe) scheduleLocked(i int) {
	latency := p.net.latencyLocked(p.src.host, p.dst.host)
	for ; i < len(p.flight); i++ {
		s := &p.flight[i]
		s.at = retry(s.sent, func(time.Time) bool { return p.lostLocked() }).Add(latency + p.jitterLocked())
	}
	p.armLocked()
}

// retry returns when a segment gets through that is first sent at t, and again after each timeout
// for as long as sending fails.
func retry(t time.Time, fails func(time.Time) bool) time.Time {
	for timeout := firstTimeout; fails(t); timeout = min(2*timeout, maxTimeout) {
		t = t.Add(timeout)
	}
	return t
}

// jitterLocked returns by how much later a segment arrives. Those behind it wait for it.
func (p *pipe) jitterLocked() time.Duration {
	if p.net.jitter == 0 {
		return 0
	}
	// Depends on the time and not on what was sent before, so that one message more does not change
	// the others.
	x := (uint64(time.Now().UnixNano()) ^ p.salt ^ p.net.seed) * 0x9e3779b97f4a7c15
	return time.Duration((x >> 32) % uint64(p.net.jitter))
}

// lostLocked decides whether a segment sent now is lost.
func (p *pipe) lostLocked() bool {
	loss := p.net.loss[link{p.src.host.zone, p.dst.host.zone}]
	return loss > 0 && p.random.Float64() < loss
}

// armLocked arranges for arrive to be called at the first arrival.
//
// It sets no timer for what is due already: the race detector of Go 1.26 does not support two
// goroutines of a bubble doing so at the same time (the bubble's timers share one context), and
// ends the process now and then.
func (p *pipe) armLocked() {
	if len(p.flight) == 0 {
		delete(p.net.inFlight, p)
	}
	due := time.Duration(-1)
	if len(p.flight) > 0 && !p.cut {
		due = max(time.Until(p.flight[0].at), 0)
	}
	switch {
	case due > 0 && p.timer == nil:
		p.timer = time.AfterFunc(due, p.arrive)
	case due > 0:
		p.timer.Reset(due)
	case p.timer != nil:
		p.timer.Stop()
	}
	if due == 0 && !p.arriving {
		p.arriving = true
		go p.arriveNow()
	}
}

// arriveNow calls arrive for what is due already.
func (p *pipe) arriveNow() {
	p.net.mu.Lock()
	p.arriving = false
	p.net.mu.Unlock()
	p.arrive()
}

// arrive delivers what has arrived by now. It may be called at any time, since a timer can be
// stopped too late.
func (p *pipe) arrive() {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if p.cut {
		return
	}
	now, arrived := time.Now(), 0
	for arrived < len(p.flight) && !p.flight[arrived].at.After(now) {
		p.deliverLocked(p.flight[arrived])
		arrived++
	}
	p.flight = slices.Delete(p.flight, 0, arrived)
	p.armLocked()
}

// deliverLocked delivers a segment to its destination. It leaves the pipe's own flight alone:
// answers go through the other pipe.
func (p *pipe) deliverLocked(s segment) {
	c := p.dst
	switch {
	case s.kind == rst:
		c.abortLocked()
		c.out.dropLocked()
	case c.goneLocked():
		p.freeLocked(len(s.data)) // otherwise a Write would wait forever if the RST is lost
		c.out.resetLocked()
	case s.kind == ack && c.host.listener == nil:
		c.killLocked()
	case s.kind == ack:
		c.host.listener.queue = append(c.host.listener.queue, c)
		c.host.listener.changed.Broadcast()
	case s.kind == fin:
		p.eof = true
		c.changed.Broadcast()
	default:
		p.arrived.Write(s.data)
		c.changed.Broadcast()
	}
}
