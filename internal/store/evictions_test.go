package store

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// Entries that have left and were not taken yet are charged at most as much as the store may hold.
func TestEvictionQueueIsBounded(t *testing.T) {
	charge := int64(overhead + 100)
	s := New(Config{MaxBytes: 10 * charge, CopyShare: .5, Policy: FIFO})
	ready, take := s.Evictions()
	set := func(i int) { put(s, testEntry(Item{Key: fmt.Sprintf("%02d", i), Value: make([]byte, 98)})) }
	for i := range 20 {
		set(i)
	}
	require.Equal(t, 10, s.Stats().EvictQueue)
	require.Equal(t, 10*charge, s.Stats().EvictQueueBytes)
	require.Zero(t, s.Stats().EvictDropped)
	for i := range 5 {
		set(20 + i)
	}
	require.EqualValues(t, 5, s.Stats().EvictDropped)
	s.Resize(charge, 0)
	require.EqualValues(t, 14, s.Stats().EvictDropped)
	<-ready
	for i := range 10 {
		l, ok := take()
		require.True(t, ok)
		require.Equal(t, fmt.Sprintf("%02d", i), l.Key(), "the oldest first")
	}
	_, ok := take()
	require.False(t, ok)
	require.Zero(t, s.Stats().EvictQueueBytes)
	set(30)
	<-ready
	require.Equal(t, 1, s.Stats().EvictQueue, "there is room again")
}
