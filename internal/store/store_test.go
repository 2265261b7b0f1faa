package store

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

// roomFor is a bound under which n entries of three-byte keys without a value fit.
func roomFor(n int) int64 { return int64(n) * (3 + Overhead) }

func owned(i int) *Entry { return &Entry{Key: fmt.Sprintf("o%02d", i)} }
func copied(i int) *Entry {
	return &Entry{Key: fmt.Sprintf("c%02d", i), Class: Copy}
}

func has(s *Store, key string) bool {
	_, ok := s.Peek(key)
	return ok
}

func TestGenerations(t *testing.T) {
	s := New(Config{MaxBytes: 1 << 20})
	at := func(g expiry.Generation) *Entry { return &Entry{Key: "k", Generation: g} }
	present := at(5)
	require.Same(t, present, s.Set(present))
	require.Same(t, present, s.Set(present), "the same entry again changes nothing")
	require.Same(t, present, s.Set(at(4)), "an older one is dropped")
	require.EqualValues(t, 1, s.Stats().Outdated)

	again, newer := at(5), at(6)
	require.Same(t, again, s.Set(again), "of equal ones the later wins")
	require.Same(t, newer, s.Set(newer))
	found, ok := s.Get("k")
	require.True(t, ok)
	require.Same(t, newer, found)

	old := &Entry{Key: "k", Generation: 5, Value: make([]byte, 2<<20)}
	require.Same(t, newer, s.Set(old), "an older one is dropped before its size matters")
	checkInvariants(t, s)
}

func TestTooLarge(t *testing.T) {
	s := New(Config{MaxBytes: 10_000, CopyShare: .5})
	fits := func(c Class, size int) bool {
		return s.Set(&Entry{Key: "k", Class: c, Value: make([]byte, size-Overhead-1)}) != nil
	}
	require.True(t, fits(Owned, 10_000))
	require.False(t, fits(Owned, 10_001))
	require.False(t, has(s, "k"), "what was to be replaced is gone")
	require.True(t, fits(Copy, 5_000))
	require.False(t, fits(Copy, 5_001))
	require.Zero(t, s.Stats().Entries())
	require.EqualValues(t, 2, s.Stats().TooLarge)

	require.False(t, fits(Owned, 20_000))
	s.Set(&Entry{Key: "k", Value: make([]byte, 0, 4_000)})
	require.Greater(t, s.Stats().Bytes(), int64(4_000), "capacity is what is held")

	nothing := New(Config{})
	require.Nil(t, nothing.Set(owned(1)))
	unbounded := New(Config{MaxBytes: math.MaxInt64, CopyShare: 1})
	require.NotNil(t, unbounded.Set(copied(1)))
	require.NotNil(t, unbounded.Set(copied(1)))
	require.NotNil(t, unbounded.Set(owned(1)))
}

func TestDecodedIsCharged(t *testing.T) {
	s := New(Config{MaxBytes: 1 << 20, DecodedSize: 30})
	s.Set(&Entry{Key: "k", Value: make([]byte, 100)})
	require.EqualValues(t, 1+100+Overhead+100+30, s.Stats().Bytes())
	s.Set(&Entry{Key: "k", Absent: true})
	require.EqualValues(t, 1+Overhead, s.Stats().Bytes(), "what is absent is not decoded")
}

func TestClasses(t *testing.T) {
	s := New(Config{MaxBytes: roomFor(10), CopyShare: .3})
	count := func(c Class) int { return s.usage[c].Entries }

	for i := range 20 {
		s.Set(copied(i))
	}
	require.Equal(t, 3, count(Copy), "copies stay within their share of an empty store")
	require.EqualValues(t, 17, s.Stats().Copies.Evicted)
	for i := range 20 {
		s.Set(owned(i))
	}
	require.Equal(t, 3, count(Copy), "owned entries give way to each other first")
	require.Equal(t, 7, count(Owned))

	s.Sweep(func(e *Entry) bool { return e.Class == Copy })
	for i := range 20 {
		s.Set(owned(i))
	}
	require.Equal(t, 10, count(Owned), "owned entries use what copies do not")
	s.Set(copied(1))
	require.Equal(t, 1, count(Copy), "copies take their share back")
	require.Equal(t, 9, count(Owned))

	s.Set(&Entry{Key: "c01"})
	require.Equal(t, 0, count(Copy), "a copy that becomes owned moves")
	require.Equal(t, 10, count(Owned))
	s.Set(&Entry{Key: "c01", Class: Copy})
	require.Equal(t, 1, count(Copy), "and back")
	require.Equal(t, 9, count(Owned))
	checkInvariants(t, s)
}

func TestCopiesGiveWayWhereNothingIsOwned(t *testing.T) {
	s := New(Config{MaxBytes: roomFor(5), CopyShare: 1})
	for i := range 5 {
		s.Set(copied(i))
	}
	require.NotNil(t, s.Set(owned(1)))
	require.Equal(t, 4, s.Stats().Copies.Entries)
	checkInvariants(t, s)
}

// TestReplaceKeepsPlace writes a key that is read as often as every other is
// evicted: the writes must not cost it its reads.
func TestReplaceKeepsPlace(t *testing.T) {
	s := New(Config{MaxBytes: roomFor(10)})
	s.Set(owned(0))
	s.Get("o00")
	s.Get("o00")
	for i := range 200 {
		s.Set(owned(0))
		s.Set(owned(1 + i%90))
		s.Get("o00")
	}
	require.True(t, has(s, "o00"))
	e, _ := s.Peek("o00")
	require.Equal(t, mainQueue, e.queue)
}

