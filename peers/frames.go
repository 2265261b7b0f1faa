package peers

import (
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/lease"
	"github.com/geocache/geocache/internal/wire"
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
	b = wire.AppendUint16(b, m.lowest)
	b = wire.AppendUint16(b, m.highest)
	b = wire.AppendUint64(b, m.seed)
	b = wire.AppendUint32(b, m.maxValue)
	b = wire.AppendString8(b, m.cluster)
	b = wire.AppendString8(b, m.id)
	b = wire.AppendString8(b, m.region)
	return endFrame(b, start, 0)
}

func decodeHello(body []byte) (hello, error) {
	r := wire.NewReader(body)
	if string(r.Bytes(len(magic))) != magic {
		r.Fail("it does not begin with " + magic)
	}
	return hello{
		lowest:   r.Uint16(),
		highest:  r.Uint16(),
		seed:     r.Uint64(),
		maxValue: r.Uint32(),
		cluster:  r.String8(),
		id:       r.String8(),
		region:   r.String8(),
	}, r.Err()
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
	b = wire.AppendUint16(b, m.version)
	b = wire.AppendUint16(b, m.maxKey)
	b = wire.AppendUint16(b, m.maxKeys)
	b = wire.AppendString8(b, m.id)
	b = wire.AppendString8(b, m.region)
	b = wire.AppendUint32(b, m.maxCall)
	b = wire.AppendInstant(b, m.instant)
	b = wire.AppendGeneration(b, m.epoch)
	return endFrame(b, start, 0)
}

