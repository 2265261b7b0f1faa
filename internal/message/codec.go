package message

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/geocache/geocache/expiry"
)

// All numbers are big endian. The parts that the layouts beside the types are
// made of are
//
//	string8   u8 length, bytes          groups and regions
//	string16  u16 length, bytes         keys
//	bytes32   u32 length, bytes         values
//	stamp     u64 generation, u64 origin
//	micros    u64 microseconds
//	flags     u8; bits that the layout does not name are refused
//	count     u32, before as many elements
//
// A message ends where its layout does: nothing may be left over. What is
// longer than its length can say is for the sender not to send; the limits on
// names and values that the transport has are lower.
//
// The decoders copy strings and values. A payload may lie in a buffer that is
// read into again, and what is decoded is kept for long: as a floor's key or
// an entry's value.

// MaxKey is how long a key may be, and a prefix of one, in bytes. MaxTags is how many tags a value may have.
const (
	MaxKey  = 4 << 10
	MaxTags = 255
)

// ErrMalformed is what every decoder returns for bytes that no encoder writes.
var ErrMalformed = errors.New("message: malformed message")

// appendString8 appends s, of at most 255 bytes, after its length.
func appendString8(b []byte, s string) []byte {
	return append(append(b, byte(len(s))), s...)
}

// appendString16 appends s, of at most 65535 bytes, after its length.
func appendString16(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// appendBytes32 appends v, of at most 4 GiB - 1, after its length.
func appendBytes32(b, v []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
}

func appendStamp(b []byte, s expiry.Stamp) []byte {
	b = appendGeneration(b, s.Generation)
	return binary.BigEndian.AppendUint64(b, s.Origin)
}

func appendGeneration(b []byte, g expiry.Generation) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(g))
}

func appendCount(b []byte, n int) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

// maxMicros is the longest time that a Duration can tell, in microseconds.
const maxMicros = math.MaxInt64 / uint64(time.Microsecond)

// appendMicros appends d in microseconds, rounded down; a negative one as zero.
func appendMicros(b []byte, d time.Duration) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(max(d, 0)/time.Microsecond))
}

// appendMicrosUp is appendMicros, but rounds up.
func appendMicrosUp(b []byte, d time.Duration) []byte {
	us := uint64(max(d, 0) / time.Microsecond)
	if d > 0 && d%time.Microsecond != 0 {
		us++
	}
	return binary.BigEndian.AppendUint64(b, min(us, maxMicros))
}

// appendFlags appends the bits, the first one lowest.
func appendFlags(b []byte, bits ...bool) []byte {
	var flags byte
	for i, set := range bits {
		if set {
			flags |= 1 << i
		}
	}
	return append(b, flags)
}

// A decoder takes a message apart from the front. The first thing that is not
// as it must be makes it bad, and all that it returns after that is zero.
type decoder struct {
	b   []byte
	bad bool
}

// bytes returns the next n bytes, which alias the message.
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

func (d *decoder) string8() string  { return string(d.bytes(int(d.uint8()))) }
func (d *decoder) string16() string { return string(d.bytes(int(d.uint16()))) }

// bytes32 is not nil, unless the decoder is bad.
func (d *decoder) bytes32() []byte {
	n := d.uint32()
	if uint64(n) > uint64(len(d.b)) { // before int(n), which can overflow on 32 bits
		d.bad = true
	}
	if d.bad {
		return nil
	}
	return append([]byte{}, d.bytes(int(n))...)
}

func (d *decoder) generation() expiry.Generation { return expiry.Generation(d.uint64()) }

func (d *decoder) stamp() expiry.Stamp {
	return expiry.Stamp{Generation: d.generation(), Origin: d.uint64()}
}

func (d *decoder) micros() time.Duration {
	us := d.uint64()
	if us > maxMicros {
		d.bad = true
		return 0
	}
	return time.Duration(us) * time.Microsecond
}

// flags sets the bits, the first one lowest.
func (d *decoder) flags(bits ...*bool) {
	flags := d.uint8()
	for i, set := range bits {
		*set = flags&(1<<i) != 0
	}
	d.bad = d.bad || flags>>len(bits) != 0
}

// key returns a key.
func (d *decoder) key() string {
	key := d.string16()
	d.named(key, false)
	return key
}

// named checks a key, or what is said to be a scope, which only another part of the message may say.
func (d *decoder) named(key string, scope bool) {
	name := key
	if scope {
		name = expiry.Subject(key).Name()
		d.bad = d.bad || !expiry.Subject(key).IsScope()
	}
	d.bad = d.bad || len(name) > MaxKey
}

// count returns how many elements follow, of at least size bytes each. It is
// no more than there is room for, so that memory for them can be taken.
func (d *decoder) count(size int) int {
	n := d.uint32()
	if uint64(n) > uint64(len(d.b)/size) {
		d.bad = true
	}
	if d.bad {
		return 0
	}
	return int(n)
}

// whole returns m, which has been decoded, unless something was not as it must
// be or is left over.
func whole[M any](d *decoder, m M) (M, error) {
	if d.bad || len(d.b) != 0 {
		var none M
		return none, fmt.Errorf("%w: %T", ErrMalformed, none)
	}
	return m, nil
}
