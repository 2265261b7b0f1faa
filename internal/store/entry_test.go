package store

import (
	"strconv"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

func TestFirstDecodedValueIsKept(t *testing.T) {
	type value struct{ n int }
	e := testEntry(Item{})
	require.Nil(t, Decoded[value](e))
	kept := make([]*value, 8)
	var wg sync.WaitGroup
	for i := range kept {
		wg.Go(func() { kept[i] = SetDecoded(e, &value{i}) })
	}
	wg.Wait()
	for _, v := range kept {
		require.Same(t, Decoded[value](e), v)
	}
	e, v := New(Config{}).NewEntry(Item{}), new(value)
	require.Same(t, v, SetDecoded(e, v), "the entry cannot store it")
	require.Nil(t, Decoded[value](e))
}

func TestEntryFlagsAndState(t *testing.T) {
	e := testEntry(Item{Key: "k", Class: Copy, Absent: true, Tagged: true})
	require.Equal(t, Copy, e.Class())
	require.True(t, e.Absent())
	require.True(t, e.Tagged())
	for _, m := range []expiry.Seq{0, 1, 1<<31 - 1, 1 << 31, 1<<31 + 5, 1<<40 + 7} {
		for _, leased := range []bool{true, false} {
			e.SetSeen(m)
			e.SetLeased(leased)
			require.Equal(t, leased, e.Leased())
			require.Equal(t, m, e.Seen(m))
			require.Equal(t, m, e.Seen(m+1<<31-1))
		}
	}
}

// Keys of all lengths survive, whether they are allocated with the entry or on their own.
func TestEntrySizeAndKeys(t *testing.T) {
	if strconv.IntSize == 64 { // otherwise entries are smaller than their charge
		require.EqualValues(t, 80, unsafe.Sizeof(Entry{}))
		require.EqualValues(t, 80+extendedOverhead, unsafe.Sizeof(extended{}))
	}
	for n := range 300 {
		key := strings.Repeat("k", n)
		for _, isExt := range []bool{false, true} {
			e := newEntry(Item{Key: key, Value: []byte("value")}, isExt)
			require.Equal(t, key, e.Key())
			require.Equal(t, "value", string(e.Value()))
		}
	}
	require.Panics(t, func() { testEntry(Item{Key: strings.Repeat("k", 1<<16)}) })
}
