package expiry

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// A machine simulates the wall clock and the monotonic clock of a real machine, which tests move by hand.
type machine struct {
	boot time.Time
	wall atomic.Int64 // how far the wall clock has advanced since boot, steps included
	mono atomic.Int64 // how far the monotonic clock has advanced since boot
}

func newMachine() *machine { return &machine{boot: time.Now()} }

func (m *machine) pass(d time.Duration) {
	m.wall.Add(int64(d))
	m.mono.Add(int64(d))
}

// stepWall sets the wall clock forward by d, or back if d is negative.
func (m *machine) stepWall(d time.Duration) { m.wall.Add(int64(d)) }

// now returns a reading of both clocks. Package time only moves the two readings of a Time together, so now
// modifies a time.Time through unsafe. TestMachineMovesClocksIndependently fails if its layout changes.
func (m *machine) now() time.Time {
	wall, mono := m.wall.Load(), m.mono.Load()
	t := m.boot.Add(time.Duration(wall))
	layout := (*struct {
		wall uint64
		ext  int64 // the monotonic reading
		loc  *time.Location
	})(unsafe.Pointer(&t))
	layout.ext += mono - wall
	return t
}

func TestMachineMovesClocksIndependently(t *testing.T) {
	m := newMachine()
	m.pass(time.Minute)
	m.stepWall(-time.Hour)
	require.Equal(t, time.Minute, m.now().Sub(m.boot))
	require.Equal(t, time.Minute-time.Hour, m.now().Round(0).Sub(m.boot.Round(0)))
}

// The generations of a clock match a model whose only state is the highest one so far.
func TestClockGenerationsMatchModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine()
		limit := time.Duration(rapid.Int64Range(1, int64(10*time.Second)).Draw(t, "limit"))
		c := NewClock(m.now, limit)
		var highest Generation // issued or merged

		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				m.pass(time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "d")))
			},
			"wall clock is set": func(t *rapid.T) {
				m.stepWall(time.Duration(rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(t, "ahead")))
			},
			"now": func(t *rapid.T) {
				g := c.Now()
				require.Greater(t, g, highest)
				require.Equal(t, max(At(m.now()), highest+1), g)
				highest = g
			},
			"merge": func(t *rapid.T) {
				ahead := time.Duration(rapid.Int64Range(-4*int64(limit), 4*int64(limit)).Draw(t, "ahead"))
				g := At(m.now()).Add(ahead) + Generation(rapid.IntRange(0, 1<<counterBits-1).Draw(t, "counter"))
				err := c.Merge(g)
				if ahead = g.Sub(At(m.now())); ahead <= 2*limit || g <= highest {
					require.NoError(t, err)
					highest = max(highest, g)
					return
				}
				var drift *DriftError
				require.ErrorAs(t, err, &drift)
				require.Equal(t, DriftError{Ahead: ahead, Limit: 2 * limit}, *drift)
			},
			"": func(t *rapid.T) { // after each step: nothing is forgotten, and nothing refused is merged
				require.Equal(t, max(At(m.now()), highest), c.Read())
			},
		})
	})
}

func TestClockCounterOverflowsIntoTime(t *testing.T) {
	m := newMachine()
	c := NewClock(m.now, 0)
	first := c.Now()
	for i := range Generation(3 << counterBits) {
		require.Equal(t, first+i+1, c.Now())
	}
}

func TestClockIsMonotonicUnderConcurrency(t *testing.T) {
	const goroutines, each = 8, 2000
	m := newMachine()
	c := NewClock(m.now, time.Hour)
	issued := make([][]Generation, goroutines)

	var running sync.WaitGroup
	for i := range issued {
		running.Go(func() {
			for j := range each {
				m.stepWall(time.Duration(rand.Int64N(int64(2*time.Second)) - int64(time.Second)))
				if j%10 == 0 {
					other := c.Read().Add(time.Duration(rand.Int64N(int64(time.Millisecond))))
					// The wall clock may have been set back far enough for Merge to refuse it.
					if c.Merge(other) == nil {
						g := c.Now()
						if g <= other {
							t.Errorf("%v issued after %v was merged", g, other)
						}
						issued[i] = append(issued[i], g)
					}
				}
				issued[i] = append(issued[i], c.Now())
			}
		})
	}
	running.Wait()

	seen := make(map[Generation]bool)
	for _, generations := range issued {
		last := Generation(0)
		for _, g := range generations {
			require.Greater(t, g, last)
			require.False(t, seen[g], "%v was issued twice", g)
			seen[g], last = true, g
		}
	}
}

