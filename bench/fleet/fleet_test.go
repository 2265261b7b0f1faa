package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain lets the fleet start this binary as its processes.
func TestMain(m *testing.M) {
	if isNode() {
		return
	}
	os.Exit(m.Run())
}

// small is a fleet for tests. Its figures mean nothing: the race detector is on, and other tests run beside
// it.
func small(t *testing.T, args ...string) options {
	o, err := parseFlags(append([]string{
		"-nodes", "4", "-wave", "2", "-floors", "400", "-copies", "50", "-hot", "100",
		"-reads", "500", "-writes", "100", "-lease", "500ms",
	}, args...))
	require.NoError(t, err)
	return o
}

// The whole program, with real processes.
func TestFleet(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes for ten seconds")
	}
	t.Setenv("GORACE", "atexit_sleep_ms=0") // otherwise a process with the race detector ends a second late
	var out bytes.Buffer
	err := run(t.Context(), small(t), &out)
	t.Log(out.String())
	// A write whose owner closes meanwhile may be unconfirmed.
	if err != nil {
		require.ErrorContains(t, err, "not yet confirmed")
	}
	require.NotRegexp(t, `stale reads +[1-9]`, out.String())
	for _, figure := range []string{
		`all serve copies after +\d`,
		`copies held by all processes together +200\n`,
		`all serve copies again after +\d`,
		`processor time of all survivors, until then +[\d.]+ s`,
		`bytes between them, until then +[\d.]+ MB`,
		`of 150 copies, in memory as before +[\d.]+ %`,
		`it serves copies after +\d`,
		`it has received +\d`,
		`slowest until a new process serves copies +\d`,
		`time with copies, of those not being restarted +\d`,
		`loads for each hot key +\d`,
		`all serve copies again, after it goes on, after +\d`,
		`slowest of [1-9][\d,]* reads +\d`,
		`slowest of [1-9][\d,]* writes +\d`,
		`reads and writes that failed +0 `,
		`stale reads +0 `,
	} {
		require.Regexp(t, figure, out.String())
	}
	require.Len(t, regexp.MustCompile(`(?m)^\S.*: `).FindAllString(out.String(), -1), 7, "sections")
}

// Copies that do not come back in time end the program with an error. Here they have no time: a process
// takes longer to start.
func TestCopiesThatDoNotComeBackAreAnError(t *testing.T) {
	err := run(t.Context(), small(t, "-lease", "200ms", "-patience", "1ns"), new(bytes.Buffer))
	require.ErrorIs(t, err, errNotBack)
	require.ErrorContains(t, err, "of 4 processes serve none")
}

func TestProcessThatEndsByItselfIsAnError(t *testing.T) {
	f, err := newFleet(t.Context(), small(t))
	require.NoError(t, err)
	defer f.killAll()
	all, err := f.launch(0, 1)
	require.NoError(t, err)
	require.NoError(t, all[1].cmd.Process.Kill())
	require.ErrorContains(t, f.await(all, 2, 0), "node-1 has ended: signal: killed")
	_, err = f.report(all[1:])
	require.ErrorContains(t, err, "node-1")
}

// A fakeCache is what a client reads and writes through.
type fakeCache struct {
	value []byte
	err   error
}

func (c *fakeCache) client(t *testing.T) *client {
	o, err := newOrigin()
	require.NoError(t, err)
	t.Cleanup(func() { o.file.Close() })
	return &client{
		id: "node-1", origin: o,
		get: func(context.Context, string) ([]byte, error) { return c.value, c.err },
		put: func(_ context.Context, _ string, v []byte) error { c.value = v; return c.err },
	}
}

// A read is stale if it returns less than what was acknowledged before it began. What has not been
// acknowledged may be returned, or not.
func TestStaleReads(t *testing.T) {
	var cache fakeCache
	c := cache.client(t)
	for range 3 {
		c.write(7)
	}
	require.EqualValues(t, 3, c.origin.acked(7))
	for version, stale := range map[uint64]int{2: 1, 3: 0, 4: 0} {
		c.take()
		cache.value = valueOf(version)
		c.read(7)
		seen := c.take()
		require.Equal(t, stale, seen.Stale, "version %d", version)
		require.Equal(t, stale == 1, seen.verdict() != nil)
	}
	cache.value = valueOf(2)
	c.read(7)
	seen := c.take()
	require.ErrorContains(t, seen.verdict(), "1 of 1 reads were stale; for example: "+
		"node-1 read key 7 at version 2 after version 3 had been acknowledged")
	require.Zero(t, c.origin.acked(6))
	require.Zero(t, c.origin.written(8))
}

