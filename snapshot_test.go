package geocache_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// openAt opens a Cache with a group, as a restarted process does whose wall clock is off by offset.
func openAt(
	t *testing.T, offset time.Duration, getter geocache.Getter[string], opts ...geocache.GroupOption,
) *geocache.Group[string] {
	t.Helper()
	cache, err := geocache.Open(t.Context(), silent, geocache.WithClock(func() time.Time {
		return time.Now().Add(offset)
	}))
	require.NoError(t, err)
	t.Cleanup(func() { cache.Close() })
	g, err := geocache.NewGroup(cache, "test", getter, append(opts, geocache.WithTTL(time.Minute))...)
	require.NoError(t, err)
	return g
}

func snapshot[V any](t *testing.T, g *geocache.Group[V]) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, g.Snapshot(&b))
	return b.Bytes()
}

func TestSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var loads atomic.Int64
		before := openAt(t, 0, countLoads(&loads, ada))
		items := map[string]geocache.Item[string]{}
		for _, key := range keys(1000) {
			item, err := before.GetItem(t.Context(), key)
			require.NoError(t, err)
			items[key] = item
			time.Sleep(time.Millisecond)
		}
		require.NoError(t, before.Set(t.Context(), "set", "by hand"))
		require.NoError(t, before.Remove(t.Context(), "key-0"))
		data := snapshot(t, before)
		time.Sleep(20 * time.Second)

		after := openAt(t, 0, countLoads(&loads, ada))
		n, err := after.Restore(io.MultiReader(bytes.NewReader(data), strings.NewReader("what follows")))
		require.NoError(t, err)
		require.Equal(t, 1000, n, "one was removed, one was set")
		require.Equal(t, before.Stats().Floors, after.Stats().Floors)
		for key, was := range items {
			if key == "key-0" {
				continue
			}
			item, err := after.GetItem(t.Context(), key)
			require.NoError(t, err)
			require.Equal(t, was.Value, item.Value)
			require.Equal(t, was.Generation, item.Generation)
			require.Equal(t, geocache.SourceStore, item.Source)
			require.False(t, item.Expires.After(was.Expires), "it expires no later than before")
			require.WithinDuration(t, was.Expires, item.Expires, time.Second)
		}
		v, err := after.Get(t.Context(), "set")
		require.NoError(t, err)
		require.Equal(t, "by hand", v)
		require.EqualValues(t, 1000, loads.Load())
		_, ok := after.Peek("key-0")
		require.False(t, ok)

		time.Sleep(35 * time.Second)
		late := openAt(t, 0, ada)
		n, err = late.Restore(bytes.NewReader(data))
		require.NoError(t, err)
		require.Less(t, n, 1000, "some have expired")
		require.Positive(t, n)
		time.Sleep(20 * time.Second)
		late = openAt(t, 0, ada)
		n, err = late.Restore(bytes.NewReader(data))
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

// Floors are written in pages, and memory can be read after Close.
func TestSnapshotOfManyWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := func() (*geocache.Cache, *geocache.Group[string]) {
			cache, err := geocache.Open(t.Context(), silent, geocache.WithClock(time.Now),
				geocache.WithMaxValueBytes(100))
			require.NoError(t, err)
			g, err := geocache.NewGroup(cache, "test", ada)
			require.NoError(t, err)
			return cache, g
		}
		cache, before := open()
		for i, key := range keys(2000) {
			var err error
			if i%2 == 0 {
				err = before.Set(t.Context(), key, "set")
			} else {
				err = before.Remove(t.Context(), key)
			}
			require.NoError(t, err)
			if i == 500 {
				require.NoError(t, before.Clear(t.Context()))
			}
		}
		require.NoError(t, cache.Close())
		data := snapshot(t, before)
		cache, after := open()
		defer cache.Close()
		n, err := after.Restore(bytes.NewReader(data))
		require.NoError(t, err)
		require.Equal(t, 749, n)
		require.Equal(t, 1499, after.Stats().Floors)
	})
}

