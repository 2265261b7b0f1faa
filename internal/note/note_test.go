package note

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
	"tell":    of(DecodeTell),
	"push":    of(DecodePush),
	"pushed":  of(DecodePushed),
	"write":   of(DecodeWrite),
	"wrote":   of(DecodeWrote),
	"await":   of(DecodeAwait),
	"journal": of(DecodeJournal),
	"floors":  of(DecodeFloors),
	"compare": of(DecodeCompare),
	"clean":   of(DecodeClean),

	"members":  of(DecodeMembers),
	"listed":   of(DecodeListed),
	"recall":   of(DecodeRecall),
	"recalled": of(DecodeRecalled),
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
	someNotes = []Note{
		{Group: "users", Key: "ada", Stamp: someStamp, Dirty: true, HasValue: true, Value: []byte("value"), Age: 3 * time.Millisecond, Life: time.Minute},
		{Group: "users", Key: "grace", Stamp: expiry.Removal(7)},
		{Group: "users", Key: someScope, Scope: true, Stamp: expiry.Removal(11)},
		{Group: "", Key: "", Stamp: expiry.Loaded(8), HasValue: true, Value: []byte{}, Life: time.Second},
		{Group: "users", Clear: true, Stamp: expiry.Removal(9)},
		{Group: "users", Clear: true, Folded: true, Stamp: expiry.Removal(10)},
	}
	someScope    = string(expiry.Tag("red"))
	someFloors   = []Floor{{Key: "ada", Stamp: someStamp, Sender: 13}, {Key: "", Stamp: expiry.Removal(7)}, {Key: someScope, Scope: true, Stamp: expiry.Removal(11)}}
	someMessages = map[string]message{
		"tell":   Tell{Sender: 13, Notes: someNotes},
		"push":   Push{Epoch: 5 << 12, Number: 300, Low: 298, Notes: someNotes[1:2]},
		"pushed": Pushed{Have: 299},
		"write": Write{Group: "users", Key: "ada", Op: Swap, ID: 11, First: 7 << 12, Expected: someStamp, Regions: 12, Absent: true, Quick: true,
			Life: time.Minute, Value: []byte("value"), Age: 3 * time.Second, Tags: []string{"red", "blue"}},
		"wrote":   Wrote{Stamp: someStamp, Swapped: true, Unconfirmed: true},
		"await":   Await{Group: "users", Key: someScope, Scope: true, Region: "eu"},
		"journal": Journal{Group: "users", Since: 5 << 12, Cursor: 12},
		"floors":  Floors{Cleared: 5 << 12, ClearedBy: 14, Group: 6 << 12, Keys: someFloors, Next: 14, More: true},
		"compare": Compare{Group: "users", From: 5 << 12, Width: time.Second, Digests: []uint64{1, 0, math.MaxUint64}},
		"clean":   Clean{Group: "users", Keys: someFloors},
		"members": Members{Known: 300},
		"listed": Listed{Established: true, For: time.Second,
			Nodes: []Node{{ID: "eu-1", Region: "eu", Address: "10.0.3.7:7946", Weight: 1.5}}},
		"recall":   Recall{Group: "users", Key: "ada", Regions: 301},
		"recalled": Recalled{Agrees: true, Note: someNotes[0]},
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
	require.Equal(t, []Method{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, []Method{MethodWrite, MethodTell, MethodPush, MethodAwait,
		MethodJournal, MethodCompare, MethodClean, MethodHandoff, MethodMembers, MethodRecall})
}

// TestTaggedWithoutAValue: a note that would be refused would be sent again and again, and what is
// beside it would not arrive.
func TestTaggedWithoutAValue(t *testing.T) {
	m, err := DecodePush(Push{Notes: []Note{{Group: "g", Key: "k", Tagged: true}}}.Append(nil))
	require.NoError(t, err)
	require.Equal(t, []Note{{Group: "g", Key: "k"}}, m.Notes)
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
			require.Contains(t, strings.ToLower(err.Error()), "note."+name)
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
			"a note's key":             Tell{Notes: []Note{{Key: key}}},
			"a note's prefix":          Push{Notes: []Note{{Key: prefix, Scope: true, Stamp: expiry.Removal(1)}}},
			"a write's key":            Write{Op: Set, Key: key},
			"a write's prefix":         Write{Op: RemoveScope, Key: prefix},
			"one of the keys":          Write{Op: RemoveKeys, Keys: []string{"a", key, "b"}},
			"an await's key":           Await{Key: key},
			"an await's prefix":        Await{Key: prefix, Scope: true},
			"a floor's key":            Clean{Keys: []Floor{{Key: key}}},
			"a floor's prefix":         Floors{Keys: []Floor{{Key: prefix, Scope: true}}},
			"a recall's key":           Recall{Key: key},
			"the key of what is there": Recalled{Agrees: true, Note: Note{Key: key}},
		} {
			name := strings.ToLower(fmt.Sprintf("%T", m)[len("note."):])
			_, err := decoders[name](m.Append(nil))
			if n <= MaxKey {
				require.NoError(t, err, "%s of %d bytes", what, n)
			} else {
				require.ErrorIs(t, err, wire.ErrMalformed, "%s of %d bytes", what, n)
			}
		}
	}
	_, err := DecodeWrite(Write{Op: Swap, Tags: make([]string, maxTags)}.Append(nil))
	require.NoError(t, err)
	_, err = DecodeWrite(Write{Op: Swap, Tags: make([]string, maxTags+1)}.Append(nil))
	require.ErrorIs(t, err, wire.ErrMalformed)
}

