package message

import (
	"bufio"
	"encoding/hex"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

// A message is a value of any type that has an encoding.
type message interface{ Append(b []byte) []byte }

// decoders has the decoder of each type, by its name in the golden file.
var decoders = map[string]func(b []byte) (message, error){
	"broadcast":      of(DecodeBroadcast),
	"broadcastreply": of(DecodeBroadcastReply),
	"push":           of(DecodePush),
	"pushreply":      of(DecodePushReply),
	"writerequest":   of(DecodeWriteRequest),
	"writereply":     of(DecodeWriteReply),
	"awaitrequest":   of(DecodeAwaitRequest),
	"journalrequest": of(DecodeJournalRequest),
	"floors":         of(DecodeFloors),
	"flushed":        of(DecodeFlushed),

	"membersrequest": of(DecodeMembersRequest),
	"membersreply":   of(DecodeMembersReply),
	"recallrequest":  of(DecodeRecallRequest),
	"recallreply":    of(DecodeRecallReply),
	"offer":          of(DecodeOffer),
	"offerreply":     of(DecodeOfferReply),
}

// of makes a decoder return a message.
func of[M message](decode func([]byte) (M, error)) func([]byte) (message, error) {
	return func(b []byte) (message, error) {
		m, err := decode(b)
		return m, err
	}
}

// someMessages has one message of each type. Their encodings are in testdata/messages.txt.
var (
	someStamp  = expiry.Stamp{Generation: 0x0006_4400_0000_1001, Origin: 0x0123456789abcdef}
	someWrites = []Write{
		{
			Group: "users", Key: "ada", Stamp: someStamp, Dirty: true,
			HasValue: true, Value: []byte("value"), Age: 3 * time.Millisecond, Life: time.Minute,
		},
		{Group: "users", Key: "grace", Stamp: expiry.Removal(7)},
		{Group: "users", Key: someScope, Scope: true, Stamp: expiry.Removal(11)},
		{Group: "", Key: "", Stamp: expiry.Loaded(8), HasValue: true, Value: []byte{}, Life: time.Second},
		{Group: "users", Clear: true, Stamp: expiry.Removal(9)},
		{Group: "users", Clear: true, Collapsed: true, Stamp: expiry.Removal(10)},
		{Group: "users", Key: "alan", Relayed: true, Stamp: expiry.Removal(12)},
	}
	someScope  = string(expiry.Tag("red"))
	someFloors = []Floor{
		{Key: "ada", Stamp: someStamp, Sender: 13},
		{Key: "", Stamp: expiry.Removal(7)},
		{Key: someScope, Scope: true, Stamp: expiry.Removal(11)},
	}
	someMessages = map[string]message{
		"broadcast":      Broadcast{Sender: 13, Writes: someWrites},
		"broadcastreply": BroadcastReply{Refused: []uint32{0, 300}},
		"push":           Push{Epoch: 5 << 12, Number: 300, Low: 298, Writes: someWrites[1:2]},
		"pushreply":      PushReply{Have: 299, Unconfirmed: true},
		"writerequest": WriteRequest{
			Group: "users", Key: "ada", Op: Swap, ID: 11, First: 7 << 12, AckOwner: true,
			Life: time.Minute, Value: []byte("value"), Expected: someStamp, Absent: true,
			Tags: []string{"red", "blue"}, Age: 3 * time.Second, Regions: 12,
		},
		"writereply":   WriteReply{Stamp: someStamp, Swapped: true, Unconfirmed: true, By: "us-3"},
		"awaitrequest": AwaitRequest{Group: "users", Key: someScope, Scope: true, Region: "eu", By: "us-3"},
		"journalrequest": JournalRequest{
			Group: "users", Cursor: expiry.Cursor{Second: 12, Seq: 13},
			Selected: []expiry.Selection{{Second: 14, Parts: 15}},
			Digest:   expiry.Digest{Start: 5, Width: 2, Wide: []uint64{1, 0, math.MaxUint64}, Narrow: []uint64{3}, Later: true},
		},
		"floors": Floors{
			Cleared: 5 << 12, ClearedBy: 14, Group: 6 << 12, Keys: someFloors, Next: expiry.Cursor{Second: 14, Seq: 15}, More: true,
			Hashes: []expiry.Hashes{{Second: 16, Parts: [expiry.Parts]uint64{17}}},
		},
		"flushed":        Flushed{Group: "users", Keys: someFloors},
		"membersrequest": MembersRequest{Known: 300},
		"membersreply": MembersReply{Established: true, For: time.Second,
			Nodes: []Node{{ID: "eu-1", Region: "eu", Address: "10.0.3.7:7946", Weight: 1.5}}},
		"recallrequest": RecallRequest{Group: "users", Key: "ada", Regions: 301},
		"recallreply":   RecallReply{Agrees: true, Write: someWrites[0]},
		"offer":         Offer{Group: "users", Keys: someFloors[:1]},
		"offerreply":    OfferReply{Lacks: []uint32{0, 300}},
	}
)

// TestGolden pins the encodings that have been released. If it fails, the protocol has changed and needs a
// new version.
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

// TestMethods pins the numbers of the methods, which are part of the wire format.
func TestMethods(t *testing.T) {
	require.Equal(t, []Method{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, []Method{
		MethodWrite, MethodBroadcast, MethodPush, MethodAwait, MethodJournal,
		MethodFlushed, MethodHandoff, MethodMembers, MethodRecall, MethodOffer,
	})
}

// TestDecodedIsCopy: decoded messages do not alias the bytes, whose buffer may be overwritten.
func TestDecodedIsCopy(t *testing.T) {
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
