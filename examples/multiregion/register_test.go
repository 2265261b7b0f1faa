package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A story is told to a register in milliseconds.
type story struct {
	*register
	zero time.Time
}

func newStory() story { return story{newRegister(), time.Now()} }

func (s story) at(ms int) time.Time { return s.zero.Add(time.Duration(ms) * time.Millisecond) }

func (s story) wrote(region string, version uint64, began, ended int, o outcome) {
	s.addWrite(region, &wrote{Row: 1, Version: version, Began: s.at(began), Ended: s.at(ended), Outcome: o})
}

// read has a node of the region read the version, and returns the promises that
// breaks.
func (s story) read(region string, version uint64, start, read int) (broken []string) {
	s.addReads(place{0, region}, region+"-1", seen{Row: 1, Version: version, Start: s.at(start), Read: s.at(read)})
	s.judge(func(_ place, promise, _ string) { broken = append(broken, promise) })
	return broken
}

func TestReadsAfterAcknowledgedWrites(t *testing.T) {
	s := newStory()
	s.wrote("eu", 1, 10, 20, acked)
	require.Empty(t, s.read("eu", 0, 5, 0), "before the write")
	require.Empty(t, s.read("eu", 0, 15, 0), "while it was under way")
	require.Empty(t, s.read("us", 0, 30, 0), "in another region")
	require.Zero(t, s.checked)
	require.Equal(t, []string{ackedSeen}, s.read("eu", 0, 21, 0))
	require.Empty(t, s.read("eu", 1, 21, 10))
	require.Empty(t, s.read("eu", 2, 21, 10), "newer than what is known of")

	s.wrote("eu", 2, 30, 40, failed)
	require.Empty(t, s.read("eu", 1, 50, 10), "it has not happened")
	s.wrote("eu", 3, 50, 60, acked)
	require.Equal(t, []string{ackedSeen}, s.read("eu", 1, 61, 10))
	require.Equal(t, []string{ackedSeen}, s.read("eu", 2, 61, 10), "failed, and older")
	require.EqualValues(t, 3, s.stale)
	require.EqualValues(t, 6, s.checked)
}

func TestWhatIsUncertainMayComeLater(t *testing.T) {
	for _, o := range []outcome{uncertain, unconfirmed} {
		s := newStory()
		s.wrote("eu", 1, 10, 20, o)
		require.Empty(t, s.read("eu", 0, 30, 0))
		s.wrote("eu", 2, 30, 40, acked)
		require.Empty(t, s.read("eu", 1, 50, 10))
		require.EqualValues(t, 1, s.inDoubt)
		require.Equal(t, []string{ackedSeen}, s.read("eu", 0, 50, 0))
		require.Empty(t, s.addMissing([]seen{{Row: 1, Version: 1}}))
		require.Len(t, s.addMissing([]seen{{Row: 1, Version: 0}}), 1)
	}
}

func TestReadsAfterClear(t *testing.T) {
	s := newStory()
	s.addClear(&clearing{Began: s.at(10), Ended: s.at(20)})
	require.Empty(t, s.read("us", 0, 15, 5))
	require.Empty(t, s.read("us", 0, 25, 11))
	require.Equal(t, []string{clearedGone}, s.read("us", 0, 25, 5))
	require.EqualValues(t, 1, s.stale)
	require.EqualValues(t, 2, s.cleared)
}

func TestVisible(t *testing.T) {
	s := newStory()
	s.addSighting("us", &sighting{Row: 1, Version: 1, At: s.at(55)})
	s.addSighting("us", &sighting{Row: 1, Version: 2, At: s.at(56)})
	s.wrote("eu", 1, 10, 11, acked)
	require.EqualValues(t, 1, s.visible()[[2]string{"eu", "us"}].count())
	require.InDelta(t, 45, milliseconds(s.visible()[[2]string{"eu", "us"}].quantile(0.5)), 2)
	require.Equal(t, map[int]uint64{1: 1}, s.acknowledged())
}