// writeHead is the size of a Write without a group and a key, up to the value.
const writeHead = 1 + 1 + 1 + 2 + 8 + 8 + 16 + 8 + 8

// noteAt is where the first note of a Tell is.
const noteAt = 8 + 4

// TestMalformed: what no encoder writes.
func TestMalformed(t *testing.T) {
	tell := func(change func(n *Note)) []byte {
		n := Note{Group: "g", Clear: true, Stamp: expiry.Removal(1)}
		change(&n)
		return Tell{Notes: []Note{n}}.Append(nil)
	}
	at := func(b []byte, i int, v byte) []byte {
		b[i] = v
		return b
	}
	_, err := DecodeTell(tell(func(*Note) {}))
	require.NoError(t, err)
	for what, m := range map[string]struct {
		name    string
		encoded []byte
	}{
		"a flag that a note does not have":        {"tell", at(tell(func(*Note) {}), noteAt, 1|1<<6)},
		"a flag that a write does not have":       {"write", at(Write{Op: Set}.Append(nil), 1, 1<<5)},
		"a flag that a wrote does not have":       {"wrote", at(Wrote{}.Append(nil), 0, 1<<7)},
		"a flag that floors do not have":          {"floors", at(Floors{}.Append(nil), 0, 1<<7)},
		"a flag that a floor does not have":       {"clean", at(Clean{Keys: []Floor{{}}}.Append(nil), 5, 1<<1)},
		"a flag that an await does not have":      {"await", at(Await{}.Append(nil), 0, 1<<1)},
		"a note of a scope that is none":          {"tell", tell(func(n *Note) { n.Clear, n.Scope, n.Key = false, true, "\xffk" })},
		"a floor of a scope that is none":         {"clean", Clean{Keys: []Floor{{Key: "\xff", Scope: true}}}.Append(nil)},
		"an await of a scope that is none":        {"await", Await{Key: "k", Scope: true}.Append(nil)},
		"a removal of a scope that is none":       {"write", Write{Op: RemoveScope, Key: "k"}.Append(nil)},
		"a clear of a scope":                      {"tell", tell(func(n *Note) { n.Scope = true })},
		"a scope with a value":                    {"tell", tell(func(n *Note) { n.Clear, n.Scope, n.Key, n.HasValue = false, true, someScope, true })},
		"a scope that the origin is to have":      {"tell", tell(func(n *Note) { n.Clear, n.Scope, n.Key, n.Dirty = false, true, someScope, true })},
		"a clear of a key":                        {"tell", tell(func(n *Note) { n.Key = "k" })},
		"a clear with a value":                    {"tell", tell(func(n *Note) { n.HasValue = true })},
		"a clear that is no removal":              {"tell", tell(func(n *Note) { n.Stamp.Origin-- })},
		"a key's floor that is folded":            {"tell", tell(func(n *Note) { n.Clear, n.Folded = false, true })},
		"no op":                                   {"write", Write{}.Append(nil)},
		"an op that there is not":                 {"write", Write{Op: RemoveKeys + 1}.Append(nil)},
		"slices without width":                    {"compare", Compare{Width: time.Nanosecond}.Append(nil)},
		"a time that is longer than can be told":  {"compare", append(binary.BigEndian.AppendUint64(make([]byte, 1+8), maxMicros+1), 0, 0, 0, 0)},
		"more notes than bytes":                   {"tell", at(Tell{}.Append(nil), 8, 255)},
		"tags without a value":                    {"tell", at(tell(func(*Note) {}), noteAt, 1|1<<4)},
		"more keys than bytes":                    {"write", append(Write{Op: RemoveKeys}.Append(nil)[:writeHead+4], 255, 0, 0, 0)},
		"more tags than bytes":                    {"write", append(Write{Op: Swap}.Append(nil)[:writeHead+4+8], 255, 0, 0, 0)},
		"more floors than bytes":                  {"clean", at(Clean{}.Append(nil), 1, 255)},
		"more digests than bytes":                 {"compare", at(Compare{Width: time.Second}.Append(nil), 17, 255)},
		"a value that is longer than the message": {"write", at(Write{Op: Set}.Append(nil), writeHead, 255)},
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
		m, err := DecodeTell(Tell{Notes: []Note{{HasValue: true, Age: age, Life: life}}}.Append(nil))
		require.NoError(t, err)
		return []time.Duration{m.Notes[0].Age, m.Notes[0].Life}
	}
	const us = time.Microsecond
	require.Equal(t, []time.Duration{2 * us, us}, rounded(us+1, 2*us-1))
	require.Equal(t, []time.Duration{2 * us, 2 * us}, rounded(2*us, 2*us))
	require.Equal(t, []time.Duration{0, 0}, rounded(-time.Second, -time.Second))
	longest := time.Duration(maxMicros) * us
	require.Equal(t, []time.Duration{longest, longest}, rounded(math.MaxInt64, math.MaxInt64))

	w, err := DecodeWrite(Write{Op: Set, Life: 1}.Append(nil))
	require.NoError(t, err)
	require.Equal(t, us, w.Life, "0 would be none")
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
		m := Write{Op: RemoveKeys, Group: "g", Key: "first", Value: []byte{}, Keys: rapid.SliceOfN(rapid.String(), 1, 20).Draw(t, "keys")}
		decoded, err := DecodeWrite(m.Append(nil))
		require.NoError(t, err)
		require.Equal(t, m, decoded)
	})
}

