package store

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

// testEntry returns an entry that fits any store.
func testEntry(i Item) *Entry { return newEntry(i, true) }

// put is Set without conditions.
func put(s *Store, e *Entry) *Entry { return s.Set(e, nil, func() bool { return true }) }

// remove removes the entry of key and reports whether there was one.
func remove(s *Store, key string) bool {
	return s.DeleteFunc(key, func(*Entry) bool { return true }) != nil
}

// roomFor returns a MaxBytes that fits n entries with keys of three bytes and no value.
func roomFor(n int) int64 { return int64(n) * (3 + overhead) }

func owned(i int) *Entry { return testEntry(Item{Key: fmt.Sprintf("o%02d", i)}) }

func copied(i int) *Entry {
	return testEntry(Item{Key: fmt.Sprintf("c%02d", i), Class: Copy})
}

func has(s *Store, key string) bool {
	_, ok := s.Peek(key)
	return ok
}

func TestSetKeepsTheHighestStamp(t *testing.T) {
	s := New(Config{MaxBytes: 1 << 20})
	at := func(g expiry.Generation) *Entry { return testEntry(Item{Key: "k", Stamp: expiry.Loaded(g)}) }
	present := at(5)
	require.Same(t, present, put(s, present))
	require.Same(t, present, put(s, present), "the same entry again changes nothing")
	require.Same(t, present, put(s, at(4)), "an older one is dropped")

	again, newer := at(5), at(6)
	require.Same(t, again, put(s, again), "of equal stamps the later Set wins")
	require.Same(t, newer, put(s, newer))
	found, ok := s.Get("k")
	require.True(t, ok)
	require.Same(t, newer, found)

	old := testEntry(Item{Key: "k", Stamp: expiry.Loaded(5), Value: make([]byte, 2<<20)})
	require.Same(t, newer, put(s, old), "an older one is dropped, whatever its size")
	checkInvariants(t, s)
}

func TestSetOfTooLargeEntry(t *testing.T) {
	s := New(Config{MaxBytes: 10_000, CopyShare: .5})
	fits := func(c Class, size int) bool {
		return put(s, testEntry(Item{Key: "k", Class: c, Value: make([]byte, size-overhead-1)})) != nil
	}
	require.True(t, fits(Owned, 10_000))
	require.False(t, fits(Owned, 10_001))
	require.False(t, has(s, "k"), "the entry that was to be replaced is gone")
	require.True(t, fits(Copy, 5_000))
	require.False(t, fits(Copy, 5_001))
	require.Zero(t, s.Stats().Entries())
	require.EqualValues(t, 2, s.Stats().TooLarge)

	require.False(t, fits(Owned, 20_000))
	roomy := make([]byte, 100, 4_000)
	e := put(s, testEntry(Item{Key: "k", Value: roomy}))
	require.NotSame(t, &roomy[0], &e.Value()[0], "memory that is not charged is not retained")

	nothing := New(Config{})
	require.Nil(t, put(nothing, owned(1)))
	unbounded := New(Config{MaxBytes: math.MaxInt64, CopyShare: 1})
	require.NotNil(t, put(unbounded, copied(1)))
	require.NotNil(t, put(unbounded, copied(1)))
	require.NotNil(t, put(unbounded, owned(1)))
}

func TestDecodedValueIsCharged(t *testing.T) {
	s := New(Config{MaxBytes: 1 << 20, DecodedSize: 30})
	put(s, testEntry(Item{Key: "k", Value: make([]byte, 100)}))
	require.EqualValues(t, 1+100+overhead+extendedOverhead+100+30, s.Stats().Bytes())
	put(s, testEntry(Item{Key: "k", Absent: true}))
	require.EqualValues(t, 1+overhead+extendedOverhead, s.Stats().Bytes(), "an absent entry is not decoded")
}

