package peers

import (
	"encoding/binary"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/lease"
)

// The encoders append a whole frame, the decoders take a body. The layouts
// stand in the package documentation; testdata/frames.txt holds them to it.

// magic begins a Hello.
const magic = "geocache"

// A hello is what a client says first. Its layout must stay as it is in every
// version, which may only append to it.
type hello struct {
	lowest, highest     uint16 // protocol versions spoken
	seed                uint64
	maxValue            uint32 // the largest value it takes
	cluster, id, region string
}

func appendHello(b []byte, clock expiry.Generation, m hello) []byte {
	start := len(b)
	b = beginFrame(b, kindHello, 0, clock)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint16(b, m.lowest)
	b = binary.BigEndian.AppendUint16(b, m.highest)
	b = binary.BigEndian.AppendUint64(b, m.seed)
	b = binary.BigEndian.AppendUint32(b, m.maxValue)
	b = appendString8(b, m.cluster)
	b = appendString8(b, m.id)
	b = appendString8(b, m.region)
	return endFrame(b, start, 0)
}

func decodeHello(body []byte) (hello, error) {
	d := decoder{b: body}
	if string(d.bytes(len(magic))) != magic {
		return hello{}, errMalformed
	}
	return hello{
		lowest:   d.uint16(),
		highest:  d.uint16(),
		seed:     d.uint64(),
		maxValue: d.uint32(),
		cluster:  d.string8(),
		id:       d.string8(),
		region:   d.string8(),
	}, d.atLeast()
}

// A welcome is a server's answer to a hello. Later versions may append to it.
type welcome struct {
	version    uint16 // the one spoken from here on
	maxKey     uint16 // the longest key it takes
	maxKeys    uint16 // the most keys in a fetch
	id, region string
	maxCall    uint32         // the largest payload of a call it takes
	instant    expiry.Instant // of the server, as it sent this
	epoch      expiry.Generation
}

func appendWelcome(b []byte, clock expiry.Generation, m welcome) []byte {
	start := len(b)
	b = beginFrame(b, kindWelcome, 0, clock)
	b = binary.BigEndian.AppendUint16(b, m.version)
	b = binary.BigEndian.AppendUint16(b, m.maxKey)
	b = binary.BigEndian.AppendUint16(b, m.maxKeys)
	b = appendString8(b, m.id)
	b = appendString8(b, m.region)
	b = binary.BigEndian.AppendUint32(b, m.maxCall)
	b = appendInstant(b, m.instant)
	b = binary.BigEndian.AppendUint64(b, uint64(m.epoch))
	return endFrame(b, start, 0)
}

func decodeWelcome(body []byte) (welcome, error) {
	d := decoder{b: body}
	return welcome{
		version: d.uint16(),
		maxKey:  d.uint16(),
		maxKeys: d.uint16(),
		id:      d.string8(),
		region:  d.string8(),
		maxCall: d.uint32(),
		instant: d.instant(),
		epoch:   expiry.Generation(d.uint64()),
	}, d.atLeast()
}

// maxText is the length limit of the texts of refusals and failed answers.
const maxText = 1 << 10

func appendRefused(b []byte, clock expiry.Generation, reason Reason, text string) []byte {
	start := len(b)
	b = beginFrame(b, kindRefused, 0, clock)
	b = append(b, byte(reason))
	b = append(b, text[:min(len(text), maxText)]...)
	return endFrame(b, start, 0)
}

func decodeRefused(body []byte) (*RefusedError, error) {
	d := decoder{b: body}
	e := &RefusedError{Reason: Reason(d.uint8()), Remote: true}
	e.Text = string(d.b[:min(len(d.b), maxText)])
	return e, d.atLeast()
}

// fetchPeek is the one flag of a fetch.
const fetchPeek = 1

// A fetch asks for n keys, of which key i has the frame's id + i.
type fetch struct {
	hop     Hop
	peek    bool
	timeout time.Duration // what is left to the asker; zero if without limit
	group   []byte
	n       int
	keys    decoder // n times a key
}