func TestFailuresAreAnError(t *testing.T) {
	cache := fakeCache{err: errors.New("no")}
	c := cache.client(t)
	c.write(1)
	c.read(1)
	require.EqualValues(t, 1, c.origin.written(1))
	require.Zero(t, c.origin.acked(1), "it may or may not have happened")
	seen := c.take()
	require.ErrorContains(t, seen.verdict(), "2 of 2 reads and writes failed; for example: node-1: no")
}

// A load makes as many calls as it should, and no two writes of a key at the same time.
func TestLoad(t *testing.T) {
	var cache fakeCache
	c := cache.client(t)
	writing := make(chan struct{}, 1)
	c.put = func(context.Context, string, []byte) error {
		select {
		case writing <- struct{}{}:
		default:
			return errors.New("two writes of a key at the same time")
		}
		time.Sleep(5 * time.Millisecond)
		<-writing
		return nil
	}
	c.get = func(context.Context, string) ([]byte, error) { return valueOf(1 << 40), nil }
	l := c.startLoad(1000, 1000, []int{1}, []int{1})
	for c.origin.acked(1) < 20 {
		time.Sleep(time.Millisecond)
	}
	l.end()
	seen := c.take()
	require.NoError(t, seen.verdict())
	require.GreaterOrEqual(t, seen.Writes, 20)
	require.NotZero(t, seen.Reads)
	require.Empty(t, writing)
}

func TestTimeline(t *testing.T) {
	zero := time.Unix(1000, 0)
	at := func(s int) time.Time { return zero.Add(time.Duration(s) * time.Second) }
	var line timeline
	for s, serves := range []bool{false, true, true, false, false, true} { // serves in [1, 3) and from 5 on
		line.add(at(s), serves)
	}
	require.Len(t, line, 3)
	require.Equal(t, []gap{{at(0), at(1)}, {at(3), at(5)}}, line.gaps(at(0), at(9)))
	require.Equal(t, []gap{{at(4), at(5)}}, line.gaps(at(4), at(9)))
	require.Equal(t, []gap{{at(3), at(4)}}, line.gaps(at(2), at(4)))
	require.Empty(t, line.gaps(at(1), at(3)))
	require.Empty(t, line.gaps(at(5), at(9)))
	require.Equal(t, []gap{{at(0), at(9)}}, timeline(nil).gaps(at(0), at(9)))
	require.Equal(t, []gap{{at(3), at(9)}}, line[:2].gaps(at(2), at(9)))

	o := line.outage(at(2), at(10))
	require.Equal(t, outage{
		lapsed: true, first: 1 * time.Second, back: 3 * time.Second,
		longest: 2 * time.Second, away: 2 * time.Second, there: 8 * time.Second,
	}, o)
	require.InDelta(t, .75, o.share(), 1e-9)
	o.add(line.outage(at(1), at(3))) // one without a gap
	require.Equal(t, 1*time.Second, o.first)
	require.Equal(t, 10*time.Second, o.there)
	never := outage{there: time.Second}
	never.add(o)
	require.Equal(t, o.first, never.first, "the one without a gap has no first")
}

// A process is only there from its start until it is told to end.
func TestOutageOfProcessesThatComeAndGo(t *testing.T) {
	zero := time.Unix(1000, 0)
	at := func(s int) time.Time { return zero.Add(time.Duration(s) * time.Second) }
	left := &process{born: at(0), told: at(4), timeline: timeline{{at(1), true}}}
	came := &process{born: at(5), timeline: timeline{{at(6), true}}}
	o := outageOf([]*process{left, came}, at(2), at(10))
	require.Equal(t, 7*time.Second, o.there)
	require.Equal(t, time.Second, o.away)
	require.Equal(t, time.Second, o.back)
	require.Zero(t, outageOf([]*process{left}, at(5), at(10)))
}

func TestFlags(t *testing.T) {
	o, err := parseFlags(nil)
	require.NoError(t, err)
	require.Equal(t, 4, o.wave)
	for _, args := range [][]string{
		{"x"}, {"-nodes", "2"}, {"-wave", "20"}, {"-floors", "30"}, {"-hot", "1"}, {"-copies", "0"},
		{"-lease", "0s"}, {"-reads", "0"},
	} {
		_, err := parseFlags(args)
		require.Error(t, err, "%v", args)
	}
}