func TestCopiesStayWithinTheirShare(t *testing.T) {
	s := New(Config{MaxBytes: roomFor(10), CopyShare: .3})
	count := func(c Class) int { return s.usage[c].Entries }

	for i := range 20 {
		put(s, copied(i))
	}
	require.Equal(t, 3, count(Copy), "copies stay within their share of an empty store")
	require.EqualValues(t, 17, s.Stats().Copies.Left[Capacity])
	for i := range 20 {
		put(s, owned(i))
	}
	require.Equal(t, 3, count(Copy), "owned entries displace each other first")
	require.Equal(t, 7, count(Owned))

	s.Sweep(Expired, func(e *Entry) bool { return e.Class() == Copy })
	for i := range 20 {
		put(s, owned(i))
	}
	require.Equal(t, 10, count(Owned), "owned entries use the room that copies do not")
	put(s, copied(1))
	require.Equal(t, 1, count(Copy), "copies take their share back")
	require.Equal(t, 9, count(Owned))

	put(s, testEntry(Item{Key: "c01"}))
	require.Equal(t, 0, count(Copy), "a copy that becomes owned moves")
	require.Equal(t, 10, count(Owned))
	put(s, testEntry(Item{Key: "c01", Class: Copy}))
	require.Equal(t, 1, count(Copy), "and back")
	require.Equal(t, 9, count(Owned))
	checkInvariants(t, s)
}

func TestCopiesAreEvictedIfNothingIsOwned(t *testing.T) {
	s := New(Config{MaxBytes: roomFor(5), CopyShare: 1})
	for i := range 5 {
		put(s, copied(i))
	}
	require.NotNil(t, put(s, owned(1)))
	require.Equal(t, 4, s.Stats().Copies.Entries)
	checkInvariants(t, s)
}

func TestPeekIsNotAUse(t *testing.T) {
	s := New(Config{MaxBytes: roomFor(10)})
	e := put(s, owned(0))
	for range 5 {
		s.Peek(e.Key())
	}
	require.Zero(t, e.policyWord.Load())
	for range 5 {
		s.Get(e.Key())
	}
	require.EqualValues(t, hotReads, e.policyWord.Load())
}

func TestDeleteIfRemovesThatEntryOnly(t *testing.T) {
	s := New(Config{MaxBytes: roomFor(10)})
	first := put(s, owned(1))
	second := put(s, owned(1))
	require.False(t, s.DeleteIf(first), "it was replaced")
	require.True(t, s.DeleteIf(second))
	require.False(t, s.DeleteIf(second))
	require.False(t, remove(s, "o01"))
	require.Same(t, second, put(s, second), "an entry may be added again")
	require.True(t, remove(s, "o01"))
	checkInvariants(t, s)
}

func TestSweepRemovesTheDead(t *testing.T) {
	s := New(Config{MaxBytes: 1 << 20})
	for i := range 1000 {
		put(s, testEntry(Item{Key: fmt.Sprint(i), Expires: expiry.Instant(i)}))
	}
	dead := func(e *Entry) bool { return e.Expires < 700 }
	require.Equal(t, 700, s.Sweep(Expired, dead))
	require.Equal(t, 0, s.Sweep(Expired, dead))
	require.Equal(t, 300, s.Stats().Entries())
	require.EqualValues(t, 700, s.Stats().Left(Expired))
	require.Zero(t, s.Stats().Left(Capacity))
	checkInvariants(t, s)
}

func TestReadsDoNotAllocate(t *testing.T) {
	s := New(Config{MaxBytes: 1 << 20})
	e := put(s, testEntry(Item{Key: "key", Value: []byte("value")}))
	SetDecoded(e, new(int))
	for name, read := range map[string]func(){
		"Get":     func() { s.Get("key") },
		"miss":    func() { s.Get("other") },
		"Peek":    func() { s.Peek("key") },
		"Decoded": func() { Decoded[int](e) },
	} {
		require.Zero(t, testing.AllocsPerRun(1000, read), name)
	}
}

