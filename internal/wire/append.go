package wire

import (
	"encoding/binary"
	"time"

	"github.com/geocache/geocache/expiry"
)

// AppendUint16 appends n.
func AppendUint16(b []byte, n uint16) []byte { return binary.BigEndian.AppendUint16(b, n) }

// AppendUint32 appends n.
func AppendUint32(b []byte, n uint32) []byte { return binary.BigEndian.AppendUint32(b, n) }

// AppendUint64 appends n.
func AppendUint64(b []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(b, n) }

// AppendCount appends the number of elements that follow, at most 1<<32 - 1.
func AppendCount(b []byte, n int) []byte { return AppendUint32(b, uint32(n)) }

// AppendString8 appends s, which has at most 255 bytes, after its length.
func AppendString8(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }

// AppendString16 appends s, which has at most 65,535 bytes, after its length.
func AppendString16(b []byte, s string) []byte { return append(AppendUint16(b, uint16(len(s))), s...) }

// AppendBytes32 appends v, which has less than 4 GiB, after its length.
func AppendBytes32(b, v []byte) []byte { return append(AppendUint32(b, uint32(len(v))), v...) }

// AppendGeneration appends g.
func AppendGeneration(b []byte, g expiry.Generation) []byte { return AppendUint64(b, uint64(g)) }

// AppendStamp appends s.
func AppendStamp(b []byte, s expiry.Stamp) []byte {
	return AppendUint64(AppendGeneration(b, s.Generation), s.Origin)
}

// AppendInstant appends i; it sends a negative one as zero.
func AppendInstant(b []byte, i expiry.Instant) []byte { return AppendUint64(b, uint64(max(i, 0))) }

// AppendMicros appends d, rounded down; it sends a negative one as zero.
func AppendMicros(b []byte, d time.Duration) []byte {
	return AppendUint64(b, uint64(max(d, 0)/time.Microsecond))
}

// AppendMicrosUp appends d, rounded up, but never to more than a time.Duration
// can hold; it sends a negative one as zero.
func AppendMicrosUp(b []byte, d time.Duration) []byte {
	us := uint64(max(d, 0) / time.Microsecond)
	if d > 0 && d%time.Microsecond != 0 {
		us++
	}
	return AppendUint64(b, min(us, maxMicros))
}

// AppendFlags appends at most eight flags in one byte, the first in the lowest bit.
func AppendFlags(b []byte, flags ...bool) []byte {
	var bits byte
	for i, set := range flags {
		if set {
			bits |= 1 << i
		}
	}
	return append(b, bits)
}
