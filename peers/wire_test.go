package peers

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/geocache/geocache/expiry"
)

// One message of every type, whose encodings are in testdata/frames.txt.
var (
	someHello   = hello{lowest: 1, highest: 3, seed: 0x0123456789abcdef, maxValue: 64 << 20, cluster: "shop", id: "eu-1", region: "eu"}
	someWelcome = welcome{version: 1, maxKey: 4096, maxKeys: 1024, id: "us-1", region: "us", maxCall: 65 << 20, instant: 5e9, epoch: 10 << 12}
	someFetch   = fetch{hop: HopRegion, peek: true, timeout: 250 * time.Millisecond}
	someKeys    = []Key{{Key: "ada", Floor: expiry.Stamp{Generation: 7 << 12, Origin: 11}}, {Key: ""}, {Key: "grace", Floor: expiry.Removal(1)}}
	someCall    = call{method: 3, timeout: 250 * time.Millisecond, instant: 7e9, payload: []byte("payload")}
	somePong    = pong{lease: time.Second, others: 750 * time.Millisecond, instant: 8e9, standing: Uncounted, guest: true}
	someAnswer  = Answer{Code: CodeOK, Source: SourceGetter, Stale: true, Stamp: expiry.Stamp{Generation: 9 << 12, Origin: 12}, Age: 3 * time.Second, Life: 2 * time.Second, Value: []byte("value")}
	someFailure = Answer{Code: CodeFailed, Text: "no database"}
)

const someClock expiry.Generation = 0x0006_4400_0000_1001

// frames returns the frames of the golden file as this version encodes them.
func frames() map[string][]byte {
	return map[string][]byte{
		"hello":    appendHello(nil, someClock, someHello),
		"welcome":  appendWelcome(nil, someClock, someWelcome),
		"refused":  appendRefused(nil, someClock, ReasonClock, "too far ahead"),
		"fetch":    appendFetch(nil, 300, someClock, someFetch, "profiles", someKeys),
		"answer":   append(appendAnswer(nil, 302, someClock, &someAnswer, time.Millisecond, len(someAnswer.Value)), someAnswer.Value...),
		"notfound": appendAnswer(nil, 303, someClock, &Answer{Code: CodeNotFound, Source: SourceStore, Stamp: expiry.Loaded(5), Age: time.Second, Life: time.Minute}, 0, 0),
		"failed":   append(appendAnswer(nil, 304, someClock, &someFailure, 0, len(someFailure.Text)), someFailure.Text...),
		"cancel":   appendCancel(nil, someClock, []uint64{300, 301}),
		"ping":     appendPing(nil, 12, someClock, 0xfedcba9876543210),
		"pong":     appendPong(nil, 12, someClock, somePong),
		"goodbye":  appendGoodbye(nil, someClock),
		"call":     append(appendCall(nil, 305, someClock, someCall), someCall.payload...),
	}
}

// TestGoldenFrames holds the encoding to what was once released: a change here
// is a change of the protocol, and needs a new version.
func TestGoldenFrames(t *testing.T) {
	golden := readGolden(t)
	encoded := frames()
	require.Len(t, golden, len(encoded))
	for name, frame := range encoded {
		require.Equal(t, hex.EncodeToString(golden[name]), hex.EncodeToString(frame), name)
	}
}

