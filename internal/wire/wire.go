// Package wire encodes and decodes the parts that every message between nodes
// is made of. All numbers are big endian.
//
//	string8     u8 length, bytes
//	string16    u16 length, bytes
//	bytes32     u32 length, bytes
//	generation  u64
//	stamp       u64 generation, u64 origin
//	instant     u64 nanoseconds, at most 1<<63 - 1
//	micros      u64 microseconds, at most what a time.Duration can hold
//	flags       u8; a bit without a meaning is malformed
//	count       u32, before that many elements
//
// The Append functions extend a slice, like append, and allocate only to grow
// it. They do not check lengths: a caller must not encode what is too long for
// its length field.
//
// A [Reader] decodes what may come from anybody. Whatever the bytes are, it
// does not panic, and it allocates nothing but the strings that it returns and
// an error. Which messages exist, what their fields mean and how large they may
// be is for the callers to say.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/geocache/geocache/expiry"
)

// ErrMalformed is wrapped by every error of a [Reader].
var ErrMalformed = errors.New("malformed message")

// maxMicros is the longest time that a time.Duration can hold, in microseconds.
const maxMicros = math.MaxInt64 / uint64(time.Microsecond)

// A Reader decodes a message from front to back. Decode all fields first, then
// check [Reader.End] or [Reader.Err] once: the first mistake makes the Reader
// fail for good, and from then on every method returns zero.
//
// What is returned as []byte shares memory with the message. A Reader may be
// copied; the copies then advance independently. It is not safe for concurrent
// use.
type Reader struct {
	rest []byte

	// problem says what was wrong first. It is empty while the Reader has not failed.
	// Invariant: rest is empty once problem is set, so no read succeeds after a failure.
	problem string
}

// NewReader returns a Reader of message.
func NewReader(message []byte) Reader { return Reader{rest: message} }

// Fail makes the Reader fail, unless it has failed already. Callers use it for
// the rules of their own messages. The problem, which must not be empty, is a
// short clause such as "it ends too early", where "it" is the message.
func (r *Reader) Fail(problem string) {
	if r.problem == "" {
		r.problem = problem
	}
	r.rest = nil
}

// Err returns nil, or an error that wraps [ErrMalformed] and says what was
// wrong first. It ignores bytes that are left over.
func (r *Reader) Err() error {
	if r.problem == "" {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrMalformed, r.problem)
}

// End is Err for a message that must end here: it fails if bytes are left over.
func (r *Reader) End() error {
	if len(r.rest) > 0 {
		r.Fail("bytes are left over at its end")
	}
	return r.Err()
}

// Bytes returns the next n bytes; n must not be negative.
func (r *Reader) Bytes(n int) []byte {
	if n > len(r.rest) {
		r.Fail("it ends too early")
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// Rest returns all bytes that are left.
func (r *Reader) Rest() []byte { return r.Bytes(len(r.rest)) }

// Uint8 returns the next byte.
func (r *Reader) Uint8() uint8 {
	if b := r.Bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// Uint16 returns a number of two bytes.
func (r *Reader) Uint16() uint16 {
	if b := r.Bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// Uint32 returns a number of four bytes.
func (r *Reader) Uint32() uint32 {
	if b := r.Bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Uint64 returns a number of eight bytes.
func (r *Reader) Uint64() uint64 {
	if b := r.Bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Bytes8 returns the bytes of a string8.
func (r *Reader) Bytes8() []byte { return r.Bytes(int(r.Uint8())) }

// Bytes16 returns the bytes of a string16.
func (r *Reader) Bytes16() []byte { return r.Bytes(int(r.Uint16())) }

// Bytes32 returns the bytes of a bytes32, which are not nil unless the Reader has failed.
func (r *Reader) Bytes32() []byte {
	n := r.Uint32()
	if uint64(n) > uint64(len(r.rest)) { // before int(n), which overflows on 32-bit machines
		r.Fail("it ends too early")
		return nil
	}
	return r.Bytes(int(n))
}

// String8 returns a copy of a string8.
func (r *Reader) String8() string { return string(r.Bytes8()) }

// String16 returns a copy of a string16.
func (r *Reader) String16() string { return string(r.Bytes16()) }

// Generation returns a generation.
func (r *Reader) Generation() expiry.Generation { return expiry.Generation(r.Uint64()) }

// Stamp returns a stamp.
func (r *Reader) Stamp() expiry.Stamp {
	return expiry.Stamp{Generation: r.Generation(), Origin: r.Uint64()}
}

// Instant returns an instant. It fails if that is more than an [expiry.Instant] can hold.
func (r *Reader) Instant() expiry.Instant {
	ns := r.Uint64()
	if ns > math.MaxInt64 {
		r.Fail("an instant is out of range")
		return 0
	}
	return expiry.Instant(ns)
}

// Micros returns a time in microseconds. It fails if that is more than a [time.Duration] can hold.
func (r *Reader) Micros() time.Duration {
	us := r.Uint64()
	if us > maxMicros {
		r.Fail("a duration is out of range")
		return 0
	}
	return time.Duration(us) * time.Microsecond
}

// Flags sets at most eight flags from one byte, the first from the lowest bit.
// It fails if any other bit is set.
func (r *Reader) Flags(flags ...*bool) {
	bits := r.Uint8()
	for i, set := range flags {
		*set = bits&(1<<i) != 0
	}
	if bits>>len(flags) != 0 {
		r.Fail("a flag has no meaning")
	}
}

// Count returns how many elements follow, each of at least size bytes; size
// must be positive. It fails if that many do not fit in the rest of the message,
// so a caller may allocate for all of them: the sender has paid for it in bytes.
func (r *Reader) Count(size int) int {
	n := r.Uint32()
	if uint64(n) > uint64(len(r.rest)/size) {
		r.Fail("it has room for fewer elements than it announces")
		return 0
	}
	return int(n)
}
