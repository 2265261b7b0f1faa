// Package mangle is a bad middlebox for tests: it loses, duplicates and reorders whole messages
// between nodes, which a network that speaks TCP does not do.
//
//	m := mangle.New(seed, mangle.Rates{Lose: 0.01, Duplicate: 0.01, Delay: 0.05})
//	dial = m.Dialer(dial)
//
// It knows frames (see the documentation of package peers), and does not touch those that must
// arrive once and in order: greetings, heartbeats and goodbyes. It mangles requests, answers and
// cancels. It does not duplicate a Fetch: a node that sends one twice is refused for a while, which
// would be a cut that the planner of the faults does not know of. A node asks over the connections
// that it dials and answers over those that it accepts, so wrapping the dialer is enough for both
// directions. It does not work over TLS.
//
// What happens to a message follows from the seed, the addresses of the connection, and what went
// over the connection before.
package mangle

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"
)

// Rates are the shares of messages, from 0 to 1, that something happens to. Their sum must not be
// more than 1.
type Rates struct {
	Lose      float64
	Duplicate float64
	Delay     float64 // for up to MaxDelay; later messages overtake these
}

// MaxDelay is the longest that a message is held back.
const MaxDelay = 20 * time.Millisecond

// A Mangler mangles the messages of connections. It is safe for concurrent use.
type Mangler struct {
	seed  uint64
	rates atomic.Pointer[Rates]

	lost, duplicated, delayed atomic.Int64
}

// New returns a Mangler.
func New(seed uint64, rates Rates) *Mangler {
	m := &Mangler{seed: seed}
	m.Set(rates)
	return m
}

// Set changes the rates, also for existing connections. Zero rates end the mangling.
func (m *Mangler) Set(rates Rates) { m.rates.Store(&rates) }

// Counts returns how many messages were lost, duplicated and delayed so far.
func (m *Mangler) Counts() (lost, duplicated, delayed int64) {
	return m.lost.Load(), m.duplicated.Load(), m.delayed.Load()
}

// Dialer returns dial with its connections mangled.
func (m *Mangler) Dialer(
	dial func(ctx context.Context, address string) (net.Conn, error),
) func(ctx context.Context, address string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		nc, err := dial(ctx, address)
		if err != nil {
			return nil, err
		}
		return m.wrap(nc), nil
	}
}

// A fate is what happens to a message.
type fate int

const (
	pass fate = iota
	lose
	duplicate
	delay
)

// A stream is one direction of a connection, split into frames.
type stream struct {
	m       *Mangler
	random  *rand.Rand
	partial []byte // the beginning of a frame
}

func (m *Mangler) stream(from, to net.Addr) stream {
	h := fnv.New64a()
	io.WriteString(h, from.String()+" "+to.String())
	return stream{m: m, random: rand.New(rand.NewPCG(m.seed, h.Sum64()))}
}

// feed adds b to the stream, and calls f for each complete frame with what happens to it. f may
// keep frame.
func (s *stream) feed(b []byte, f func(frame []byte, what fate, d time.Duration)) {
	s.partial = append(s.partial, b...)
	for len(s.partial) >= lengthSize {
		size := lengthSize + int(binary.BigEndian.Uint32(s.partial))
		if len(s.partial) < size {
			return
		}
		frame := s.partial[:size:size]
		s.partial = s.partial[size:]
		what := s.decide(frame)
		f(frame, what, 1+time.Duration(s.random.Int64N(int64(MaxDelay))))
	}
}

// lengthSize is the size of a frame's first field: the length of what follows.
const lengthSize = 4

// fetch is the frame type of a Fetch.
const fetch = 4

// mangled has the types of frames that something may happen to: Fetch, Answer, Cancel and Call.
var mangled = [256]bool{fetch: true, 5: true, 6: true, 10: true}

// decide draws a frame's fate.
func (s *stream) decide(frame []byte) fate {
	rates := s.m.rates.Load()
	if len(frame) <= lengthSize || !mangled[frame[lengthSize]] {
		return pass
	}
	switch x := s.random.Float64(); {
	case x < rates.Lose:
		s.m.lost.Add(1)
		return lose
	case x < rates.Lose+rates.Duplicate && frame[lengthSize] == fetch:
		return pass
	case x < rates.Lose+rates.Duplicate:
		s.m.duplicated.Add(1)
		return duplicate
	case x < rates.Lose+rates.Duplicate+rates.Delay:
		s.m.delayed.Add(1)
		return delay
	}
	return pass
}