// TestSwapRoundTrip: what a Swap alone has.
func TestSwapRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Write{Op: Swap, Group: "g", Key: "k", Value: []byte{}, Age: drawMicros().Draw(t, "age"),
			Tags: rapid.SliceOfN(rapid.StringN(0, 60, 255), 1, 20).Draw(t, "tags")}
		decoded, err := DecodeWrite(m.Append(nil))
		require.NoError(t, err)
		require.Equal(t, m, decoded)
	})
	w, err := DecodeWrite(Write{Op: Swap, Age: 1}.Append(nil))
	require.NoError(t, err)
	require.Equal(t, time.Microsecond, w.Age, "taken for older than it is")
}

func drawValue() *rapid.Generator[[]byte] {
	return rapid.Map(rapid.SliceOf(rapid.Byte()), func(v []byte) []byte { return append([]byte{}, v...) })
}

func drawNote() *rapid.Generator[Note] {
	return rapid.Custom(func(t *rapid.T) Note {
		n := Note{Group: rapid.StringN(0, 60, 255).Draw(t, "group"), Dirty: rapid.Bool().Draw(t, "dirty")}
		if n.Clear = rapid.Bool().Draw(t, "clear"); n.Clear {
			n.Folded = rapid.Bool().Draw(t, "folded")
			n.Stamp = expiry.Removal(drawStamp().Draw(t, "stamp").Generation)
			return n
		}
		n.Stamp = drawStamp().Draw(t, "stamp")
		if n.Scope = rapid.Bool().Draw(t, "scope"); n.Scope {
			n.Key, n.Dirty = drawScope().Draw(t, "name"), false
			return n
		}
		n.Key = drawKey().Draw(t, "key")
		if n.HasValue = rapid.Bool().Draw(t, "has value"); n.HasValue {
			n.Value = drawValue().Draw(t, "value")
			n.Age = drawMicros().Draw(t, "age")
			n.Life = drawMicros().Draw(t, "life")
			n.Tagged = rapid.Bool().Draw(t, "tagged")
		}
		return n
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
			"tell":   Tell{Sender: number("sender"), Notes: some(drawNote()).Draw(t, "notes")},
			"push":   Push{Epoch: generation("epoch"), Number: number("number"), Low: number("low"), Notes: some(drawNote()).Draw(t, "pushed")},
			"pushed": Pushed{Have: number("have")},
			"write": Write{Group: name("group"), Key: key, Op: op, Expected: drawStamp().Draw(t, "expected"),
				ID: number("id"), First: generation("first"), Untold: flag("untold"), Standing: flag("standing"), Regions: number("regions"),
				Absent: flag("absent"), Life: drawMicros().Draw(t, "life"), Quick: flag("quick"), Tagged: flag("tagged"), Value: drawValue().Draw(t, "value")},
			"wrote":   Wrote{Stamp: drawStamp().Draw(t, "stamp"), Swapped: flag("swapped"), Unconfirmed: flag("unconfirmed"), Late: flag("late"), Stranger: flag("stranger"), Left: flag("left")},
			"await":   Await{Group: name("group"), Key: about, Scope: scope, Region: name("region")},
			"journal": Journal{Group: name("group"), Since: generation("since"), Cursor: number("cursor")},
			"floors": Floors{Cleared: generation("cleared"), ClearedBy: number("cleared by"), Group: generation("group floor"), Keys: some(drawFloor()).Draw(t, "floors"),
				Next: number("next"), More: flag("more")},
			"compare": Compare{Group: name("group"), From: generation("from"), Width: max(drawMicros().Draw(t, "width"), time.Microsecond),
				Digests: some(rapid.Uint64()).Draw(t, "digests")},
			"clean":   Clean{Group: name("group"), Keys: some(drawFloor()).Draw(t, "keys")},
			"members": Members{Known: number("known")},
			"listed": Listed{Established: flag("established"), For: drawMicros().Draw(t, "for"),
				Nodes: []Node{{ID: name("id"), Region: name("region"), Address: key, Weight: rapid.Float64().Draw(t, "weight")}}},
			"recall":   Recall{Group: name("group"), Key: key, Regions: number("regions")},
			"recalled": Recalled{Agrees: true, Note: drawNote().Draw(t, "recalled")},
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
		n, f := drawNote().Draw(t, "note"), drawFloor().Draw(t, "floor")
		require.Len(t, appendNotes(nil, []Note{n}), 4+n.Size())
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
