package message

import (
	"bytes"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/geocache/geocache/expiry"
)

// maxMicros is the longest time that a time.Duration can hold, in microseconds.
const maxMicros = math.MaxInt64 / uint64(time.Microsecond)

// TestTaggedWithoutValue: the encoder drops Tagged where there is no value. The receiver would refuse the
// write, so its push would be sent again and again, and the other writes in it would never arrive.
func TestTaggedWithoutValue(t *testing.T) {
	m, err := DecodePush(Push{Writes: []Write{{Group: "g", Key: "k", Tagged: true}}}.Append(nil))
	require.NoError(t, err)
	require.Equal(t, []Write{{Group: "g", Key: "k"}}, m.Writes)
}

// TestTimesAreRounded: ages are rounded up and lives down. Neither is negative.
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
	require.Equal(t, us, req.Life, "a life of 0 would mean none")
}

func drawStamp() *rapid.Generator[expiry.Stamp] {
	return rapid.Custom(func(t *rapid.T) expiry.Stamp {
		return expiry.Stamp{
			Generation: expiry.Generation(rapid.Uint64().Draw(t, "generation")),
			Origin: rapid.OneOf(
				rapid.Uint64(), rapid.SampledFrom([]uint64{0, math.MaxUint64}),
			).Draw(t, "origin"),
		}
	})
}

func drawMicros() *rapid.Generator[time.Duration] {
	return rapid.Map(rapid.Uint64Range(0, maxMicros), func(us uint64) time.Duration {
		return time.Duration(us) * time.Microsecond
	})
}

// TestRemoveKeysRoundTrip covers the only write with several keys.
func TestRemoveKeysRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := WriteRequest{
			Op: RemoveKeys, Group: "g", Key: "first", Value: []byte{},
			Keys: rapid.SliceOfN(rapid.String(), 1, 20).Draw(t, "keys"),
		}
		decoded, err := DecodeWriteRequest(m.Append(nil))
		require.NoError(t, err)
		require.Equal(t, m, decoded)
	})
}

// TestSwapRoundTrip covers the fields that only a Swap has.
func TestSwapRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := WriteRequest{
			Op: Swap, Group: "g", Key: "k", Value: []byte{}, Age: drawMicros().Draw(t, "age"),
			Tags: rapid.SliceOfN(rapid.StringN(0, 60, 255), 1, 20).Draw(t, "tags"),
		}
		decoded, err := DecodeWriteRequest(m.Append(nil))
		require.NoError(t, err)
		require.Equal(t, m, decoded)
	})
	req, err := DecodeWriteRequest(WriteRequest{Op: Swap, Age: 1}.Append(nil))
	require.NoError(t, err)
	require.Equal(t, time.Microsecond, req.Age, "an age is rounded up")
}

func drawValue() *rapid.Generator[[]byte] {
	return rapid.Map(rapid.SliceOf(rapid.Byte()), func(v []byte) []byte { return append([]byte{}, v...) })
}

func drawWrite() *rapid.Generator[Write] {
	return rapid.Custom(func(t *rapid.T) Write {
		w := Write{
			Group: rapid.StringN(0, 60, 255).Draw(t, "group"),
			Dirty: rapid.Bool().Draw(t, "dirty"), Relayed: rapid.Bool().Draw(t, "relayed"),
		}
		if w.Clear = rapid.Bool().Draw(t, "clear"); w.Clear {
			w.Collapsed = rapid.Bool().Draw(t, "collapsed")
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
		key, scope := drawSubject(t)
		return Floor{
			Key: key, Scope: scope,
			Stamp: drawStamp().Draw(t, "stamp"), Sender: rapid.Uint64().Draw(t, "sender"),
		}
	})
}

// drawKey draws a key, often one that is also the encoding of a scope.
func drawKey() *rapid.Generator[string] { return rapid.OneOf(rapid.String(), drawScope()) }

func drawScope() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		of := rapid.SampledFrom([]func(string) expiry.Subject{expiry.Tag, expiry.Prefix}).Draw(t, "kind")
		return string(of(rapid.String().Draw(t, "name")))
	})
}

// drawSubject draws a key or a scope.
func drawSubject(t *rapid.T) (key string, scope bool) {
	if rapid.Bool().Draw(t, "scope") {
		return drawScope().Draw(t, "name"), true
	}
	return drawKey().Draw(t, "key"), false
}

// some draws a slice that is not nil.
func some[E any](g *rapid.Generator[E]) *rapid.Generator[[]E] {
	return rapid.Map(rapid.SliceOfN(g, 0, 20), func(s []E) []E { return append([]E{}, s...) })
}