func TestGoldenFramesDecode(t *testing.T) {
	golden := readGolden(t)
	body := func(name string, want kind, id uint64) []byte {
		h, err := parseHeader(golden[name])
		require.NoError(t, err, name)
		require.Equal(t, header{kind: want, size: len(golden[name]) - headerSize, id: id, clock: someClock}, h, name)
		return golden[name][headerSize:]
	}

	m, err := decodeHello(body("hello", kindHello, 0))
	require.NoError(t, err)
	require.Equal(t, someHello, m)

	w, err := decodeWelcome(body("welcome", kindWelcome, 0))
	require.NoError(t, err)
	require.Equal(t, someWelcome, w)

	refused, err := decodeRefused(body("refused", kindRefused, 0))
	require.NoError(t, err)
	require.Equal(t, &refusal{Reason: ReasonClock, Remote: true, Text: "too far ahead"}, refused)

	f, err := decodeFetch(body("fetch", kindFetch, 300))
	require.NoError(t, err)
	require.Equal(t, someFetch.hop, f.hop)
	require.Equal(t, someFetch.peek, f.peek)
	require.Equal(t, someFetch.timeout, f.timeout)
	require.Equal(t, "profiles", string(f.group))
	require.Equal(t, someKeys, allKeys(t, &f))

	ans, held, err := decodeAnswer(body("answer", kindAnswer, 302))
	require.NoError(t, err)
	require.Equal(t, time.Millisecond, held)
	require.Equal(t, someAnswer, ans)
	ans, _, err = decodeAnswer(body("notfound", kindAnswer, 303))
	require.NoError(t, err)
	require.Equal(t, CodeNotFound, ans.Code)
	require.Equal(t, time.Minute, ans.Life)
	ans, _, err = decodeAnswer(body("failed", kindAnswer, 304))
	require.NoError(t, err)
	require.Equal(t, someFailure, ans)

	ids, err := decodeCancel(body("cancel", kindCancel, 0))
	require.NoError(t, err)
	require.Equal(t, []uint64{300, 301}, ids)

	view, err := decodePing(body("ping", kindPing, 12))
	require.NoError(t, err)
	require.EqualValues(t, uint64(0xfedcba9876543210), view)
	po, err := decodePong(body("pong", kindPong, 12))
	require.NoError(t, err)
	require.Equal(t, somePong, po)
	ca, err := decodeCall(body("call", kindCall, 305))
	require.NoError(t, err)
	require.Equal(t, someCall, ca)
	require.NoError(t, decodeGoodbye(body("goodbye", kindGoodbye, 0)))
}

// TestGrownHandshake: a later version may append to hello and welcome, and only
// to those.
func TestGrownHandshake(t *testing.T) {
	golden := readGolden(t)
	grown := func(name string) []byte { return append(bytes.Clone(golden[name][headerSize:]), "new"...) }

	m, err := decodeHello(grown("hello"))
	require.NoError(t, err)
	require.Equal(t, someHello, m)
	w, err := decodeWelcome(grown("welcome"))
	require.NoError(t, err)
	require.Equal(t, someWelcome, w)

	_, err = decodeCancel(grown("cancel"))
	require.Error(t, err)
	_, err = decodePong(grown("pong"))
	require.Error(t, err)
	_, err = decodePing(grown("ping"))
	require.Error(t, err)
	require.Error(t, decodeGoodbye(grown("goodbye")))
	f, err := decodeFetch(grown("fetch"))
	require.NoError(t, err)
	for f.n > 1 {
		_, _, err = f.nextKey()
		require.NoError(t, err)
	}
	_, _, err = f.nextKey()
	require.Error(t, err)
}

// TestNumbers pins the numbers that the package documentation lists.
func TestNumbers(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	text := strings.Join(strings.Fields(strings.ReplaceAll(string(doc), "//", " ")), " ")
	documented := func(s string) { require.True(t, strings.Contains(text, s), "%q is not in doc.go", s) }
	documented("Code " + list(0, 11, func(i int) string { return Code(i).String() }))
	documented("Reason " + list(1, 15, func(i int) string { return Reason(i).String() }))
	require.Len(t, codeNames, 13)
	require.Len(t, reasonNames, 15)
	require.Equal(t, "code 12", Code(12).String())
	for k := kindHello; k <= kindCall; k++ {
		name := k.String()
		documented(fmt.Sprintf("%d %s", k, strings.ToUpper(name[:1])+name[1:]))
	}
}

func list(from, to int, name func(int) string) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		if i > from {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d %s", i, name(i))
	}
	return b.String()
}

func readGolden(t testing.TB) map[string][]byte {
	file, err := os.Open("testdata/frames.txt")
	require.NoError(t, err)
	defer file.Close()
	golden := make(map[string][]byte)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, digits, ok := strings.Cut(lines.Text(), " ")
		if !ok || name == "#" {
			continue
		}
		frame, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
		require.NoError(t, err)
		golden[name] = frame
	}
	return golden
}

func allKeys(t require.TestingT, f *fetch) (keys []Key) {
	for f.n > 0 {
		floor, key, err := f.nextKey()
		require.NoError(t, err)
		keys = append(keys, Key{Key: string(key), Floor: floor})
	}
	return keys
}

