package message

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/wire"
)

// TestTruncatedOrTooLong: a message that is cut anywhere, or has bytes left over, is malformed. The error
// names its type.
func TestTruncatedOrTooLong(t *testing.T) {
	for name, m := range someMessages {
		encoded := m.Append(nil)
		for n := range encoded {
			if name == "broadcastreply" && n == 0 {
				continue // which is one of another kind
			}
			cut, err := decoders[name](encoded[:n])
			require.ErrorIs(t, err, wire.ErrMalformed, "%s of %d bytes", name, n)
			require.Zero(t, cut, "%s of %d bytes", name, n)
			require.Contains(t, strings.ToLower(err.Error()), "message."+name)
		}
		_, err := decoders[name](append(encoded, 0))
		require.ErrorIs(t, err, wire.ErrMalformed, name)
	}
}

// TestLongNames: keys, and the names of scopes, are bounded in every message.
func TestLongNames(t *testing.T) {
	for _, n := range []int{0, 1, MaxKey - 2, MaxKey - 1, MaxKey, MaxKey + 1, MaxKey + 2, math.MaxUint16 - 2} {
		key := strings.Repeat("\xff", n)
		prefix := string(expiry.Prefix(key))
		for what, m := range map[string]message{
			"a broadcast write's key":  Broadcast{Writes: []Write{{Key: key}}},
			"a pushed write's prefix":  Push{Writes: []Write{{Key: prefix, Scope: true, Stamp: expiry.Removal(1)}}},
			"a write request's key":    WriteRequest{Op: Set, Key: key},
			"a write request's prefix": WriteRequest{Op: RemoveScope, Key: prefix},
			"one of several keys":      WriteRequest{Op: RemoveKeys, Keys: []string{"a", key, "b"}},
			"an await's key":           AwaitRequest{Key: key},
			"an await's prefix":        AwaitRequest{Key: prefix, Scope: true},
			"a floor's key":            Flushed{Keys: []Floor{{Key: key}}},
			"a floor's prefix":         Floors{Keys: []Floor{{Key: prefix, Scope: true}}},
			"a recall's key":           RecallRequest{Key: key},
			"a recalled write's key":   RecallReply{Agrees: true, Write: Write{Key: key}},
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

// requestHead is the size of a WriteRequest without a group and a key, up to the value.
const requestHead = 1 + 1 + 1 + 2 + 8 + 8 + 16 + 8 + 8

// firstWriteAt is the offset of the first write of a Broadcast.
const firstWriteAt = 8 + 4

// TestMalformed: decoders refuse what no encoder can write.
func TestMalformed(t *testing.T) {
	// withClear returns a Broadcast of a Clear that has been changed.
	withClear := func(change func(w *Write)) []byte {
		w := Write{Group: "g", Clear: true, Stamp: expiry.Removal(1)}
		change(&w)
		return Broadcast{Writes: []Write{w}}.Append(nil)
	}
	// withScope returns a Broadcast of the removal of a scope that has been changed.
	withScope := func(key string, change func(w *Write)) []byte {
		return withClear(func(w *Write) {
			w.Clear, w.Scope, w.Key = false, true, key
			change(w)
		})
	}
	unchanged := func(*Write) {}
	hasValue := func(w *Write) { w.HasValue = true }
	flushed := func(floors ...Floor) []byte { return Flushed{Keys: floors}.Append(nil) }
	at := func(b []byte, i int, v byte) []byte {
		b[i] = v
		return b
	}
	// cut returns the first n bytes of a WriteRequest, and 255 << 24 as a count.
	cut := func(op Op, n int) []byte { return append(WriteRequest{Op: op}.Append(nil)[:n], 255, 0, 0, 0) }
	for _, wellFormed := range [][]byte{withClear(unchanged), withScope(someScope, unchanged)} {
		_, err := DecodeBroadcast(wellFormed)
		require.NoError(t, err)
	}
	for what, m := range map[string]struct {
		name    string
		encoded []byte
	}{
		"an unknown flag of a write":         {"broadcast", at(withClear(unchanged), firstWriteAt, 1|1<<7)},
		"an unknown flag of a write request": {"writerequest", at(WriteRequest{Op: Set}.Append(nil), 1, 1<<5)},
		"an unknown flag of a write reply":   {"writereply", at(WriteReply{}.Append(nil), 0, 1<<7)},
		"an unknown flag of floors":          {"floors", at(Floors{}.Append(nil), 0, 1<<7)},
		"an unknown flag of a floor":         {"flushed", at(flushed(Floor{}), 5, 1<<1)},
		"an unknown flag of an await":        {"awaitrequest", at(AwaitRequest{}.Append(nil), 0, 1<<1)},
		"a write of a malformed scope":       {"broadcast", withScope("\xffk", unchanged)},
		"a floor of a malformed scope":       {"flushed", flushed(Floor{Key: "\xff", Scope: true})},
		"an await of a malformed scope":      {"awaitrequest", AwaitRequest{Key: "k", Scope: true}.Append(nil)},
		"a request for a malformed scope": {
			"writerequest",
			WriteRequest{Op: RemoveScope, Key: "k"}.Append(nil),
		},
		"a clear of a scope":   {"broadcast", withClear(func(w *Write) { w.Scope = true })},
		"a scope with a value": {"broadcast", withScope(someScope, hasValue)},
		"a dirty scope": {
			"broadcast",
			withScope(someScope, func(w *Write) { w.Dirty = true }),
		},
		"a clear of a key":              {"broadcast", withClear(func(w *Write) { w.Key = "k" })},
		"a clear with a value":          {"broadcast", withClear(hasValue)},
		"a clear that is not a removal": {"broadcast", withClear(func(w *Write) { w.Stamp.Origin-- })},
		"a collapsed key": {
			"broadcast",
			withClear(func(w *Write) { w.Clear, w.Collapsed = false, true }),
		},
		"tags without a value":   {"broadcast", at(withClear(unchanged), firstWriteAt, 1|1<<4)},
		"no op":                  {"writerequest", WriteRequest{}.Append(nil)},
		"an unknown op":          {"writerequest", WriteRequest{Op: RemoveKeys + 1}.Append(nil)},
		"slices without width":   {"journalrequest", JournalRequest{}.Append(nil)},
		"more writes than bytes": {"broadcast", at(Broadcast{}.Append(nil), 8, 255)},
		"no refused writes":      {"broadcastreply", make([]byte, 4)},
		"more refused writes than bytes": {
			"broadcastreply",
			at(BroadcastReply{Refused: []uint32{1}}.Append(nil), 3, 2),
		},
		"more keys than bytes":   {"writerequest", cut(RemoveKeys, requestHead+4)},
		"more tags than bytes":   {"writerequest", cut(Swap, requestHead+4+8)},
		"more floors than bytes": {"flushed", at(flushed(), 1, 255)},
		"more hashes than bytes": {
			"journalrequest",
			at(JournalRequest{Digest: expiry.Digest{Width: 1}}.Append(nil), 1+1+8+4+3, 255),
		},
		"a value longer than message": {
			"writerequest",
			at(WriteRequest{Op: Set}.Append(nil), requestHead, 255),
		},
	} {
		_, err := decoders[m.name](m.encoded)
		require.ErrorIs(t, err, wire.ErrMalformed, what)
	}
}

// TestHugeCounts: a count of more elements than there are bytes for makes no decoder allocate memory.
func TestHugeCounts(t *testing.T) {
	huge := bytes.Repeat([]byte{0xff}, 64)
	for name, decode := range decoders {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		decode(huge)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20), name)
	}
}

// FuzzDecode passes arbitrary bytes to every decoder. None may panic, and what a decoder accepts must
// encode to the same bytes.
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
