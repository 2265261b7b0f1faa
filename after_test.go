package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// farRegions is two regions between which a write takes a while.
func farRegions(t *testing.T, config testcluster.Config, f func(c *testcluster.Cluster)) {
	t.Helper()
	config.Regions = []string{"eu", "us"}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Net.SetLatency("eu", "us", 200*time.Millisecond)
		f(c)
	})
}

// written returns what names a write, as a cookie brings it to another region.
func written(t *testing.T, r geocache.Receipt, err error) geocache.ReadWriteOption {
	t.Helper()
	require.NoError(t, err)
	require.False(t, r.Written.IsZero())
	w, err := geocache.ParseWritten(r.Written.String())
	require.NoError(t, err)
	require.Equal(t, r.Written, w)
	return geocache.After(w)
}

// by reads a key of the test group, and returns what its value says.
func by(t *testing.T, n *testcluster.Node, key string, opts ...geocache.ReadOption) string {
	t.Helper()
	value, err := n.Group.Get(context.Background(), key, opts...)
	require.NoError(t, err)
	v, _ := testcluster.ParseValue(value)
	return v.By
}

// A value that was Set, and that no origin has, is fetched from the region where it was written if it has not
// arrived here yet.
func TestMechanismAfterASet(t *testing.T) {
	farRegions(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		ctx := context.Background()
		writer := c.Node("eu-1")
		for i, key := range keys(6) { // by owners and by others
			reader := c.Nodes("us")[i%3]
			require.Equal(t, "load 1 in us", text(t, reader, key))
			r, err := writer.Set(key, "written")
			after := written(t, r, err)
			require.Equal(t, "load 1 in us", by(t, reader, key), "it takes 100 ms")
			require.Equal(t, "written", by(t, reader, key, after))
			values, err := reader.Group.GetMany(ctx, []string{key, "other"}, after)
			require.NoError(t, err)
			v, _ := testcluster.ParseValue(values[key])
			require.Equal(t, "written", v.By)
			require.Len(t, values, 2)
			time.Sleep(time.Second)
			for _, n := range c.Nodes() {
				require.Equal(t, "written", text(t, n, key), n.Name)
			}
		}
	})
}

// While that region cannot be reached there is an error, and nothing older.
func TestAfterASetThatCannotArrive(t *testing.T) {
	farRegions(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		reader := c.Node("us-1")
		require.Equal(t, "load 1 in us", text(t, reader, "key"))
		c.Net.Cut("eu", "us")
		r, err := c.Node("eu-1").Set("key", "written")
		after := written(t, r, err)
		_, err = reader.Group.Get(context.Background(), "key", after)
		require.ErrorIs(t, err, geocache.ErrNotArrived)
		_, err = reader.Group.GetMany(context.Background(), []string{"key"}, after)
		require.ErrorIs(t, err, geocache.ErrNotArrived)
		require.Equal(t, "load 1 in us", by(t, reader, "key"))
		c.Net.HealAll()
		time.Sleep(20 * time.Second)
		require.Equal(t, "written", by(t, reader, "key", after))
	})
}

// After a removal, of whichever kind, and after a Set with a setter, the key is loaded.
func TestMechanismAfterARemoval(t *testing.T) {
	ways := map[string]func(n *testcluster.Node, key string, opts ...geocache.WriteOption) error{
		"key": func(n *testcluster.Node, key string, opts ...geocache.WriteOption) error {
			return n.Group.Remove(context.Background(), key, opts...)
		},
		"prefix": func(n *testcluster.Node, key string, opts ...geocache.WriteOption) error {
			return n.Group.RemovePrefix(context.Background(), key[:3], opts...)
		},
		"tag": func(n *testcluster.Node, key string, opts ...geocache.WriteOption) error {
			return n.Group.RemoveTag(context.Background(), testcluster.TagsOf(key)[0], opts...)
		},
		"clear": func(n *testcluster.Node, key string, opts ...geocache.WriteOption) error {
			return n.Group.Clear(context.Background(), opts...)
		},
	}
	for way, remove := range ways {
		t.Run(way, func(t *testing.T) {
			farRegions(t, testcluster.Config{}, func(c *testcluster.Cluster) {
				for i, key := range keys(4) {
					reader, other := c.Nodes("us")[i%3], "x-"+key
					first := text(t, reader, key)
					text(t, reader, other)
					begun := time.Now()
					var r geocache.Receipt
					err := remove(c.Node("eu-2"), key, geocache.WithReceipt(&r))
					after := written(t, r, err)
					require.Equal(t, first, by(t, reader, key), "it has not arrived")
					loads := c.Origin.Loads(other)
					if way != "clear" {
						by(t, reader, other, after)
						require.Equal(t, loads, c.Origin.Loads(other), "it does not concern this key")
					}
					require.NotEqual(t, first, by(t, reader, key, after))
					value, err := reader.Group.Get(context.Background(), key, after)
					require.NoError(t, err)
					v, _ := testcluster.ParseValue(value)
					require.False(t, v.Begun.Before(begun))
					time.Sleep(time.Second)
				}
			})
		})
	}
}