func name8() *rapid.Generator[string] { return rapid.StringN(0, 60, maxName) }

func micros() *rapid.Generator[time.Duration] {
	return rapid.Map(rapid.Int64Range(0, int64(1000*time.Hour/time.Microsecond)), func(us int64) time.Duration {
		return time.Duration(us) * time.Microsecond
	})
}

// TestRoundTrip: what is decoded is what was encoded.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		clock := expiry.Generation(rapid.Uint64().Draw(t, "clock"))
		id := rapid.Uint64().Draw(t, "id")
		prefix := rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "prefix") // a frame need not be the first of a batch
		body := func(frame []byte, want kind) []byte {
			require.Equal(t, prefix, frame[:len(prefix)])
			h, err := parseHeader(frame[len(prefix):])
			require.NoError(t, err)
			require.Equal(t, want, h.kind)
			require.Equal(t, clock, h.clock)
			require.Equal(t, len(frame)-len(prefix)-headerSize, h.size)
			return frame[len(prefix)+headerSize:]
		}
		start := func() []byte { return append([]byte{}, prefix...) }

		hi := hello{
			lowest: rapid.Uint16().Draw(t, "lowest"), highest: rapid.Uint16().Draw(t, "highest"),
			seed: rapid.Uint64().Draw(t, "seed"), maxValue: rapid.Uint32().Draw(t, "max value"),
			cluster: name8().Draw(t, "cluster"), id: name8().Draw(t, "node"), region: name8().Draw(t, "region"),
		}
		hi2, err := decodeHello(body(appendHello(start(), clock, hi), kindHello))
		require.NoError(t, err)
		require.Equal(t, hi, hi2)

		f := fetch{hop: Hop(rapid.Byte().Draw(t, "hop")), peek: rapid.Bool().Draw(t, "peek"), timeout: micros().Draw(t, "timeout")}
		group := name8().Draw(t, "group")
		keys := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Key {
			return Key{Key: rapid.String().Draw(t, "key"), Floor: drawStamp(t, "floor")}
		}), 1, 20).Draw(t, "keys")
		f2, err := decodeFetch(body(appendFetch(start(), id, clock, f, group, keys), kindFetch))
		require.NoError(t, err)
		require.Equal(t, group, string(f2.group))
		require.Equal(t, []any{f.hop, f.peek, f.timeout}, []any{f2.hop, f2.peek, f2.timeout})
		require.Equal(t, keys, allKeys(t, &f2))

		ca := call{
			method: rapid.Uint8().Draw(t, "method"), timeout: micros().Draw(t, "time left"),
			instant: drawInstant(t), payload: rapid.SliceOf(rapid.Byte()).Draw(t, "payload"),
		}
		ca2, err := decodeCall(body(append(appendCall(start(), id, clock, ca), ca.payload...), kindCall))
		require.NoError(t, err)
		require.True(t, bytes.Equal(ca.payload, ca2.payload))
		ca.payload, ca2.payload = nil, nil
		require.Equal(t, ca, ca2)

		// What others may do is promised, so it is rounded up.
		po := pong{lease: micros().Draw(t, "lease"), others: micros().Draw(t, "others"), instant: drawInstant(t),
			standing: Standing(rapid.IntRange(0, 2).Draw(t, "standing")), guest: rapid.Bool().Draw(t, "guest")}
		sent := po
		sent.others -= min(time.Duration(rapid.IntRange(0, 999).Draw(t, "below")), po.others)
		po2, err := decodePong(body(appendPong(start(), id, clock, sent), kindPong))
		require.NoError(t, err)
		require.Equal(t, po, po2)

		ans := Answer{
			Code: Code(rapid.IntRange(0, 2).Draw(t, "code")), Source: Source(rapid.Byte().Draw(t, "source")),
			Stale: rapid.Bool().Draw(t, "stale"), Stamp: drawStamp(t, "stamp"),
			Age: micros().Draw(t, "age"), Life: micros().Draw(t, "life"),
			Value: rapid.SliceOf(rapid.Byte()).Draw(t, "value"),
		}
		held := micros().Draw(t, "held")
		ans2, held2, err := decodeAnswer(body(append(appendAnswer(start(), id, clock, &ans, held, len(ans.Value)), ans.Value...), kindAnswer))
		require.NoError(t, err)
		require.Equal(t, held, held2)
		require.True(t, bytes.Equal(ans.Value, ans2.Value))
		ans.Value, ans2.Value = nil, nil
		require.Equal(t, ans, ans2)
	})
}