const (
	fetchSize = 1 + 1 + 8 + 1 + 2 // without the group and the keys
	keySize   = 16 + 2            // without the key itself
)

// appendFetch appends a fetch for keys. The caller keeps to the limits.
func appendFetch(b []byte, id uint64, clock expiry.Generation, m fetch, group string, keys []Key) []byte {
	start := len(b)
	b = beginFrame(b, kindFetch, id, clock)
	var flags byte
	if m.peek {
		flags |= fetchPeek
	}
	b = append(b, byte(m.hop), flags)
	b = appendMicros(b, m.timeout)
	b = appendString8(b, group)
	b = binary.BigEndian.AppendUint16(b, uint16(len(keys)))
	for _, k := range keys {
		b = appendStamp(b, k.Floor)
		b = binary.BigEndian.AppendUint16(b, uint16(len(k.Key)))
		b = append(b, k.Key...)
	}
	return endFrame(b, start, 0)
}

// decodeFetch decodes all but the keys, which nextKey does. The result aliases
// body.
func decodeFetch(body []byte) (fetch, error) {
	d := decoder{b: body}
	m := fetch{hop: Hop(d.uint8())}
	flags := d.uint8()
	m.peek = flags&fetchPeek != 0
	m.timeout = d.micros()
	m.group = d.bytes(int(d.uint8()))
	m.n = int(d.uint16())
	if flags&^fetchPeek != 0 || m.n == 0 {
		return m, errMalformed
	}
	m.keys = d
	return m, d.atLeast()
}

// nextKey returns the next key, which aliases the body; after the last one it
// must find nothing left over.
func (m *fetch) nextKey() (floor expiry.Stamp, key []byte, err error) {
	floor = m.keys.stamp()
	key = m.keys.bytes(int(m.keys.uint16()))
	if m.n--; m.n == 0 {
		return floor, key, m.keys.exactly()
	}
	return floor, key, m.keys.atLeast()
}

// A call asks for an answer to a payload.
type call struct {
	method  uint8
	timeout time.Duration  // what is left to the asker; zero if without limit
	instant expiry.Instant // of the server, as the call was sent, or earlier
	payload []byte
}

// callSize is the size of a call's body without the payload.
const callSize = 1 + 8 + 8

// appendCall appends a call, but not its payload, which is to follow.
func appendCall(b []byte, id uint64, clock expiry.Generation, m call) []byte {
	start := len(b)
	b = beginFrame(b, kindCall, id, clock)
	b = append(b, m.method)
	b = appendMicros(b, m.timeout)
	b = appendInstant(b, m.instant)
	return endFrame(b, start, len(m.payload))
}

// decodeCall decodes a call, whose payload aliases body.
func decodeCall(body []byte) (call, error) {
	d := decoder{b: body}
	m := call{method: d.uint8(), timeout: d.micros(), instant: d.instant()}
	m.payload = d.b[:len(d.b):len(d.b)]
	return m, d.atLeast()
}

// The flags of an answer.
const (
	answerStale  = 1
	answerTagged = 2
)

// answerSize is the size of an answer's body without the value.
const answerSize = 1 + 1 + 1 + 16 + 8 + 8 + 8

// appendAnswer appends an answer to a request that was held for so long, but
// not its value, of size bytes, which is to follow.
func appendAnswer(b []byte, id uint64, clock expiry.Generation, ans *Answer, held time.Duration, size int) []byte {
	start := len(b)
	b = beginFrame(b, kindAnswer, id, clock)
	var flags byte
	if ans.Stale {
		flags |= answerStale
	}
	if ans.Tagged {
		flags |= answerTagged
	}
	b = append(b, byte(ans.Code), byte(ans.Source), flags)
	b = appendStamp(b, ans.Stamp)
	b = appendMicros(b, ans.Age)
	b = appendMicros(b, ans.Life)
	b = appendMicros(b, held)
	return endFrame(b, start, size)
}

