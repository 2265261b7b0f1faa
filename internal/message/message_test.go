package message

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/wire"
)

// maxMicros is the longest time that a time.Duration can hold, in microseconds.
const maxMicros = math.MaxInt64 / uint64(time.Microsecond)

// A message is any type that has an encoding.
type message interface{ Append(b []byte) []byte }

// decoders has the decoder of each type, under its name in the golden file.
var decoders = map[string]func(b []byte) (message, error){
	"broadcast":      of(DecodeBroadcast),
	"push":           of(DecodePush),
	"pushreply":      of(DecodePushReply),
	"writerequest":   of(DecodeWriteRequest),
	"writereply":     of(DecodeWriteReply),
	"awaitrequest":   of(DecodeAwaitRequest),
	"journalrequest": of(DecodeJournalRequest),
	"floors":         of(DecodeFloors),
	"comparerequest": of(DecodeCompareRequest),
	"flushed":        of(DecodeFlushed),

	"membersrequest": of(DecodeMembersRequest),
	"membersreply":   of(DecodeMembersReply),
	"recallrequest":  of(DecodeRecallRequest),
	"recallreply":    of(DecodeRecallReply),
}

func of[M message](decode func([]byte) (M, error)) func([]byte) (message, error) {
	return func(b []byte) (message, error) {
		m, err := decode(b)
		return m, err
	}
}

// One message of every type, whose encodings are in testdata/messages.txt.
var (
	someStamp = expiry.Stamp{Generation: 0x0006_4400_0000_1001, Origin: 0x0123456789abcdef}
	someNotes = []Write{
		{Group: "users", Key: "ada", Stamp: someStamp, Dirty: true, HasValue: true, Value: []byte("value"), Age: 3 * time.Millisecond, Life: time.Minute},
		{Group: "users", Key: "grace", Stamp: expiry.Removal(7)},
		{Group: "users", Key: someScope, Scope: true, Stamp: expiry.Removal(11)},
		{Group: "", Key: "", Stamp: expiry.Loaded(8), HasValue: true, Value: []byte{}, Life: time.Second},
		{Group: "users", Clear: true, Stamp: expiry.Removal(9)},
		{Group: "users", Clear: true, Collapsed: true, Stamp: expiry.Removal(10)},
	}
	someScope    = string(expiry.Tag("red"))
	someFloors   = []Floor{{Key: "ada", Stamp: someStamp, Sender: 13}, {Key: "", Stamp: expiry.Removal(7)}, {Key: someScope, Scope: true, Stamp: expiry.Removal(11)}}
	someMessages = map[string]message{
		"broadcast": Broadcast{Sender: 13, Writes: someNotes},
		"push":      Push{Epoch: 5 << 12, Number: 300, Low: 298, Writes: someNotes[1:2]},
		"pushreply": PushReply{Have: 299},
		"writerequest": WriteRequest{Group: "users", Key: "ada", Op: Swap, ID: 11, First: 7 << 12, Expected: someStamp, Regions: 12, Absent: true, AckOwner: true,
			Life: time.Minute, Value: []byte("value"), Age: 3 * time.Second, Tags: []string{"red", "blue"}},
		"writereply":     WriteReply{Stamp: someStamp, Swapped: true, Unconfirmed: true},
		"awaitrequest":   AwaitRequest{Group: "users", Key: someScope, Scope: true, Region: "eu"},
		"journalrequest": JournalRequest{Group: "users", Since: 5 << 12, Cursor: 12},
		"floors":         Floors{Cleared: 5 << 12, ClearedBy: 14, Group: 6 << 12, Keys: someFloors, Next: 14, More: true},
		"comparerequest": CompareRequest{Group: "users", From: 5 << 12, Width: time.Second, Digests: []uint64{1, 0, math.MaxUint64}},
		"flushed":        Flushed{Group: "users", Keys: someFloors},
		"membersrequest": MembersRequest{Known: 300},
		"membersreply": MembersReply{Established: true, For: time.Second,
			Nodes: []Node{{ID: "eu-1", Region: "eu", Address: "10.0.3.7:7946", Weight: 1.5}}},
		"recallrequest": RecallRequest{Group: "users", Key: "ada", Regions: 301},
		"recallreply":   RecallReply{Agrees: true, Write: someNotes[0]},
	}
)

