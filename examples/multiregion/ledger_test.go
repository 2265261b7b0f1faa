package main

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// fails has the ledger judge a read of the key that fails now in the region.
func fails(l *ledger, region string, key int) (broken bool) {
	before := len(l.broken())
	time.Sleep(time.Millisecond)
	l.addTally(region, region+"-1", &tally{Failures: []failure{{Key: key, Start: time.Now(), End: time.Now(), Err: "no"}}})
	l.judge(time.Now())
	return len(l.broken()) > before
}

func TestWhichErrorsBreakAPromise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(time.Second, patience(time.Second), []string{"scene"})
		require.True(t, fails(l, "eu", 1), "the origin is there")

		l.addTally("us", "us-1", &tally{First: []int{1}, At: time.Now()})
		l.addTally("ap", "ap-1", &tally{First: []int{2}, At: time.Now()})
		back := l.begin("")
		require.True(t, fails(l, "eu", 1), "us has it")
		require.False(t, fails(l, "eu", 3), "nobody has it")
		back()
		require.False(t, fails(l, "eu", 3), "it may have joined a load of before")
		time.Sleep(patience(time.Second).load())
		require.True(t, fails(l, "eu", 3))

		heal := l.begin("ap")
		require.False(t, fails(l, "ap", 1), "nobody in ap has it")
		require.True(t, fails(l, "ap", 2), "ap has it")
		require.True(t, fails(l, "eu", 3), "eu is not cut off")
		heal()
		time.Sleep(patience(time.Second).load())
		require.True(t, fails(l, "ap", 1))

		c := l.sum(-1, "")
		require.EqualValues(t, 6, c.errors)
		require.EqualValues(t, 3, c.noSource)
		require.EqualValues(t, 9, c.reads())
	})
}

func TestFailuresWaitForReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(time.Second, patience(time.Second), []string{"scene"})
		l.begin("")
		l.addTally("us", "us-1", &tally{First: []int{1}, At: time.Now()})
		time.Sleep(time.Millisecond)
		start := time.Now()
		time.Sleep(time.Second)
		l.addTally("eu", "eu-1", &tally{Failures: []failure{{Key: 1, Start: start, End: time.Now()}}})
		l.judge(start)
		require.Zero(t, l.sum(0, "eu").reads(), "it arrived later")
		l.judge(time.Now())
		require.EqualValues(t, 1, l.sum(0, "eu").errors)
	})
}

func TestOldValuesBreakAPromise(t *testing.T) {
	l := newLedger(time.Second, patience(time.Second), []string{"scene"})
	old := &tally{MaxAge: 1100 * time.Millisecond, TooOld: []oldValue{{Key: 1, Age: 1100 * time.Millisecond, Source: "store"}}}
	for range 2 * maxBreaches {
		l.addTally("eu", "eu-1", old)
	}
	require.Len(t, l.broken(), maxBreaches)
	require.Equal(t, fresh, l.broken()[0].Promise)
	require.InDelta(t, 1.1, figuresOf(l.sum(-1, ""), l.ttl).MaxAgeOverTTL, 0.001)
}

func TestLoadsPerKeyPerExpiry(t *testing.T) {
	l := newLedger(time.Second, patience(time.Second), []string{"first", "second"})
	at := time.Now()
	loads := func(scene, key int, after time.Duration) {
		l.addLoad(scene, &load{Key: key, Region: "us", At: at.Add(after)})
	}
	loads(0, 1, 0)
	loads(0, 2, 0)
	loads(0, 1, 900*time.Millisecond) // as early as a key can expire
	require.EqualValues(t, 1, l.sum(-1, "").loadsPerKeyPerExpiry())
	loads(1, 1, 1000*time.Millisecond) // far too early
	require.InDelta(t, 4.0/3, l.sum(-1, "").loadsPerKeyPerExpiry(), 0.001)
	require.EqualValues(t, 1, l.sum(0, "").loadsPerKeyPerExpiry())
}
