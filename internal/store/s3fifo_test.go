package store

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// A key that is read between evictions stays, although it is overwritten all the time: a write must not
// reset the reads of the entry it replaces.
func TestReplacementInheritsReads(t *testing.T) {
	s := New(Config{MaxBytes: roomFor(10)})
	put(s, owned(0))
	s.Get("o00")
	s.Get("o00")
	for i := range 200 {
		put(s, owned(0))
		put(s, owned(1+i%90))
		s.Get("o00")
	}
	require.True(t, has(s, "o00"))
	e, _ := s.Peek("o00")
	require.EqualValues(t, mainQueue, e.place)
}

func TestScanDoesNotEvictHotEntries(t *testing.T) {
	s := New(Config{MaxBytes: roomFor(100)})
	for i := range 80 {
		put(s, owned(i))
		s.Get(owned(i).Key())
		s.Get(owned(i).Key())
	}
	for i := range 10_000 {
		put(s, testEntry(Item{Key: fmt.Sprintf("%03d", i)}))
	}
	kept := 0
	for i := range 80 {
		if has(s, owned(i).Key()) {
			kept++
		}
	}
	// In 3,000 runs all were kept. Some may be lost because keys may share a hash: with a scan ten times as
	// long, some ten of its keys look like one that was just evicted, and one run in three loses more than
	// two entries.
	require.GreaterOrEqual(t, kept, 78, "entries read before the scan survive it")
}

// A store in which every entry is hot finds a victim without using up the reads of every entry.
func TestEvictExaminesFewEntries(t *testing.T) {
	const n = 10_000
	s := New(Config{MaxBytes: n * (8 + overhead)})
	for i := range n {
		key := fmt.Sprintf("%08d", i)
		put(s, testEntry(Item{Key: key}))
		for range hotReads {
			s.Get(key)
		}
	}
	put(s, testEntry(Item{Key: "one more"}))
	untouched := 0
	for e := range s.All() {
		if e.policyWord.Load() == hotReads {
			untouched++
		}
	}
	require.Greater(t, untouched, n-2000)
	checkInvariants(t, s)
}