// TestGolden holds the encoding to what was once released: a change here is a
// change of the protocol, and needs a new version.
func TestGolden(t *testing.T) {
	golden := readGolden(t)
	require.Len(t, golden, len(decoders))
	require.Len(t, someMessages, len(decoders))
	for name, m := range someMessages {
		require.Equal(t, hex.EncodeToString(golden[name]), hex.EncodeToString(m.Append(nil)), name)
		decoded, err := decoders[name](golden[name])
		require.NoError(t, err, name)
		require.Equal(t, m, decoded, name)
	}
}

// TestMethods pins the numbers, which are part of the wire format.
func TestMethods(t *testing.T) {
	require.Equal(t, []Method{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, []Method{MethodWrite, MethodBroadcast, MethodPush, MethodAwait,
		MethodJournal, MethodCompare, MethodFlushed, MethodHandoff, MethodMembers, MethodRecall})
}

// TestTaggedWithoutAValue: a note that would be refused would be sent again and again, and what is
// beside it would not arrive.
func TestTaggedWithoutAValue(t *testing.T) {
	m, err := DecodePush(Push{Writes: []Write{{Group: "g", Key: "k", Tagged: true}}}.Append(nil))
	require.NoError(t, err)
	require.Equal(t, []Write{{Group: "g", Key: "k"}}, m.Writes)
}

// TestNotWhole: each message cut anywhere, or with something left over, is
// malformed, and the error says which it is.
func TestNotWhole(t *testing.T) {
	for name, m := range someMessages {
		encoded := m.Append(nil)
		for n := range encoded {
			cut, err := decoders[name](encoded[:n])
			require.ErrorIs(t, err, wire.ErrMalformed, "%s of %d bytes", name, n)
			require.Zero(t, cut, "%s of %d bytes", name, n)
			require.Contains(t, strings.ToLower(err.Error()), "message."+name)
		}
		_, err := decoders[name](append(encoded, 0))
		require.ErrorIs(t, err, wire.ErrMalformed, name)
	}
}

// TestLongNames: keys, and what scopes are named after, have a longest, whatever message they are in.
func TestLongNames(t *testing.T) {
	for _, n := range []int{0, 1, MaxKey - 2, MaxKey - 1, MaxKey, MaxKey + 1, MaxKey + 2, math.MaxUint16 - 2} {
		key := strings.Repeat("\xff", n)
		prefix := string(expiry.Prefix(key))
		for what, m := range map[string]message{
			"a note's key":             Broadcast{Writes: []Write{{Key: key}}},
			"a note's prefix":          Push{Writes: []Write{{Key: prefix, Scope: true, Stamp: expiry.Removal(1)}}},
			"a write's key":            WriteRequest{Op: Set, Key: key},
			"a write's prefix":         WriteRequest{Op: RemoveScope, Key: prefix},
			"one of the keys":          WriteRequest{Op: RemoveKeys, Keys: []string{"a", key, "b"}},
			"an await's key":           AwaitRequest{Key: key},
			"an await's prefix":        AwaitRequest{Key: prefix, Scope: true},
			"a floor's key":            Flushed{Keys: []Floor{{Key: key}}},
			"a floor's prefix":         Floors{Keys: []Floor{{Key: prefix, Scope: true}}},
			"a recall's key":           RecallRequest{Key: key},
			"the key of what is there": RecallReply{Agrees: true, Write: Write{Key: key}},
		} {
			name := strings.ToLower(fmt.Sprintf("%T", m)[len("message."):])
			_, err := decoders[name](m.Append(nil))
			if n <= MaxKey {
				require.NoError(t, err, "%s of %d bytes", what, n)
			} else {
				require.ErrorIs(t, err, wire.ErrMalformed, "%s of %d bytes", what, n)
			}
		}
	}
	_, err := DecodeWriteRequest(WriteRequest{Op: Swap, Tags: make([]string, maxTags)}.Append(nil))
	require.NoError(t, err)
	_, err = DecodeWriteRequest(WriteRequest{Op: Swap, Tags: make([]string, maxTags+1)}.Append(nil))
	require.ErrorIs(t, err, wire.ErrMalformed)
}

// writeHead is the size of a Write without a group and a key, up to the value.
const writeHead = 1 + 1 + 1 + 2 + 8 + 8 + 16 + 8 + 8

// noteAt is where the first note of a Tell is.
const noteAt = 8 + 4

// TestMalformed: what no encoder writes.
func TestMalformed(t *testing.T) {
	tell := func(change func(w *Write)) []byte {
		w := Write{Group: "g", Clear: true, Stamp: expiry.Removal(1)}
		change(&w)
		return Broadcast{Writes: []Write{w}}.Append(nil)
	}
	at := func(b []byte, i int, v byte) []byte {
		b[i] = v
		return b
	}
	_, err := DecodeBroadcast(tell(func(*Write) {}))
	require.NoError(t, err)
	for what, m := range map[string]struct {
		name    string
		encoded []byte
	}{
		"a flag that a note does not have":        {"broadcast", at(tell(func(*Write) {}), noteAt, 1|1<<6)},
		"a flag that a write does not have":       {"writerequest", at(WriteRequest{Op: Set}.Append(nil), 1, 1<<5)},
		"a flag that a wrote does not have":       {"writereply", at(WriteReply{}.Append(nil), 0, 1<<7)},
		"a flag that floors do not have":          {"floors", at(Floors{}.Append(nil), 0, 1<<7)},
		"a flag that a floor does not have":       {"flushed", at(Flushed{Keys: []Floor{{}}}.Append(nil), 5, 1<<1)},
		"a flag that an await does not have":      {"awaitrequest", at(AwaitRequest{}.Append(nil), 0, 1<<1)},
		"a note of a scope that is none":          {"broadcast", tell(func(w *Write) { w.Clear, w.Scope, w.Key = false, true, "\xffk" })},
		"a floor of a scope that is none":         {"flushed", Flushed{Keys: []Floor{{Key: "\xff", Scope: true}}}.Append(nil)},
		"an await of a scope that is none":        {"awaitrequest", AwaitRequest{Key: "k", Scope: true}.Append(nil)},
		"a removal of a scope that is none":       {"writerequest", WriteRequest{Op: RemoveScope, Key: "k"}.Append(nil)},
		"a clear of a scope":                      {"broadcast", tell(func(w *Write) { w.Scope = true })},
		"a scope with a value":                    {"broadcast", tell(func(w *Write) { w.Clear, w.Scope, w.Key, w.HasValue = false, true, someScope, true })},
		"a scope that the origin is to have":      {"broadcast", tell(func(w *Write) { w.Clear, w.Scope, w.Key, w.Dirty = false, true, someScope, true })},
		"a clear of a key":                        {"broadcast", tell(func(w *Write) { w.Key = "k" })},
		"a clear with a value":                    {"broadcast", tell(func(w *Write) { w.HasValue = true })},
		"a clear that is no removal":              {"broadcast", tell(func(w *Write) { w.Stamp.Origin-- })},
		"a key's floor that is folded":            {"broadcast", tell(func(w *Write) { w.Clear, w.Collapsed = false, true })},
		"no op":                                   {"writerequest", WriteRequest{}.Append(nil)},
		"an op that there is not":                 {"writerequest", WriteRequest{Op: RemoveKeys + 1}.Append(nil)},
		"slices without width":                    {"comparerequest", CompareRequest{Width: time.Nanosecond}.Append(nil)},
		"a time that is longer than can be told":  {"comparerequest", append(binary.BigEndian.AppendUint64(make([]byte, 1+8), maxMicros+1), 0, 0, 0, 0)},
		"more notes than bytes":                   {"broadcast", at(Broadcast{}.Append(nil), 8, 255)},
		"tags without a value":                    {"broadcast", at(tell(func(*Write) {}), noteAt, 1|1<<4)},
		"more keys than bytes":                    {"writerequest", append(WriteRequest{Op: RemoveKeys}.Append(nil)[:writeHead+4], 255, 0, 0, 0)},
		"more tags than bytes":                    {"writerequest", append(WriteRequest{Op: Swap}.Append(nil)[:writeHead+4+8], 255, 0, 0, 0)},
		"more floors than bytes":                  {"flushed", at(Flushed{}.Append(nil), 1, 255)},
		"more digests than bytes":                 {"comparerequest", at(CompareRequest{Width: time.Second}.Append(nil), 17, 255)},
		"a value that is longer than the message": {"writerequest", at(WriteRequest{Op: Set}.Append(nil), writeHead, 255)},
	} {
		_, err := decoders[m.name](m.encoded)
		require.ErrorIs(t, err, wire.ErrMalformed, what)
	}
}

// TestCountsTakeNoMemory: who says that more is to come than there is gets
// nothing allocated for it.
func TestCountsTakeNoMemory(t *testing.T) {
	huge := bytes.Repeat([]byte{0xff}, 64)
	for name, decode := range decoders {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		decode(huge)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20), name)
	}
}

