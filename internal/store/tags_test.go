package store

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A peer may send a value as tagged whose tags are malformed.
func TestMalformedTagsAreIgnored(t *testing.T) {
	for _, value := range [][]byte{nil, {}, {0}, {1}, {1, 2, 'a'}} {
		e := testEntry(Item{Key: "k", Value: value, Tagged: true})
		require.Empty(t, e.Tags())
		require.Empty(t, e.Payload())
	}
}