func TestScanDoesNoHarm(t *testing.T) {
	s := New(Config{MaxBytes: roomFor(100)})
	for i := range 80 {
		s.Set(owned(i))
		s.Get(owned(i).Key)
		s.Get(owned(i).Key)
	}
	for i := range 100_000 {
		s.Set(&Entry{Key: fmt.Sprintf("%03d", i)})
	}
	kept := 0
	for i := range 80 {
		if has(s, owned(i).Key) {
			kept++
		}
	}
	require.Equal(t, 80, kept, "what was read before the scan is there after it")
}

// TestEvictIsBounded sees that a store in which everything is hot finds a victim
// without taking every entry's reads off it.
func TestEvictIsBounded(t *testing.T) {
	const n = 10_000
	s := New(Config{MaxBytes: n * (8 + Overhead)})
	for i := range n {
		key := fmt.Sprintf("%08d", i)
		s.Set(&Entry{Key: key})
		for range maxReads {
			s.Get(key)
		}
	}
	s.Set(&Entry{Key: "one more"})
	untouched := 0
	for e := range s.All() {
		if e.mark.Load() == maxReads {
			untouched++
		}
	}
	require.Greater(t, untouched, n-500)
	checkInvariants(t, s)
}

func TestPeekDoesNotCount(t *testing.T) {
	s := New(Config{MaxBytes: roomFor(10)})
	e := s.Set(owned(0))
	for range 5 {
		s.Peek(e.Key)
	}
	require.Zero(t, e.mark.Load())
	for range 5 {
		s.Get(e.Key)
	}
	require.EqualValues(t, maxReads, e.mark.Load())
}

func TestDelete(t *testing.T) {
	s := New(Config{MaxBytes: roomFor(10)})
	first := s.Set(owned(1))
	second := s.Set(owned(1))
	require.False(t, s.DeleteIf(first), "it was replaced")
	require.True(t, s.DeleteIf(second))
	require.False(t, s.DeleteIf(second))
	require.False(t, s.Delete("o01"))
	require.Same(t, second, s.Set(second), "an entry may come back")
	require.True(t, s.Delete("o01"))
	checkInvariants(t, s)
}

func TestSweep(t *testing.T) {
	s := New(Config{MaxBytes: 1 << 20})
	for i := range 1000 {
		s.Set(&Entry{Key: fmt.Sprint(i), Expires: expiry.Instant(i)})
	}
	dead := func(e *Entry) bool { return e.Expires < 700 }
	require.Equal(t, 700, s.Sweep(dead))
	require.Equal(t, 0, s.Sweep(dead))
	require.Equal(t, 300, s.Stats().Entries())
	require.EqualValues(t, 700, s.Stats().Owned.Swept)
	require.Zero(t, s.Stats().Owned.Evicted)
	checkInvariants(t, s)
}

func TestDecodedIsSetOnce(t *testing.T) {
	type value struct{ n int }
	var e Entry
	require.Nil(t, e.Decoded())
	kept := make([]any, 8)
	var wg sync.WaitGroup
	for i := range kept {
		wg.Go(func() { kept[i] = e.SetDecoded(&value{i}) })
	}
	wg.Wait()
	for _, v := range kept {
		require.Same(t, e.Decoded(), v)
	}
}

func TestReadsDoNotAllocate(t *testing.T) {
	s := New(Config{MaxBytes: 1 << 20})
	e := s.Set(&Entry{Key: "key", Value: []byte("value")})
	e.SetDecoded(new(int))
	for name, read := range map[string]func(){
		"Get":     func() { s.Get("key") },
		"miss":    func() { s.Get("other") },
		"Peek":    func() { s.Peek("key") },
		"Decoded": func() { e.Decoded() },
	} {
		require.Zero(t, testing.AllocsPerRun(1000, read), name)
	}
}

// TestOverhead measures what Overhead says: in a full store that evicts all the
// time, the memory held is about what is charged.
func TestOverhead(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's own memory cannot be told apart")
	}
	const keyLen, valueLen = 16, 64            // whole size classes, so that rounding is not measured
	for _, n := range []int{60_000, 100_000} { // the map is more, or less, full
		before := heap()
		s := New(Config{MaxBytes: int64(n) * (keyLen + valueLen + Overhead)})
		random := rand.New(rand.NewPCG(1, 2))
		for range 4 * n {
			key := fmt.Sprintf("%016d", random.IntN(2*n))
			if _, ok := s.Get(key); !ok {
				s.Set(&Entry{Key: key, Value: make([]byte, valueLen)})
			}
		}
		held, stats := heap()-before, s.Stats()
		t.Logf("%d entries: %d bytes each beside key and value, %d charged", stats.Entries(),
			held/int64(stats.Entries())-keyLen-valueLen, Overhead)
		require.InEpsilon(t, stats.Bytes(), held, .1)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestSetIf(t *testing.T) {
	s := New(Config{MaxBytes: 1 << 20})
	first := &Entry{Key: "a", Generation: 1}
	require.Nil(t, s.SetIf(first, func() bool { return false }))
	require.Same(t, first, s.SetIf(first, func() bool { return true }))
	require.Same(t, first, s.SetIf(&Entry{Key: "a", Generation: 2}, func() bool { return false }))
	there, ok := s.Get("a")
	require.True(t, ok)
	require.Same(t, first, there)

	// Whoever makes admit fail and then deletes leaves nothing behind, and
	// nobody sees anything afterwards.
	for range 2000 {
		var written atomic.Bool
		var both sync.WaitGroup
		both.Go(func() { s.SetIf(&Entry{Key: "b"}, func() bool { return !written.Load() }) })
		both.Go(func() {
			written.Store(true)
			s.Delete("b")
			_, ok := s.Get("b")
			require.False(t, ok)
		})
		both.Wait()
		_, ok := s.Get("b")
		require.False(t, ok)
	}
}