// FuzzFrames gives arbitrary bodies to every decoder. None may panic, and what
// one takes must be encoded as it came.
func FuzzFrames(f *testing.F) {
	for _, frame := range readGolden(f) {
		f.Add(frame[4], frame[headerSize:])
		f.Add(frame[4], frame[headerSize:len(frame)-min(1, len(frame)-headerSize)])
	}
	f.Fuzz(func(t *testing.T, k byte, body []byte) {
		var again []byte
		appended := 0 // ignored bytes at the end
		switch kind(k) {
		case kindHello:
			m, err := decodeHello(body)
			if err != nil {
				return
			}
			again = appendHello(nil, 0, m)
			appended = len(body) + headerSize - len(again)
		case kindWelcome:
			m, err := decodeWelcome(body)
			if err != nil {
				return
			}
			again = appendWelcome(nil, 0, m)
			appended = len(body) + headerSize - len(again)
		case kindRefused:
			m, err := decodeRefused(body)
			if err != nil {
				return
			}
			again = appendRefused(nil, 0, m.Reason, m.Text)
			appended = max(len(body)-1-maxText, 0)
		case kindFetch:
			m, err := decodeFetch(body)
			if err != nil {
				return
			}
			head := m
			var keys []Key
			for m.n > 0 {
				floor, key, err := m.nextKey()
				if err != nil {
					return
				}
				keys = append(keys, Key{Key: string(key), Floor: floor})
			}
			again = appendFetch(nil, 0, 0, head, string(head.group), keys)
		case kindAnswer:
			m, held, err := decodeAnswer(body)
			if err != nil {
				return
			}
			rest := append(m.Value, m.Text...)
			again = append(appendAnswer(nil, 0, 0, &m, held, len(rest)), rest...)
			if m.Text != "" {
				appended = max(len(body)-answerSize-maxText, 0)
			}
		case kindCancel:
			ids, err := decodeCancel(body)
			if err != nil {
				return
			}
			again = appendCancel(nil, 0, ids)
		case kindPong:
			m, err := decodePong(body)
			if err != nil {
				return
			}
			again = appendPong(nil, 0, 0, m)
		case kindPing:
			view, err := decodePing(body)
			if err != nil {
				return
			}
			again = appendPing(nil, 0, 0, view)
		case kindCall:
			m, err := decodeCall(body)
			if err != nil {
				return
			}
			again = append(appendCall(nil, 0, 0, m), m.payload...)
		default:
			if decodeGoodbye(body) == nil {
				require.Empty(t, body)
			}
			return
		}
		require.Equal(t, body[:len(body)-appended], again[headerSize:])
	})
}

// FuzzStream gives an arbitrary stream to a server, in pieces of every size.
func FuzzStream(f *testing.F) {
	golden := readGolden(f)
	f.Add(bytes.Join([][]byte{golden["fetch"], golden["ping"], golden["call"], golden["cancel"]}, nil), uint8(3))
	f.Add(golden["hello"], uint8(200))
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8) {
		r := reader{conn: &stringConn{data: stream, piece: int(piece) + 1}, traffic: new(traffic), accept: acceptRequests(&Limits{MaxValue: 64 << 20}), frame: time.Hour}
		r.setIdle(time.Hour)
		read := 0
		for {
			h, body, _, err := r.next()
			if err != nil {
				return
			}
			require.Len(t, body, h.size)
			require.True(t, bytes.Equal(stream[read+headerSize:read+headerSize+h.size], body))
			read += headerSize + h.size
		}
	})
}

func drawInstant(t *rapid.T) expiry.Instant {
	return expiry.Instant(rapid.Int64Range(0, math.MaxInt64).Draw(t, "instant"))
}

func drawStamp(t *rapid.T, label string) expiry.Stamp {
	return expiry.Stamp{
		Generation: expiry.Generation(rapid.Uint64().Draw(t, label+"'s generation")),
		Origin:     rapid.Uint64().Draw(t, label+"'s origin"),
	}
}