// TestRoundTrip: decoding an encoded message returns that message.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := func(label string) string { return rapid.StringN(0, 60, 255).Draw(t, label) }
		key := drawKey().Draw(t, "key")
		op := Op(rapid.IntRange(1, 5).Draw(t, "op"))
		if op == RemoveScope {
			key = drawScope().Draw(t, "name")
		}
		subject, scope := drawSubject(t)
		number := func(label string) uint64 { return rapid.Uint64().Draw(t, label) }
		generation := func(label string) expiry.Generation { return expiry.Generation(number(label)) }
		flag := func(label string) bool { return rapid.Bool().Draw(t, label) }
		prefix := []byte("bytes before the message")

		for name, m := range map[string]message{
			"broadcast":      Broadcast{Sender: number("sender"), Writes: some(drawWrite()).Draw(t, "writes")},
			"broadcastreply": BroadcastReply{Refused: rapid.SliceOfN(rapid.Uint32(), 1, 20).Draw(t, "refused")},
			"push": Push{
				Epoch: generation("epoch"), Number: number("number"), Low: number("low"),
				Writes: some(drawWrite()).Draw(t, "pushed"),
			},
			"pushreply": PushReply{Have: number("have"), Unconfirmed: rapid.Bool().Draw(t, "unconfirmed")},
			"writerequest": WriteRequest{
				Group: name("group"), Key: key, Op: op, ID: number("id"), First: generation("first"),
				Unleased: flag("unleased"), Member: flag("member"), AckOwner: flag("ack owner"),
				Life: drawMicros().Draw(t, "life"), Tagged: flag("tagged"), Value: drawValue().Draw(t, "value"),
				Expected: drawStamp().Draw(t, "expected"), Absent: flag("absent"), Regions: number("regions"),
			},
			"writereply": WriteReply{
				Stamp: drawStamp().Draw(t, "stamp"), Swapped: flag("swapped"), Unconfirmed: flag("unconfirmed"),
				Late: flag("late"), IncompleteView: flag("incomplete view"), OwnerLeft: flag("owner left"),
				By: name("by"),
			},
			"awaitrequest": AwaitRequest{
				Group: name("group"), Key: subject, Scope: scope, Region: name("region"), By: name("by"),
			},
			"journalrequest": JournalRequest{
				Group: name("group"), Cursor: expiry.Cursor{Second: number("cursor"), Seq: number("seq")},
				Selected: some(drawSelection()).Draw(t, "selected"),
				Digest: expiry.Digest{
					Start: number("start"), Width: uint64(rapid.Uint32Min(1).Draw(t, "width")),
					Wide: some(rapid.Uint64()).Draw(t, "wide"), Narrow: some(rapid.Uint64()).Draw(t, "narrow"),
					Later: flag("later"),
				},
			},
			"floors": Floors{
				Cleared: generation("cleared"), ClearedBy: number("cleared by"), Group: generation("group floor"),
				Keys: some(drawFloor()).Draw(t, "floors"), More: flag("more"),
				Next: expiry.Cursor{Second: number("next"), Seq: number("seq")}, Hashes: some(drawHashes()).Draw(t, "hashes"),
			},
			"flushed":        Flushed{Group: name("group"), Keys: some(drawFloor()).Draw(t, "keys")},
			"membersrequest": MembersRequest{Known: number("known")},
			"membersreply": MembersReply{
				Established: flag("established"), For: drawMicros().Draw(t, "for"),
				Nodes: []Node{{
					ID: name("id"), Region: name("region"), Address: key,
					Weight: rapid.Float64().Draw(t, "weight"),
				}},
			},
			"recallrequest": RecallRequest{Group: name("group"), Key: key, Regions: number("regions")},
			"recallreply":   RecallReply{Agrees: true, Write: drawWrite().Draw(t, "recalled")},
			"offer":         Offer{Group: name("group"), Keys: some(drawFloor()).Draw(t, "offered")},
			"offerreply":    OfferReply{Lacks: some(rapid.Uint32()).Draw(t, "lacks")},
		} {
			encoded := m.Append(bytes.Clone(prefix))
			require.Equal(t, prefix, encoded[:len(prefix)])
			decoded, err := decoders[name](encoded[len(prefix):])
			require.NoError(t, err, name)
			require.Equal(t, m, decoded, name)
		}
	})
}

// TestSizes: Size is the length of the encoding.
func TestSizes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, f := drawWrite().Draw(t, "write"), drawFloor().Draw(t, "floor")
		require.Len(t, appendWrites(nil, []Write{w}), 4+w.Size())
		require.Len(t, appendFloors(nil, []Floor{f}), 4+f.Size())
	})
}

func drawSelection() *rapid.Generator[expiry.Selection] {
	return rapid.Custom(func(t *rapid.T) expiry.Selection {
		return expiry.Selection{Second: rapid.Uint64().Draw(t, "second"), Parts: rapid.Uint64().Draw(t, "parts")}
	})
}

func drawHashes() *rapid.Generator[expiry.Hashes] {
	return rapid.Custom(func(t *rapid.T) (h expiry.Hashes) {
		h.Second = rapid.Uint64().Draw(t, "second")
		for i := range h.Parts {
			h.Parts[i] = rapid.Uint64().Draw(t, "part")
		}
		return h
	})
}

// TestBroadcastReplyIsEmpty if there is nothing to say: there is one for each broadcast and node.
func TestBroadcastReplyIsEmpty(t *testing.T) {
	require.Empty(t, BroadcastReply{}.Append(nil))
	m, err := DecodeBroadcastReply(nil)
	require.NoError(t, err)
	require.Zero(t, m)
}

// TestBeginBroadcast: a Broadcast can be put together from writes that have been encoded before.
func TestBeginBroadcast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Broadcast{Sender: rapid.Uint64().Draw(t, "sender"), Writes: some(drawWrite()).Draw(t, "writes")}
		b := BeginBroadcast(nil, m.Sender, len(m.Writes))
		for i := range m.Writes {
			b = m.Writes[i].Append(b)
		}
		require.Equal(t, m.Append(nil), b)
	})
}
