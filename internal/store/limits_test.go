package store

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// While a store shrinks, it never exceeds its bound, and a concurrent Set makes room for its own entry only.
func TestSetDuringResizeEvictsLittle(t *testing.T) {
	s := New(Config{MaxBytes: roomFor(10_000), CopyShare: .5})
	for i := range 10_000 {
		put(s, testEntry(Item{Key: fmt.Sprintf("%03d", i), Class: Class(i % 2)}))
	}
	goal := limits(limit{roomFor(100), 50}, .5)
	steps := 0
	for !s.resizeStep(goal) {
		steps++
		before := s.Stats()
		put(s, testEntry(Item{Key: fmt.Sprintf("%03d", steps)}))
		require.LessOrEqual(t, s.Stats().Left(Capacity)-before.Left(Capacity), uint64(2))
		checkInvariants(t, s)
		if steps > 20 {
			break
		}
	}
	s.Resize(roomFor(100), 50)
	require.Equal(t, 50, s.Stats().Entries())
	require.LessOrEqual(t, s.Stats().Copies.Entries, 25)
	checkInvariants(t, s)
}