// TestDecodedIsACopy: the bytes may be those of a buffer that is read into again.
func TestDecodedIsACopy(t *testing.T) {
	for name, m := range someMessages {
		encoded := m.Append(nil)
		decoded, err := decoders[name](encoded)
		require.NoError(t, err)
		for i := range encoded {
			encoded[i] = '#'
		}
		require.Equal(t, m, decoded, name)
	}
}

// TestTimesAreRounded: an age up, a life down, neither below zero.
func TestTimesAreRounded(t *testing.T) {
	rounded := func(age, life time.Duration) []time.Duration {
		m, err := DecodeBroadcast(Broadcast{Writes: []Write{{HasValue: true, Age: age, Life: life}}}.Append(nil))
		require.NoError(t, err)
		return []time.Duration{m.Writes[0].Age, m.Writes[0].Life}
	}
	const us = time.Microsecond
	require.Equal(t, []time.Duration{2 * us, us}, rounded(us+1, 2*us-1))
	require.Equal(t, []time.Duration{2 * us, 2 * us}, rounded(2*us, 2*us))
	require.Equal(t, []time.Duration{0, 0}, rounded(-time.Second, -time.Second))
	longest := time.Duration(maxMicros) * us
	require.Equal(t, []time.Duration{longest, longest}, rounded(math.MaxInt64, math.MaxInt64))

	req, err := DecodeWriteRequest(WriteRequest{Op: Set, Life: 1}.Append(nil))
	require.NoError(t, err)
	require.Equal(t, us, req.Life, "0 would be none")
}

