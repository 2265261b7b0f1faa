package expiry

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestStampOrder(t *testing.T) {
	ascending := []Stamp{{}, Removal(0), Loaded(5), {5, OriginOf("a", 1)}, Removal(5), Loaded(6)}
	for i, s := range ascending {
		for j, u := range ascending {
			require.Equal(t, i < j, s.Below(u), "%v below %v", s, u)
			require.Equal(t, ascending[max(i, j)], s.Max(u))
		}
	}
	require.True(t, Removal(3).IsRemoval())
	require.True(t, Loaded(3).IsLoad())
	require.True(t, Stamp{3, OriginOf("a", 1)}.IsSet())
	require.False(t, Loaded(3).IsSet() || Removal(3).IsSet())
}

func TestOriginOfIsNeverAReservedOrigin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Stamp{1, OriginOf(rapid.String().Draw(t, "node"), Generation(rapid.Uint64().Draw(t, "begun")))}
		if s.IsLoad() || s.IsRemoval() {
			t.Fatalf("%v", s)
		}
	})
	require.NotEqual(t, OriginOf("eu-1", 1), OriginOf("eu-2", 1))
	require.NotEqual(t, OriginOf("eu-1", 1), OriginOf("eu-1", 2))
}