// Whatever the wall clock has done meanwhile, no value gets younger.
func TestSnapshotAndClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := openAt(t, 0, ada)
		_, err := before.Get(t.Context(), "ada")
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		was, err := before.GetItem(t.Context(), "ada")
		require.NoError(t, err)
		data := snapshot(t, before)

		for offset, restored := range map[time.Duration]int{
			0: 1, -400 * time.Millisecond: 1, 10 * time.Second: 1, 2 * time.Minute: 0,
		} {
			after := openAt(t, offset, ada)
			n, err := after.Restore(bytes.NewReader(data))
			require.NoError(t, err)
			require.Equal(t, restored, n, offset)
			if n == 0 {
				continue
			}
			item, err := after.GetItem(t.Context(), "ada")
			require.NoError(t, err)
			require.GreaterOrEqual(t, item.Age, was.Age, offset)
			require.NoError(t, after.Remove(t.Context(), "ada"))
			item, err = after.GetItem(t.Context(), "ada")
			require.NoError(t, err)
			require.Equal(t, geocache.SourceGetter, item.Source, "a new write beats what was restored")
		}
		after := openAt(t, -time.Hour, ada)
		n, err := after.Restore(bytes.NewReader(data))
		require.ErrorIs(t, err, geocache.ErrSnapshot)
		require.ErrorContains(t, err, "it is from the future")
		require.Zero(t, n)
	})
}

func TestSnapshotThatDoesNotFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := openAt(t, 0, ada)
		for _, key := range keys(1000) {
			_, err := before.Get(t.Context(), key)
			require.NoError(t, err)
		}
		for _, key := range keys(50) {
			_, err := before.Get(t.Context(), key)
			require.NoError(t, err)
		}
		after := openAt(t, 0, ada, geocache.WithMaxBytes(32<<10))
		n, err := after.Restore(bytes.NewReader(snapshot(t, before)))
		require.NoError(t, err)
		require.Greater(t, n, 50)
		require.Less(t, n, 500)
		there := 0
		for _, key := range keys(50) {
			if _, ok := after.Peek(key); ok {
				there++
			}
		}
		require.GreaterOrEqual(t, there, 49, "entries that are read come first")
	})
}

func TestDamagedSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := openAt(t, 0, ada)
		for _, key := range keys(5) {
			_, err := before.Get(t.Context(), key)
			require.NoError(t, err)
			require.NoError(t, before.Set(t.Context(), "set "+key, "1"))
		}
		good := snapshot(t, before)
		restore := func(data []byte) error {
			after := openAt(t, 0, ada)
			_, err := after.Restore(bytes.NewReader(data))
			for _, key := range keys(5) {
				if v, ok := after.Peek(key); ok {
					require.Equal(t, "value of "+key, v)
				}
			}
			return err
		}
		require.NoError(t, restore(good))
		for i := 0; i < len(good); i += 3 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << (i % 8)
			require.ErrorIs(t, restore(bad), geocache.ErrSnapshot, "byte %d", i)
			require.ErrorIs(t, restore(good[:i]), geocache.ErrSnapshot, "cut off at %d", i)
		}
		require.ErrorContains(t, restore([]byte("a text")), "it has been cut off")
		require.ErrorContains(t, restore([]byte("geocache snapshot 2\n")),
			"it is not in a format that this version can read")

		other, err := geocache.Open(t.Context(), silent, geocache.WithClock(time.Now))
		require.NoError(t, err)
		defer other.Close()
		g, err := geocache.NewGroup(other, "other", ada)
		require.NoError(t, err)
		_, err = g.Restore(bytes.NewReader(good))
		require.ErrorIs(t, err, geocache.ErrSnapshot)
		require.EqualError(t, err,
			`geocache: restoring other: geocache: not a good snapshot: it is of group "test"`)

		broken := errors.New("disk")
		_, err = g.Restore(io.MultiReader(bytes.NewReader(good[:30]), failingReader{broken}))
		require.ErrorIs(t, err, broken)
		require.NotErrorIs(t, err, geocache.ErrSnapshot)
		for room := range 400 {
			require.ErrorIs(t, before.Snapshot(&fullWriter{room}), errFull)
		}
	})
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

