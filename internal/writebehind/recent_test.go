package writebehind

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

func TestRecentIsBounded(t *testing.T) {
	var r recent
	for i := range 10 * recentKeys {
		r.add(fmt.Sprint(i), stampOf(i))
		require.LessOrEqual(t, len(r.young)+len(r.old), 2*recentKeys)
		if last := i - recentKeys + 1; last >= 0 {
			require.Equal(t, stampOf(last), r.of(fmt.Sprint(last)))
		}
	}
	r.add("x", stampOf(2))
	r.add("x", stampOf(1))
	require.Equal(t, stampOf(2), r.of("x"))
	require.Equal(t, expiry.Stamp{}, r.of("0"))
}
