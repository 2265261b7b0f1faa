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

	// A segment that was not acknowledged is sent again after firstTimeout,
	// which doubles each time up to maxTimeout. The values are Linux's.
	firstTimeout = 200 * time.Millisecond
	maxTimeout   = 120 * time.Second
)

// A pipe is one direction of a connection. The network's mu guards it.
//
// It holds what has been sent and not read. All that happens to data happens
// when it is sent, when a cut is made or healed, and when it arrives, for which
// one timer is kept: there is no goroutine to carry it.
type pipe struct {
	net      *Network
	src, dst *conn
	random   *rand.Rand // what is lost
	salt     uint64     // of the jitter

	// flight is what has been sent and has not arrived, oldest first. A segment
	// arrives at its time, but not before those ahead of it.
	// Invariant: unless the pipe is cut, timer runs until the first one's time, or that is
	// due and arriving is true.
	// Invariant: the pipe is in net.inFlight while flight is not empty.
	flight   []segment
	timer    *time.Timer
	arriving bool // a goroutine is about to call arrive

	// cut says that there is a cut between the two hosts, and flight waits for
	// its end. It is kept up to date only while flight is not empty.
	cut bool

	arrived bytes.Buffer // and not read
	eof     bool         // a FIN has arrived
	size    int          // bytes in flight and arrived
}

type kind uint8

const (
	data kind = iota
	ack       // the last of the handshake: the connection can be accepted
	fin
	rst
)

type segment struct {
	kind kind
	data []byte
	sent time.Time
	at   time.Time // when it gets there
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

// writeLocked sends a copy of b, for which there is space.
func (p *pipe) writeLocked(b []byte) {
	p.size += len(b)
	p.net.trafficLocked(p.src.host, p.dst.host).Bytes += int64(len(b))
	for part := range slices.Chunk(bytes.Clone(b), segmentSize) {
		p.sendLocked(segment{kind: data, data: part})
	}
}

// readLocked moves what has arrived to b.
func (p *pipe) readLocked(b []byte) int {
	n, _ := p.arrived.Read(b)
	p.freeLocked(n)
	return n
}

func (p *pipe) freeLocked(n int) {
	p.size -= n
	p.src.changed.Broadcast()
}

// sendLocked sends a segment that is kept until it arrives.
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

// resetLocked sends a RST, once, and forgets what would have to be sent again.
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

// cutsChangedLocked takes a cut that was made or healed into account. Segments
// on their way when a cut is made are lost, like those sent while it lasts.
func (p *pipe) cutsChangedLocked() {
	cut := p.net.isCutLocked(p.src.host, p.dst.host)
	if cut == p.cut {
		return
	}
	p.cut = cut
	if cut {
		// A RST is the last of its flight, is not sent again, and its sender
		// has forgotten the rest.
		if p.flight[len(p.flight)-1].kind == rst {
			p.flight = nil
		}
		p.armLocked()
		return
	}
	// The first segment's timeouts have gone on; the others are sent again
	// when it is.
	now := time.Now()
	again := retry(p.flight[0].sent, func(t time.Time) bool { return !t.After(now) })
	for i := range p.flight {
		p.flight[i].sent = again
	}
	p.scheduleLocked(0)
}

// scheduleLocked decides when the segments from the i-th on get there, from
// when they are sent and what is lost.
func (p *pipe) scheduleLocked(i int) {
	latency := p.net.latencyLocked(p.src.host, p.dst.host)
	for ; i < len(p.flight); i++ {
		s := &p.flight[i]
		s.at = retry(s.sent, func(time.Time) bool { return p.lostLocked() }).Add(latency + p.jitterLocked())
	}
	p.armLocked()
}

// retry returns when a segment gets through that is sent first at t, and again
// after each timeout for as long as the sending fails.
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
	// By the time and not by what was sent before: one message more leaves the others as they are.
	x := (uint64(time.Now().UnixNano()) ^ p.salt ^ p.net.seed) * 0x9e3779b97f4a7c15
	return time.Duration((x >> 32) % uint64(p.net.jitter))
}

// lostLocked decides whether a segment sent now is lost.
func (p *pipe) lostLocked() bool {
	loss := p.net.loss[link{p.src.host.zone, p.dst.host.zone}]
	return loss > 0 && p.random.Float64() < loss
}

// armLocked has arrive called for the first arrival.
//
// A timer is not set to what is due: the race detector of Go 1.26 does not bear that two goroutines
// of a bubble do so at the same time (the bubble's timers share one context of its), and
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

// arriveNow is arrive for what is due.
func (p *pipe) arriveNow() {
	p.net.mu.Lock()
	p.arriving = false
	p.net.mu.Unlock()
	p.arrive()
}

// arrive hands over what has arrived by now. It may be called at any time: a
// timer can be stopped too late.
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

// deliverLocked hands a segment to the end it was sent to. It leaves the pipe's
// flight alone: what is answered goes through the other pipe.
func (p *pipe) deliverLocked(s segment) {
	c := p.dst
	switch {
	case s.kind == rst:
		c.abortLocked()
		c.out.dropLocked()
	case c.goneLocked():
		p.freeLocked(len(s.data)) // else, should the RST be lost, a Write would wait for ever
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
