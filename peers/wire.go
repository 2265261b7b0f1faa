package peers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unsafe"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/wire"
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

var errShortFrame = errors.New("a frame shorter than its header")

// parseHeader reads the first headerSize bytes of b.
func parseHeader(b []byte) (header, error) {
	r := wire.NewReader(b)
	length := r.Uint32()
	h := header{kind: kind(r.Uint8()), id: r.Uint64(), clock: r.Generation()}
	if length < headerRest {
		return h, errShortFrame
	}
	h.size = int(min(length-headerRest, math.MaxInt32)) // no limit is as high, and an int may not hold more
	return h, nil
}

// beginFrame appends a header whose length endFrame sets.
func beginFrame(b []byte, k kind, id uint64, clock expiry.Generation) []byte {
	b = append(b, 0, 0, 0, 0, byte(k))
	b = wire.AppendUint64(b, id)
	return wire.AppendGeneration(b, clock)
}

// endFrame sets the length of the frame that begins at start and ends with b
// and the more bytes that are to follow it.
func endFrame(b []byte, start, more int) []byte {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4+more))
	return b
}

// alias returns b as a string that shares its memory: it changes when b does.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
