package peers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
	"unsafe"

	"github.com/geocache/geocache/expiry"
)

// This file is the frame format and nothing else: no I/O, no limits but those
// of the format itself.

// A kind is the type of a frame. Its numbers are part of the wire format.
type kind uint8

const (
	kindHello   kind = 1
	kindWelcome kind = 2
	kindRefused kind = 3
	kindFetch   kind = 4
	kindAnswer  kind = 5
	kindCancel  kind = 6
	kindPing    kind = 7
	kindPong    kind = 8
	kindGoodbye kind = 9
	kindCall    kind = 10
)

var kindNames = [...]string{"", "hello", "welcome", "refused", "fetch", "answer", "cancel", "ping", "pong", "goodbye", "call"}

func (k kind) String() string {
	if k > 0 && int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// A header begins every frame.
type header struct {
	kind  kind
	size  int    // of the body
	id    uint64 // numbers requests; an answer bears its request's
	clock expiry.Generation
}

const (
	headerSize = 4 + 1 + 8 + 8
	headerRest = headerSize - 4 // as counted by the length field
)

var errMalformed = errors.New("malformed frame")

// parseHeader reads the first headerSize bytes of b.
func parseHeader(b []byte) (header, error) {
	length := binary.BigEndian.Uint32(b)
	h := header{
		kind:  kind(b[4]),
		id:    binary.BigEndian.Uint64(b[5:]),
		clock: expiry.Generation(binary.BigEndian.Uint64(b[13:])),
	}
	if length < headerRest {
		return h, errMalformed
	}
	h.size = int(min(length-headerRest, math.MaxInt32)) // no limit is as high, and an int may not hold more
	return h, nil
}

// beginFrame appends a header whose length endFrame sets.
func beginFrame(b []byte, k kind, id uint64, clock expiry.Generation) []byte {
	b = append(b, 0, 0, 0, 0, byte(k))
	b = binary.BigEndian.AppendUint64(b, id)
	return binary.BigEndian.AppendUint64(b, uint64(clock))
}

// endFrame sets the length of the frame that begins at start and ends with b
// and the more bytes that are to follow it.
func endFrame(b []byte, start, more int) []byte {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4+more))
	return b
}

// appendString8 appends s, of at most 255 bytes, after its length.
func appendString8(b []byte, s string) []byte {
	return append(append(b, byte(len(s))), s...)
}

func appendStamp(b []byte, s expiry.Stamp) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(s.Generation))
	return binary.BigEndian.AppendUint64(b, s.Origin)
}

// appendMicros appends d in microseconds; a negative one as zero.
func appendMicros(b []byte, d time.Duration) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(max(d, 0)/time.Microsecond))
}

// appendInstant appends i in nanoseconds; a negative one as zero.
func appendInstant(b []byte, i expiry.Instant) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(max(i, 0)))
}

// A decoder takes a body apart from the front. The first thing that is not
// there makes it bad, and all that it returns after that is zero.
type decoder struct {
	b   []byte
	bad bool
}

// bytes returns the next n bytes, which alias the body.
func (d *decoder) bytes(n int) []byte {
	if d.bad || n > len(d.b) {
		d.bad = true
		return nil
	}
	taken := d.b[:n:n]
	d.b = d.b[n:]
	return taken
}

func (d *decoder) uint8() uint8 {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint16() uint16 {
	if b := d.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) stamp() expiry.Stamp {
	return expiry.Stamp{Generation: expiry.Generation(d.uint64()), Origin: d.uint64()}
}

func (d *decoder) micros() time.Duration {
	us := d.uint64()
	if us > math.MaxInt64/uint64(time.Microsecond) {
		d.bad = true
		return 0
	}
	return time.Duration(us) * time.Microsecond
}

func (d *decoder) instant() expiry.Instant {
	ns := d.uint64()
	if ns > math.MaxInt64 {
		d.bad = true
		return 0
	}
	return expiry.Instant(ns)
}

func (d *decoder) string8() string { return string(d.bytes(int(d.uint8()))) }

// alias returns b as a string that shares its memory: it changes when b does.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// atLeast returns an error if anything was missing. What is left over is ignored:
// only the messages of the handshake may grow in later versions.
func (d *decoder) atLeast() error {
	if d.bad {
		return errMalformed
	}
	return nil
}

// exactly returns an error if anything was missing or is left over.
func (d *decoder) exactly() error {
	if d.bad || len(d.b) != 0 {
		return errMalformed
	}
	return nil
}