// Within one microsecond everything depends on the counter, and goroutines that do nothing else contend for
// it.
func TestClockIssuesNoGenerationTwice(t *testing.T) {
	const goroutines, each = 4, 500_000
	moment := time.Now()
	c := NewClock(func() time.Time { return moment }, 0)

	var running sync.WaitGroup
	for range goroutines {
		running.Go(func() {
			for range each {
				c.Now()
			}
		})
	}
	running.Wait()
	require.Equal(t, At(moment)+goroutines*each, c.Now())
}

func TestClockRefusesDrift(t *testing.T) {
	m := newMachine()
	c := NewClock(m.now, 0)
	require.NoError(t, c.Check(At(m.now()).Add(DefaultMaxDrift)))
	require.EqualError(t, c.Check(At(m.now()).Add(10*time.Second)),
		"clock is 10s ahead of ours, the limit is 500ms: check time synchronisation on both machines")
	require.Equal(t, At(m.now()), c.Read(), "Check does not merge")

	require.NoError(t, c.Merge(At(m.now()).Add(2*DefaultMaxDrift)),
		"passed on by a node that is the allowed drift ahead, from one that is as far ahead of it")
	require.Equal(t, At(m.now()), c.Physical(), "merged generations do not count")
	before := c.Read()
	require.EqualError(t, c.Merge(At(m.now()).Add(10*time.Second)),
		"clock is 10s ahead of ours, the limit is 1s: check time synchronisation on both machines")
	require.Equal(t, before, c.Read())
	require.Equal(t, before+1, c.Now())

	m.pass(9 * time.Second)
	require.NoError(t, c.Merge(At(m.boot).Add(10*time.Second)), "no longer too far ahead")
}

// Instants match a model: the monotonic clock, plus every forward step of the wall clock that was observed.
func TestClockInstantsMatchModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine()
		c := NewClock(m.now, 0)
		require.Zero(t, c.Instant())
		var last Instant
		var lastMono, ahead, skipped int64

		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				m.pass(time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "d")))
			},
			"wall clock is set": func(t *rapid.T) {
				m.stepWall(time.Duration(rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(t, "ahead")))
			},
			"instant": func(t *rapid.T) {
				mono := m.mono.Load()
				if d := m.wall.Load() - mono - ahead; time.Duration(d).Abs() >= step {
					ahead += d
					skipped += max(d, 0)
				}
				now := c.Instant()
				require.Equal(t, Instant(mono+skipped), now)
				require.GreaterOrEqual(t, now, last, "goes back")
				require.GreaterOrEqual(t, now.Sub(last), time.Duration(mono-lastMono),
					"runs slower than the monotonic clock")
				last, lastMono = now, mono
			},
		})
	})
}

func TestInstantCountsSleepAndIgnoresBackwardSteps(t *testing.T) {
	m := newMachine()
	c := NewClock(m.now, 0)

	m.stepWall(-time.Hour)
	m.pass(time.Second)
	require.Equal(t, Instant(0).Add(time.Second), c.Instant(), "set back")

	m.stepWall(30 * time.Minute) // suspended: only the wall clock advanced
	require.Equal(t, Instant(0).Add(time.Second+30*time.Minute), c.Instant(), "suspended after it was set back")
	m.stepWall(-time.Minute)
	m.pass(time.Second)
	require.Equal(t, Instant(0).Add(2*time.Second+30*time.Minute), c.Instant(), "never goes back")

	for range 10 {
		m.stepWall(step / 5)
	}
	require.Equal(t, Instant(0).Add(2*time.Second+30*time.Minute+2*step), c.Instant(), "small steps add up")
	for range 1000 {
		m.stepWall(step / 5)
		c.Instant()
		m.stepWall(-step / 5)
		c.Instant()
	}
	require.Equal(t, Instant(0).Add(2*time.Second+30*time.Minute+2*step), c.Instant(), "noise does not")
}

func TestInstantNeverGoesBackUnderConcurrency(t *testing.T) {
	m := newMachine()
	c := NewClock(m.now, 0)
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			var last Instant
			for range 2000 {
				m.pass(time.Duration(rand.Int64N(int64(time.Millisecond))))
				m.stepWall(time.Duration(rand.Int64N(int64(2*time.Second)) - int64(time.Second)))
				now := c.Instant()
				if now < last {
					t.Errorf("%v after %v", now, last)
				}
				last = now
			}
		})
	}
	running.Wait()
}

// Times in a synctest bubble have no monotonic reading.
func TestClockInSynctestBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClock(nil, 0)
		g, instant := c.Now(), c.Instant()
		time.Sleep(time.Hour)
		require.Equal(t, time.Hour, c.Instant().Sub(instant))
		require.Equal(t, time.Hour, c.Now().Sub(g))
		require.Equal(t, time.Now(), c.Wall())
	})
}