// fullWriter is a writer with room for this many bytes.
type fullWriter struct{ room int }

var errFull = errors.New("full")

func (w *fullWriter) Write(p []byte) (int, error) {
	if w.room -= len(p); w.room < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// What was written while a node was down is not undone by what it restores.
func TestRestoreAfterMissedWrites(t *testing.T) {
	testcluster.Run(t, testcluster.Config{TTL: 10 * time.Minute}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		n := c.Node("eu-2")
		var mine []string
		for _, key := range keys(90) {
			if c.Owner("eu", key) == n {
				mine = append(mine, key)
			}
			n.MustGet(key)
		}
		data := snapshot(t, n.Group)
		n.Crash()
		c.Settle()
		other := c.Node("eu-1")
		for i, key := range mine {
			var err error
			switch i % 3 {
			case 0:
				_, err = other.Set(key, "written")
			case 1:
				_, err = other.Remove(key)
			}
			require.NoError(t, err)
		}
		n.Restart(0)
		restored, err := n.Group.Restore(bytes.NewReader(data))
		require.NoError(t, err)
		require.Equal(t, len(mine)-(len(mine)+2)/3-(len(mine)+1)/3, restored, "a snapshot has no copies")
		time.Sleep(untilLeased)
		loads := c.Origin.Total()
		for i, key := range mine {
			for _, n := range c.Nodes() {
				v := text(t, n, key)
				switch i % 3 {
				case 0:
					require.Equal(t, "written", v)
				case 1:
					require.Equal(t, "load 2 in eu", v)
				case 2:
					require.Equal(t, "load 1 in eu", v)
				}
			}
		}
		require.Equal(t, (len(mine)+1)/3, c.Origin.Total()-loads, "only removed keys are loaded again")
	})
}

// A whole region that was down knows of the writes in any of its snapshots.
func TestARegionRestoresWritesFirst(t *testing.T) {
	for _, order := range [][]string{{"eu-1", "eu-2"}, {"eu-2", "eu-1"}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{TTL: 10 * time.Minute}, func(c *testcluster.Cluster) {
				time.Sleep(untilLeased)
				key := c.KeyOf("eu-2")
				c.Node("eu-2").MustGet(key)
				data := map[string][]byte{"eu-2": snapshot(t, c.Node("eu-2").Group)}
				_, err := c.Node("eu-3").Remove(key)
				require.NoError(t, err)
				data["eu-1"] = snapshot(t, c.Node("eu-1").Group)
				all := c.Nodes()
				for _, n := range all {
					n.Crash()
				}
				for _, n := range all {
					n.Restart(0)
				}
				time.Sleep(untilLeased)
				for _, node := range order {
					_, err := c.Node(node).Group.Restore(bytes.NewReader(data[node]))
					require.NoError(t, err)
				}
				for _, n := range c.Nodes() {
					require.Equal(t, "load 2 in eu", text(t, n, key), n.Name)
				}
			})
		})
	}
}

// A value keeps its tags, and a snapshot has the removals of tags and prefixes.
func TestSnapshotWithTags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := openAt(t, 0, ada)
		for _, key := range []string{"a", "b", "p/1"} {
			require.NoError(t, before.Set(t.Context(), key, "set", geocache.WithTags("tag of "+key)))
		}
		time.Sleep(time.Second)
		early := snapshot(t, before)
		require.NoError(t, before.RemoveTag(t.Context(), "tag of a"))
		require.NoError(t, before.RemovePrefix(t.Context(), "p/"))
		late := snapshot(t, before)

		after := openAt(t, 0, ada)
		n, err := after.Restore(bytes.NewReader(late))
		require.NoError(t, err)
		require.Equal(t, 1, n)
		_, err = after.Restore(bytes.NewReader(early))
		require.NoError(t, err)
		for key, want := range map[string]bool{"a": false, "b": true, "p/1": false} {
			_, ok := after.Peek(key)
			require.Equal(t, want, ok, key)
		}
		require.NoError(t, after.RemoveTag(t.Context(), "tag of b"))
		_, ok := after.Peek("b")
		require.False(t, ok)
	})
}