func decodeWelcome(body []byte) (welcome, error) {
	r := wire.NewReader(body)
	return welcome{
		version: r.Uint16(),
		maxKey:  r.Uint16(),
		maxKeys: r.Uint16(),
		id:      r.String8(),
		region:  r.String8(),
		maxCall: r.Uint32(),
		instant: r.Instant(),
		epoch:   r.Generation(),
	}, r.Err()
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

func decodeRefused(body []byte) (*refusal, error) {
	r := wire.NewReader(body)
	e := &refusal{Reason: Reason(r.Uint8()), Remote: true}
	e.Text = readText(&r)
	return e, r.Err()
}

// readText returns the text that ends a message. What is beyond the limit is ignored.
func readText(r *wire.Reader) string {
	text := r.Rest()
	return string(text[:min(len(text), maxText)])
}

// A fetch asks for n keys, of which key i has the frame's id + i.
type fetch struct {
	hop     Hop
	peek    bool
	timeout time.Duration // what is left to the asker; zero if without limit
	group   []byte
	n       int
	keys    wire.Reader // n times a key
}

const (
	fetchSize = 1 + 1 + 8 + 1 + 2 // without the group and the keys
	keySize   = 16 + 2            // without the key itself
)

// appendFetch appends a fetch for keys. The caller keeps to the limits.
func appendFetch(b []byte, id uint64, clock expiry.Generation, m fetch, group string, keys []Key) []byte {
	start := len(b)
	b = beginFrame(b, kindFetch, id, clock)
	b = append(b, byte(m.hop))
	b = wire.AppendFlags(b, m.peek)
	b = wire.AppendMicros(b, m.timeout)
	b = wire.AppendString8(b, group)
	b = wire.AppendUint16(b, uint16(len(keys)))
	for _, k := range keys {
		b = wire.AppendStamp(b, k.Floor)
		b = wire.AppendString16(b, k.Key)
	}
	return endFrame(b, start, 0)
}

// decodeFetch decodes all but the keys, which nextKey does. The result aliases
// body.
func decodeFetch(body []byte) (fetch, error) {
	r := wire.NewReader(body)
	m := fetch{hop: Hop(r.Uint8())}
	r.Flags(&m.peek)
	m.timeout = r.Micros()
	m.group = r.Bytes8()
	if m.n = int(r.Uint16()); m.n == 0 {
		r.Fail("it asks for no keys")
	}
	m.keys = r
	return m, r.Err()
}

// nextKey returns the next key, which aliases the body; after the last one it
// must find nothing left over.
func (m *fetch) nextKey() (floor expiry.Stamp, key []byte, err error) {
	floor = m.keys.Stamp()
	key = m.keys.Bytes16()
	if m.n--; m.n == 0 {
		return floor, key, m.keys.End()
	}
	return floor, key, m.keys.Err()
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
	b = wire.AppendMicros(b, m.timeout)
	b = wire.AppendInstant(b, m.instant)
	return endFrame(b, start, len(m.payload))
}

// decodeCall decodes a call, whose payload aliases body.
func decodeCall(body []byte) (call, error) {
	r := wire.NewReader(body)
	m := call{method: r.Uint8(), timeout: r.Micros(), instant: r.Instant(), payload: r.Rest()}
	return m, r.Err()
}

// answerSize is the size of an answer's body without the value.
const answerSize = 1 + 1 + 1 + 16 + 8 + 8 + 8

// appendAnswer appends an answer to a request that was held for so long, but
// not its value, of size bytes, which is to follow.
func appendAnswer(b []byte, id uint64, clock expiry.Generation, ans *Answer, held time.Duration, size int) []byte {
	start := len(b)
	b = beginFrame(b, kindAnswer, id, clock)
	b = append(b, byte(ans.Code), byte(ans.Source))
	b = wire.AppendFlags(b, ans.Stale, ans.Tagged, ans.Unconfirmed, ans.SinceClear)
	b = wire.AppendStamp(b, ans.Stamp)
	b = wire.AppendMicros(b, ans.Age)
	b = wire.AppendMicros(b, ans.Life)
	b = wire.AppendMicros(b, held)
	return endFrame(b, start, size)
}

// decodeAnswer decodes an answer, whose value aliases body.
func decodeAnswer(body []byte) (ans Answer, held time.Duration, err error) {
	r := wire.NewReader(body)
	ans = Answer{Code: Code(r.Uint8()), Source: Source(r.Uint8())}
	r.Flags(&ans.Stale, &ans.Tagged, &ans.Unconfirmed, &ans.SinceClear)
	ans.Stamp = r.Stamp()
	ans.Age = r.Micros()
	ans.Life = r.Micros()
	held = r.Micros()
	if ans.Code.carriesValue() {
		ans.Value = r.Rest()
	} else {
		ans.Text = readText(&r)
	}
	return ans, held, r.Err()
}

// carriesValue reports whether what follows an answer's header is a value
// rather than a text.
func (c Code) carriesValue() bool { return c <= CodeMiss }

func appendCancel(b []byte, clock expiry.Generation, ids []uint64) []byte {
	start := len(b)
	b = beginFrame(b, kindCancel, 0, clock)
	for _, id := range ids {
		b = wire.AppendUint64(b, id)
	}
	return endFrame(b, start, 0)
}

func decodeCancel(body []byte) ([]uint64, error) {
	r := wire.NewReader(body)
	ids := make([]uint64, len(body)/8)
	for i := range ids {
		ids[i] = r.Uint64()
	}
	return ids, r.End()
}

func appendGoodbye(b []byte, clock expiry.Generation) []byte {
	start := len(b)
	return endFrame(beginFrame(b, kindGoodbye, 0, clock), start, 0)
}

func decodeGoodbye(body []byte) error {
	r := wire.NewReader(body)
	return r.End()
}

// pingSize is the size of a ping's body.
const pingSize = 8

// appendPing appends a ping of a node with this view of its region, or zero.
func appendPing(b []byte, id uint64, clock expiry.Generation, view uint64) []byte {
	start := len(b)
	b = beginFrame(b, kindPing, id, clock)
	b = wire.AppendUint64(b, view)
	return endFrame(b, start, 0)
}

func decodePing(body []byte) (view uint64, err error) {
	r := wire.NewReader(body)
	view = r.Uint64()
	return view, r.End()
}

// A pong is what a server answers to a ping.
type pong struct {
	lease   time.Duration  // granted, from when the ping was sent
	others  time.Duration  // for which a lease granted under another view may still run
	instant expiry.Instant // of the server, as it sent this

	standing lease.Standing // what the server takes the client for
	guest    bool           // the server is a guest of its region
	minority bool           // it sees no majority of its region
}

const (
	pongStanding = 3 // the bits of a pong's flags that are its standing
	pongGuest    = 4
	pongMinority = 8
)

func appendPong(b []byte, id uint64, clock expiry.Generation, m pong) []byte {
	start := len(b)
	b = beginFrame(b, kindPong, id, clock)
	b = wire.AppendMicros(b, m.lease)
	b = wire.AppendMicrosUp(b, m.others) // it is a promise
	b = wire.AppendInstant(b, m.instant)
	return endFrame(append(b, m.flags()), start, 0)
}

// flags returns what m says of both nodes, as it travels.
func (m *pong) flags() byte {
	flags := byte(m.standing)
	if m.guest {
		flags |= pongGuest
	}
	if m.minority {
		flags |= pongMinority
	}
	return flags
}

func decodePong(body []byte) (pong, error) {
	r := wire.NewReader(body)
	m := pong{lease: r.Micros(), others: r.Micros(), instant: r.Instant()}
	flags := r.Uint8()
	m.standing, m.guest = lease.Standing(flags&pongStanding), flags&pongGuest != 0
	m.minority = flags&pongMinority != 0
	if flags != m.flags() || m.standing > lease.Uncounted {
		r.Fail("a flag has no meaning")
	}
	return m, r.End()
}
