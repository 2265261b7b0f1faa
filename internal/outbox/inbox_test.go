package outbox

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/internal/message"
)

func pushOf(number, low uint64) message.Push {
	return message.Push{Epoch: 1, Number: number, Low: low, Writes: []message.Write{remove("a", 1)}}
}

func TestInbox(t *testing.T) {
	var in Inbox
	require.EqualValues(t, 1, in.Receive("x", pushOf(1, 1), 0))
	require.EqualValues(t, 1, in.Receive("x", pushOf(1, 1), 0), "a duplicate")
	require.EqualValues(t, 1, in.Receive("x", pushOf(3, 1), 0))
	require.EqualValues(t, 1, in.Receive("x", pushOf(4, 1), 0))
	require.EqualValues(t, 1, in.Lost())
	require.EqualValues(t, 4, in.Receive("x", pushOf(2, 2), 0))
	require.EqualValues(t, 8, in.Receive("x", pushOf(9, 9), 0)-1, "5 to 8 have been given up")
	require.EqualValues(t, 1, in.Lost())
	require.EqualValues(t, 0, in.Receive("y", pushOf(2, 1), 0), "another stream")
	require.EqualValues(t, 2, in.Lost())

	probe := message.Push{Epoch: 1, Number: 11, Low: 10}
	require.EqualValues(t, 9, in.Receive("x", probe, 0), "the push that a probe asks about has not arrived")
	require.EqualValues(t, 3, in.Lost())
	require.EqualValues(t, 9, in.Receive("x", probe, 0))
	require.EqualValues(t, 3, in.Lost())
	require.EqualValues(t, 10, in.Receive("x", pushOf(10, 10), 0))
}

func TestInboxEpochs(t *testing.T) {
	var in Inbox
	in.Receive("x", pushOf(1, 1), 0)
	in.Receive("x", pushOf(2, 1), 0)
	restarted := pushOf(1, 1)
	restarted.Epoch = 2
	require.EqualValues(t, 1, in.Receive("x", restarted, 0))
	require.EqualValues(t, 0, in.Receive("x", pushOf(3, 1), 0), "a late push of the previous epoch")
	restarted.Number = 2
	require.EqualValues(t, 2, in.Receive("x", restarted, 0))
}

func TestInboxForgets(t *testing.T) {
	var in Inbox
	in.Receive("x", pushOf(1, 1), 1)
	in.Receive("y", pushOf(1, 1), 2)
	for range 2 {
		in.Forget(2)
		require.Equal(t, []string{"y"}, slices.Collect(maps.Keys(in.sources)))
	}
	require.EqualValues(t, 5, in.Receive("x", pushOf(5, 5), 3))
	require.EqualValues(t, 1, in.Receive("y", pushOf(3, 1), 3))
}

func TestInboxIsBounded(t *testing.T) {
	var in Inbox
	for n := uint64(2); n < 3*maxAhead; n++ {
		in.Receive("x", pushOf(n, 1), 0)
	}
	require.Len(t, in.sources["x"].ahead, maxAhead-1, "2 to 4096")
	require.EqualValues(t, 3*maxAhead, in.Receive("x", pushOf(3*maxAhead, 3*maxAhead), 0))
	require.Empty(t, in.sources["x"].ahead)

	in = Inbox{}
	for n := uint64(2); n < 3*maxAhead; n++ {
		in.Receive("x", pushOf(n, 1), 0)
	}
	require.EqualValues(t, maxAhead, in.Receive("x", pushOf(1, 1), 0))
}