// A read does not join a load from before the write.
func TestAfterDoesNotJoinOlderLoads(t *testing.T) {
	farRegions(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		reader := c.Node("us-1")
		c.Origin.Behave(testcluster.After(300 * time.Millisecond))
		go reader.Get("key")
		time.Sleep(100 * time.Millisecond)
		begun := time.Now()
		var r geocache.Receipt
		err := c.Node("eu-2").Group.Remove(context.Background(), "key", geocache.WithReceipt(&r))
		after := written(t, r, err)
		value, err := reader.Group.Get(context.Background(), "key", after)
		require.NoError(t, err)
		v, _ := testcluster.ParseValue(value)
		require.False(t, v.Begun.Before(begun))
		time.Sleep(time.Second)
	})
}

// A load from just before the write by a clock that is ahead has a higher generation than the write.
func TestAfterAWriteByAClockThatIsBehind(t *testing.T) {
	farRegions(t, usClocksAhead(3), func(c *testcluster.Cluster) {
		for i, key := range keys(6) {
			reader := c.Nodes("us")[i%3]
			text(t, reader, key)
			begun := time.Now()
			var r geocache.Receipt
			err := c.Node("eu-2").Group.Remove(context.Background(), key, geocache.WithReceipt(&r))
			after := written(t, r, err)
			value, err := reader.Group.Get(context.Background(), key, after)
			require.NoError(t, err)
			v, _ := testcluster.ParseValue(value)
			require.False(t, v.Begun.Before(begun))
			time.Sleep(time.Second)
		}
	})
}

// Nor is a stale value an answer.
func TestAfterAndStaleValues(t *testing.T) {
	config := testcluster.Config{Group: []geocache.GroupOption{geocache.WithStaleIfError(time.Hour)}}
	farRegions(t, config, func(c *testcluster.Cluster) {
		reader := c.Node("us-1")
		text(t, reader, "key")
		var r geocache.Receipt
		err := c.Node("eu-2").Group.Remove(context.Background(), "key", geocache.WithReceipt(&r))
		after := written(t, r, err)
		c.Origin.Behave(testcluster.Failing(errors.New("down")))
		_, err = reader.Group.Get(context.Background(), "key", after)
		require.ErrorContains(t, err, "down")
	})
}

// Within the lag of a replica, the primary region loads.
func TestAfterAndOriginsThatLag(t *testing.T) {
	config := testcluster.Config{
		WriteThrough: true, PrimaryOrigin: "eu", OriginLag: 10 * time.Second,
		Group: []geocache.GroupOption{geocache.WithHomeRegion("eu"), geocache.WithOriginLag(10 * time.Second)},
	}
	farRegions(t, config, func(c *testcluster.Cluster) {
		time.Sleep(20 * time.Second)
		reader := c.Node("us-1")
		reader.MustGet("key")
		r, err := c.Node("eu-2").Set("key", "written")
		after := written(t, r, err)
		require.NotEqual(t, "written", by(t, reader, "key"))
		require.Equal(t, "written", by(t, reader, "key", after))
	})
}

