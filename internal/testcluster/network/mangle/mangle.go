// Package mangle is a bad middle box for tests: it loses, duplicates and
// reorders whole messages of connections between nodes, which a network that
// speaks TCP does not.
//
//	m := mangle.New(seed, mangle.Rates{Lose: 0.01, Duplicate: 0.01, Delay: 0.05})
//	dial = m.Dialer(dial)
//
// It knows frames (see the documentation of package peers) and leaves alone those
// that must come once and in order: greetings, heartbeats and goodbyes. What it
// harms are requests, answers and cancels. It does not duplicate a Fetch: who sends one
// twice is refused and not let in for a while, so that would be a cut, of which whoever plans
// the faults would not know. Since a node asks over the connections that
// it dials and answers over those it accepts, to wrap the dialler is enough
// for both directions.
//
// What happens to a message follows from the seed, the addresses of the connection,
// and what went over it before.
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

// Rates are the shares, from 0 to 1, of messages that something happens to.
// They must not add up to more than 1.
type Rates struct {
	Lose      float64
	Duplicate float64
	Delay     float64 // for up to MaxDelay; what is sent meanwhile overtakes
}

// MaxDelay is the longest that a message is held back.
const MaxDelay = 20 * time.Millisecond

// A Mangler mangles connections. It is safe for concurrent use.
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

// Set changes the rates, for connections that stand too. Zero ends it.
func (m *Mangler) Set(rates Rates) { m.rates.Store(&rates) }

// Counts returns how many messages were lost, duplicated and delayed so far.
func (m *Mangler) Counts() (lost, duplicated, delayed int64) {
	return m.lost.Load(), m.duplicated.Load(), m.delayed.Load()
}

// Dialer returns dial with its connections mangled.
func (m *Mangler) Dialer(dial func(ctx context.Context, address string) (net.Conn, error)) func(ctx context.Context, address string) (net.Conn, error) {
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

// A stream is one direction of a connection, taken apart into frames.
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

// take adds b to the stream and calls f for each frame that is complete, with
// what is to happen to it. frame is f's to keep.
func (s *stream) take(b []byte, f func(frame []byte, what fate, d time.Duration)) {
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

// lengthSize is the size of the field that a frame begins with, and that counts what follows.
const lengthSize = 4

// fetch is the type of a Fetch.
const fetch = 4

// mangled are the types of frames that something may happen to: Fetch, Answer,
// Cancel and Call.
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