func drawStamp() *rapid.Generator[expiry.Stamp] {
	return rapid.Custom(func(t *rapid.T) expiry.Stamp {
		return expiry.Stamp{
			Generation: expiry.Generation(rapid.Uint64().Draw(t, "generation")),
			Origin:     rapid.OneOf(rapid.Uint64(), rapid.SampledFrom([]uint64{0, math.MaxUint64})).Draw(t, "origin"),
		}
	})
}

func drawMicros() *rapid.Generator[time.Duration] {
	return rapid.Map(rapid.Uint64Range(0, maxMicros), func(us uint64) time.Duration {
		return time.Duration(us) * time.Microsecond
	})
}

// TestRemoveKeysRoundTrip: the one write that has more than one key.
func TestRemoveKeysRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := WriteRequest{Op: RemoveKeys, Group: "g", Key: "first", Value: []byte{}, Keys: rapid.SliceOfN(rapid.String(), 1, 20).Draw(t, "keys")}
		decoded, err := DecodeWriteRequest(m.Append(nil))
		require.NoError(t, err)
		require.Equal(t, m, decoded)
	})
}

// TestSwapRoundTrip: what a Swap alone has.
func TestSwapRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := WriteRequest{Op: Swap, Group: "g", Key: "k", Value: []byte{}, Age: drawMicros().Draw(t, "age"),
			Tags: rapid.SliceOfN(rapid.StringN(0, 60, 255), 1, 20).Draw(t, "tags")}
		decoded, err := DecodeWriteRequest(m.Append(nil))
		require.NoError(t, err)
		require.Equal(t, m, decoded)
	})
	req, err := DecodeWriteRequest(WriteRequest{Op: Swap, Age: 1}.Append(nil))
	require.NoError(t, err)
	require.Equal(t, time.Microsecond, req.Age, "taken for older than it is")
}