// A write after another one replaces it, even by a clock that is behind.
func TestAWriteAfterAnother(t *testing.T) {
	farRegions(t, usClocksAhead(3), func(c *testcluster.Cluster) {
		for i, key := range keys(5) {
			r, err := c.Node("us-1").Set(key, "first")
			after := written(t, r, err)
			_, err = c.Nodes("eu")[i%3].Set(key, "second", after)
			require.NoError(t, err)
			time.Sleep(5 * time.Second)
			for _, n := range c.Nodes() {
				require.Equal(t, "second", text(t, n, key), n.Name)
			}
		}
		require.NoError(t, c.Node("eu-1").Group.Remove(context.Background(), "key-1"))
	})
}

func TestAfterIsNotForUpdates(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 1, Counters: true}, func(c *testcluster.Cluster) {
		n := c.Node("eu-1")
		var r geocache.Receipt
		_, err := geocache.Increment(context.Background(), n.Counters, "n", 1, geocache.WithReceipt(&r))
		require.NoError(t, err)
		require.False(t, r.Written.IsZero())
		_, err = geocache.Increment(context.Background(), n.Counters, "n", 1, geocache.After(r.Written))
		require.ErrorContains(t, err, "After")
		_, err = n.Counters.Get(context.Background(), "n", nil)
		require.ErrorContains(t, err, "option 0 is nil")
	})
}

// What is from the future, by more than clocks may differ, is refused.
func TestAfterAWriteFromTheFuture(t *testing.T) {
	var r geocache.Receipt
	testcluster.Run(t, testcluster.Config{Nodes: 1}, func(c *testcluster.Cluster) {
		time.Sleep(time.Hour)
		require.NoError(t, c.Node("eu-1").Group.Remove(context.Background(), "key", geocache.WithReceipt(&r)))
	})
	testcluster.Run(t, testcluster.Config{Nodes: 1}, func(c *testcluster.Cluster) {
		_, err := c.Node("eu-1").Group.Get(context.Background(), "key", geocache.After(r.Written))
		require.ErrorContains(t, err, "from the future")
		_, err = c.Node("eu-1").Group.Get(context.Background(), "another", geocache.After(r.Written))
		require.NoError(t, err)
		err = c.Node("eu-1").Group.Set(context.Background(), "key", "v", geocache.After(r.Written))
		require.ErrorContains(t, err, "from the future")
	})
}

func TestWrittenTogether(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 1}, func(c *testcluster.Cluster) {
		g, ctx := c.Node("eu-1").Group, context.Background()
		var all, last geocache.Written
		for i := range 40 {
			var r geocache.Receipt
			require.NoError(t, g.Remove(ctx, fmt.Sprint(i%35), geocache.WithReceipt(&r)))
			last, all = r.Written, all.And(r.Written)
		}
		var tag, prefix, clear geocache.Receipt
		require.NoError(t, g.RemoveTag(ctx, "red", geocache.WithReceipt(&tag)))
		require.NoError(t, g.RemovePrefix(ctx, "red", geocache.WithReceipt(&prefix)))
		require.NoError(t, g.Clear(ctx, geocache.WithReceipt(&clear)))
		some := last.And(tag.Written).And(prefix.Written).And(clear.Written).And(last)
		for _, w := range []geocache.Written{{}, last, all, some} {
			var read geocache.Written
			require.NoError(t, read.UnmarshalText([]byte(w.String())))
			require.Equal(t, w, read)
			text, err := w.MarshalText()
			require.NoError(t, err)
			require.Equal(t, w.String(), string(text))
		}
		require.LessOrEqual(t, len(last.String()), 60)
		require.LessOrEqual(t, len(all.String()), 1300, "32 of them")
		require.Equal(t, all, all.And(last), "it is in there")
		require.Equal(t, all, all.And(geocache.Written{}))
	})
}

func FuzzParseWritten(f *testing.F) {
	f.Add("")
	f.Add("AQEAAAAAAAAABwAAAAAAAAAIAmV1AAAAAAAAAAk")
	f.Add("AQMAAAAAAAAABwAAAAAAAAAIAmV1AANyZWQ")
	f.Fuzz(func(t *testing.T, text string) {
		if w, err := geocache.ParseWritten(text); err == nil {
			require.Equal(t, text, w.String())
		}
	})
}