// In a full store that evicts all the time, the memory in use is about what is charged.
func TestOverhead(t *testing.T) {
	if raceEnabled {
		t.Skip("the memory of the race detector would be measured too")
	}
	if strconv.IntSize < 64 {
		t.Skip("the charges are for 64-bit platforms")
	}
	const keyLen, valueLen = 16, 64 // allocation size classes, so that no rounding is measured
	for _, policy := range []Policy{S3FIFO, LRU} {
		for _, n := range []int{60_000, 75_000, 100_000} { // the table is fuller with some than with others
			before := heapBytes()
			s := New(Config{MaxBytes: int64(n) * (keyLen + valueLen + perEntry(policy)), Policy: policy})
			random := rand.New(rand.NewPCG(1, 2))
			for range 4 * n {
				key := fmt.Sprintf("%016d", random.IntN(2*n))
				if _, ok := s.Get(key); !ok {
					put(s, s.NewEntry(Item{Key: key, Value: make([]byte, valueLen)}))
				}
			}
			held, stats := heapBytes()-before, s.Stats()
			t.Logf("%v, %d entries: each takes %d bytes besides key and value, and is charged %d",
				policy, stats.Entries(), held/int64(stats.Entries())-keyLen-valueLen, perEntry(policy))
			require.InEpsilon(t, stats.Bytes(), held, .05)

			s.Resize(stats.Bytes()/100, 0)
			require.Less(t, heapBytes()-before, held/20, "the memory is released")
		}
	}
}

func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestSetAsksAdmit(t *testing.T) {
	s := New(Config{MaxBytes: 1 << 20})
	first := testEntry(Item{Key: "a", Stamp: expiry.Loaded(1)})
	require.Nil(t, s.Set(first, nil, func() bool { return false }))
	require.Same(t, first, s.Set(first, nil, func() bool { return true }))
	second := testEntry(Item{Key: "a", Stamp: expiry.Loaded(2)})
	require.Same(t, first, s.Set(second, nil, func() bool { return false }))
	found, ok := s.Get("a")
	require.True(t, ok)
	require.Same(t, first, found)

	// A writer that makes admit return false and then deletes leaves nothing behind.
	for range 2000 {
		var written atomic.Bool
		var both sync.WaitGroup
		both.Go(func() { s.Set(testEntry(Item{Key: "b"}), nil, func() bool { return !written.Load() }) })
		both.Go(func() {
			written.Store(true)
			remove(s, "b")
			_, ok := s.Get("b")
			require.False(t, ok)
		})
		both.Wait()
		_, ok := s.Get("b")
		require.False(t, ok)
	}
}

// In a store that grows and shrinks, Expire removes exactly the entries that have expired.
func TestExpireRemovesExactlyTheExpired(t *testing.T) {
	s := New(Config{MaxBytes: 1 << 30})
	random := rand.New(rand.NewPCG(1, 2))
	left := map[string]expiry.Instant{}
	for now := expiry.Instant(0); now < 100; now++ {
		for range 200 {
			e := testEntry(Item{
				Key:     fmt.Sprint(random.IntN(5000)),
				Expires: now + 1 + expiry.Instant(random.ExpFloat64()*20),
			})
			put(s, e)
			left[e.Key()] = e.Expires
		}
		expired := 0
		before := s.Stats().Left(Expired)
		s.Expire(now)
		for key, expires := range left {
			if expires <= now {
				delete(left, key)
				expired++
			}
			require.Equal(t, expires > now, has(s, key))
		}
		require.EqualValues(t, expired, s.Stats().Left(Expired)-before)
		require.Equal(t, len(left), s.Stats().Entries())
	}
	checkInvariants(t, s)
}

// A Sweep finds an entry that was admitted before it began, even if the entry is not in the table yet.
func TestSweepFindsAdmittedEntry(t *testing.T) {
	s := New(Config{MaxBytes: 1 << 20})
	swept := make(chan int, 1)
	s.Set(s.NewEntry(Item{Key: "k", Expires: 1}), nil, func() bool {
		go func() { swept <- s.Sweep(Removed, func(*Entry) bool { return true }) }()
		for i := 0; i < 10_000 && len(swept) == 0; i++ {
			runtime.Gosched() // let it run as far as it can
		}
		return true
	})
	require.Equal(t, 1, <-swept)
}