func drawValue() *rapid.Generator[[]byte] {
	return rapid.Map(rapid.SliceOf(rapid.Byte()), func(v []byte) []byte { return append([]byte{}, v...) })
}

func drawNote() *rapid.Generator[Write] {
	return rapid.Custom(func(t *rapid.T) Write {
		w := Write{Group: rapid.StringN(0, 60, 255).Draw(t, "group"), Dirty: rapid.Bool().Draw(t, "dirty")}
		if w.Clear = rapid.Bool().Draw(t, "clear"); w.Clear {
			w.Collapsed = rapid.Bool().Draw(t, "folded")
			w.Stamp = expiry.Removal(drawStamp().Draw(t, "stamp").Generation)
			return w
		}
		w.Stamp = drawStamp().Draw(t, "stamp")
		if w.Scope = rapid.Bool().Draw(t, "scope"); w.Scope {
			w.Key, w.Dirty = drawScope().Draw(t, "name"), false
			return w
		}
		w.Key = drawKey().Draw(t, "key")
		if w.HasValue = rapid.Bool().Draw(t, "has value"); w.HasValue {
			w.Value = drawValue().Draw(t, "value")
			w.Age = drawMicros().Draw(t, "age")
			w.Life = drawMicros().Draw(t, "life")
			w.Tagged = rapid.Bool().Draw(t, "tagged")
		}
		return w
	})
}

func drawFloor() *rapid.Generator[Floor] {
	return rapid.Custom(func(t *rapid.T) Floor {
		key, scope := drawAbout(t)
		return Floor{Key: key, Scope: scope, Stamp: drawStamp().Draw(t, "stamp"), Sender: rapid.Uint64().Draw(t, "sender")}
	})
}

// drawKey draws a key, and often one that is the name of a scope.
func drawKey() *rapid.Generator[string] { return rapid.OneOf(rapid.String(), drawScope()) }

func drawScope() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		of := rapid.SampledFrom([]func(string) expiry.Subject{expiry.Tag, expiry.Prefix}).Draw(t, "kind")
		return string(of(rapid.String().Draw(t, "name")))
	})
}

func drawAbout(t *rapid.T) (key string, scope bool) {
	if rapid.Bool().Draw(t, "scope") {
		return drawScope().Draw(t, "name"), true
	}
	return drawKey().Draw(t, "key"), false
}

// some is a slice that is not nil.
func some[E any](g *rapid.Generator[E]) *rapid.Generator[[]E] {
	return rapid.Map(rapid.SliceOfN(g, 0, 20), func(s []E) []E { return append([]E{}, s...) })
}

