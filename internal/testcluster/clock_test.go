package testcluster

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Node{}
		was := n.clock.now()
		require.True(t, was.Equal(time.Now()))
		n.SetClock(-time.Hour)
		time.Sleep(time.Minute)
		now := n.clock.now()
		require.Equal(t, time.Minute, now.Sub(was))
		require.Equal(t, time.Minute-time.Hour, now.Round(0).Sub(was.Round(0)))
	})
}
