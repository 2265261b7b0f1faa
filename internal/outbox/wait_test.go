package outbox

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestConfirmed(t *testing.T) {
	o := New(Config{})
	o.Add(set("a", 1, 10), 0)
	other, _ := o.Confirmed("g", "b")
	require.True(t, closed(other))
	done, stop := o.Confirmed("g", "a")
	require.False(t, closed(done))
	stop()
	stop()
	require.Empty(t, o.pending.Front().Value.(*item).waiters, "a stopped waiter leaves nothing behind")
	o.Answered(next(t, o, 0, to("x")), 1, 0)
	require.False(t, closed(done))
}