// TestRoundTrip: what is decoded is what was encoded.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := func(label string) string { return rapid.StringN(0, 60, 255).Draw(t, label) }
		key := drawKey().Draw(t, "key")
		op := Op(rapid.IntRange(1, 5).Draw(t, "op"))
		if op == RemoveScope {
			key = drawScope().Draw(t, "name")
		}
		about, scope := drawAbout(t)
		number := func(label string) uint64 { return rapid.Uint64().Draw(t, label) }
		generation := func(label string) expiry.Generation { return expiry.Generation(number(label)) }
		flag := func(label string) bool { return rapid.Bool().Draw(t, label) }
		prefix := []byte("what is there already")

		for name, m := range map[string]message{
			"broadcast": Broadcast{Sender: number("sender"), Writes: some(drawNote()).Draw(t, "notes")},
			"push":      Push{Epoch: generation("epoch"), Number: number("number"), Low: number("low"), Writes: some(drawNote()).Draw(t, "pushed")},
			"pushreply": PushReply{Have: number("have")},
			"writerequest": WriteRequest{Group: name("group"), Key: key, Op: op, Expected: drawStamp().Draw(t, "expected"),
				ID: number("id"), First: generation("first"), Unleased: flag("untold"), Member: flag("standing"), Regions: number("regions"),
				Absent: flag("absent"), Life: drawMicros().Draw(t, "life"), AckOwner: flag("quick"), Tagged: flag("tagged"), Value: drawValue().Draw(t, "value")},
			"writereply":     WriteReply{Stamp: drawStamp().Draw(t, "stamp"), Swapped: flag("swapped"), Unconfirmed: flag("unconfirmed"), Late: flag("late"), IncompleteView: flag("stranger"), OwnerLeft: flag("left")},
			"awaitrequest":   AwaitRequest{Group: name("group"), Key: about, Scope: scope, Region: name("region")},
			"journalrequest": JournalRequest{Group: name("group"), Since: generation("since"), Cursor: number("cursor")},
			"floors": Floors{Cleared: generation("cleared"), ClearedBy: number("cleared by"), Group: generation("group floor"), Keys: some(drawFloor()).Draw(t, "floors"),
				Next: number("next"), More: flag("more")},
			"comparerequest": CompareRequest{Group: name("group"), From: generation("from"), Width: max(drawMicros().Draw(t, "width"), time.Microsecond),
				Digests: some(rapid.Uint64()).Draw(t, "digests")},
			"flushed":        Flushed{Group: name("group"), Keys: some(drawFloor()).Draw(t, "keys")},
			"membersrequest": MembersRequest{Known: number("known")},
			"membersreply": MembersReply{Established: flag("established"), For: drawMicros().Draw(t, "for"),
				Nodes: []Node{{ID: name("id"), Region: name("region"), Address: key, Weight: rapid.Float64().Draw(t, "weight")}}},
			"recallrequest": RecallRequest{Group: name("group"), Key: key, Regions: number("regions")},
			"recallreply":   RecallReply{Agrees: true, Write: drawNote().Draw(t, "recalled")},
		} {
			encoded := m.Append(bytes.Clone(prefix))
			require.Equal(t, prefix, encoded[:len(prefix)])
			decoded, err := decoders[name](encoded[len(prefix):])
			require.NoError(t, err, name)
			require.Equal(t, m, decoded, name)
		}
	})
}

// TestSizes: what a note or a floor says to take is what it takes.
func TestSizes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, f := drawNote().Draw(t, "note"), drawFloor().Draw(t, "floor")
		require.Len(t, appendNotes(nil, []Write{w}), 4+w.Size())
		require.Len(t, appendFloors(nil, []Floor{f}), 4+f.Size())
	})
}

// FuzzDecode gives arbitrary bytes to every decoder. None may panic, and what one
// takes must be encoded as it came.
func FuzzDecode(f *testing.F) {
	for _, encoded := range readGolden(f) {
		f.Add(encoded)
		f.Add(encoded[:len(encoded)-1])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, decode := range decoders {
			if m, err := decode(b); err == nil {
				require.Equal(t, hex.EncodeToString(b), hex.EncodeToString(m.Append(nil)), name)
			} else {
				require.ErrorIs(t, err, wire.ErrMalformed, name)
			}
		}
	})
}

func readGolden(t testing.TB) map[string][]byte {
	file, err := os.Open("testdata/messages.txt")
	require.NoError(t, err)
	defer file.Close()
	golden := make(map[string][]byte)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, digits, ok := strings.Cut(lines.Text(), " ")
		if !ok || name == "#" {
			continue
		}
		encoded, err := hex.DecodeString(digits)
		require.NoError(t, err)
		golden[name] = encoded
	}
	return golden
}