// decodeAnswer decodes an answer, whose value aliases body.
func decodeAnswer(body []byte) (ans Answer, held time.Duration, err error) {
	d := decoder{b: body}
	ans = Answer{Code: Code(d.uint8()), Source: Source(d.uint8())}
	flags := d.uint8()
	ans.Stale = flags&answerStale != 0
	ans.Tagged = flags&answerTagged != 0
	ans.Stamp = d.stamp()
	ans.Age = d.micros()
	ans.Life = d.micros()
	held = d.micros()
	if flags&^(answerStale|answerTagged) != 0 {
		return ans, held, errMalformed
	}
	if ans.Code.carriesValue() {
		ans.Value = d.b[:len(d.b):len(d.b)]
	} else {
		ans.Text = string(d.b[:min(len(d.b), maxText)])
	}
	return ans, held, d.atLeast()
}

// carriesValue reports whether what follows an answer's header is a value
// rather than a text.
func (c Code) carriesValue() bool { return c <= CodeMiss }

func appendCancel(b []byte, clock expiry.Generation, ids []uint64) []byte {
	start := len(b)
	b = beginFrame(b, kindCancel, 0, clock)
	for _, id := range ids {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	return endFrame(b, start, 0)
}

func decodeCancel(body []byte) ([]uint64, error) {
	if len(body)%8 != 0 {
		return nil, errMalformed
	}
	ids := make([]uint64, len(body)/8)
	for i := range ids {
		ids[i] = binary.BigEndian.Uint64(body[8*i:])
	}
	return ids, nil
}

// appendEmpty appends a frame without a body: a goodbye.
func appendEmpty(b []byte, k kind, id uint64, clock expiry.Generation) []byte {
	start := len(b)
	return endFrame(beginFrame(b, k, id, clock), start, 0)
}

func decodeEmpty(body []byte) error {
	if len(body) != 0 {
		return errMalformed
	}
	return nil
}

// pingSize is the size of a ping's body.
const pingSize = 8

// appendPing appends a ping of a node with this view of its region, or zero.
func appendPing(b []byte, id uint64, clock expiry.Generation, view uint64) []byte {
	start := len(b)
	b = beginFrame(b, kindPing, id, clock)
	b = binary.BigEndian.AppendUint64(b, view)
	return endFrame(b, start, 0)
}

func decodePing(body []byte) (view uint64, err error) {
	d := decoder{b: body}
	view = d.uint64()
	return view, d.exactly()
}

// A pong is what a server answers to a ping.
type pong struct {
	lease   time.Duration  // granted, from when the ping was sent
	others  time.Duration  // for which a lease granted under another view may still run
	instant expiry.Instant // of the server, as it sent this

	standing lease.Standing // what the server takes the client for
	guest    bool           // the server is a guest of its region
}

const (
	pongStanding = 3 // the bits of a pong's flags that are its standing
	pongGuest    = 4
)

func appendPong(b []byte, id uint64, clock expiry.Generation, m pong) []byte {
	start := len(b)
	b = beginFrame(b, kindPong, id, clock)
	b = appendMicros(b, m.lease)
	b = appendMicros(b, m.others+time.Microsecond-1) // rounded up: it is a promise
	b = appendInstant(b, m.instant)
	return endFrame(append(b, m.flags()), start, 0)
}

// flags returns what m says of both nodes, as it travels.
func (m *pong) flags() byte {
	if m.guest {
		return byte(m.standing) | pongGuest
	}
	return byte(m.standing)
}

func decodePong(body []byte) (pong, error) {
	d := decoder{b: body}
	m := pong{lease: d.micros(), others: d.micros(), instant: d.instant()}
	flags := d.uint8()
	m.standing, m.guest = lease.Standing(flags&pongStanding), flags&pongGuest != 0
	if flags != m.flags() || m.standing > lease.Uncounted {
		return m, errMalformed
	}
	return m, d.exactly()
}
