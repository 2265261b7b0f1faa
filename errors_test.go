package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// failAsKeySays fails in the way that its key names.
func failAsKeySays(ctx context.Context, key string) (string, error) {
	switch key, _, _ = strings.Cut(key, " "); key {
	case "absent":
		return "", fmt.Errorf("select: %w", geocache.ErrNotFound)
	case "fails":
		return "", fmt.Errorf("reading row: %w", &fs.PathError{Op: "open", Path: "/rows", Err: fs.ErrPermission})
	case "gives-up":
		return "", fmt.Errorf("query: %w", context.DeadlineExceeded) // because of a timeout of its own
	case "heeds":
		<-ctx.Done()
		return "", fmt.Errorf("query: %w", ctx.Err())
	case "panics":
		panic(fs.ErrPermission)
	case "panics-with-text":
		panic("at the disco")
	case "blocks":
		<-ctx.Done()
		time.Sleep(time.Second) // it notices late
	case "large":
		return strings.Repeat("x", 2000), nil
	}
	return key, nil
}

// Checks the error that a reader gets in the process that loads, and in another one.
func TestErrors(t *testing.T) {
	const large = "key or value too large: the getter's value has 2000 bytes, at most 1000 are allowed"
	for _, test := range []struct {
		key          string
		is           error  // in both
		here, remote string // the error's text after its location
	}{
		{"absent", geocache.ErrNotFound, "", ""},
		{"fails", nil, "reading row: open /rows: permission denied", "reading row: open /rows: permission denied"},
		{"gives-up", nil, "query: context deadline exceeded", "query: context deadline exceeded"},
		{"heeds", geocache.ErrTimeout, "load timed out", "load timed out"},
		{"panics", nil, "panicked: permission denied", "panicked: permission denied"},
		{"panics-with-text", nil, "panicked: at the disco", "panicked: at the disco"},
		{"blocks", geocache.ErrTimeout, "load timed out", "load timed out"},
		{"large", geocache.ErrTooLarge, large, large},
	} {
		t.Run(test.key, func(t *testing.T) {
			config := testcluster.Config{Cache: []geocache.Option{geocache.WithMaxValueBytes(1000)}}
			testcluster.Run(t, config, func(c *testcluster.Cluster) {
				groups := onAll(c, "g", geocache.GetterFunc[string](failAsKeySays),
					geocache.WithLoadTimeout(10*time.Second))
				key := keyOwnedBy(groups["eu-1"], "eu-1", test.key)
				for node, want := range map[string]string{"eu-1": test.here, "eu-2": test.remote} {
					_, err := groups[node].GetItem(c.T.Context(), key)
					_, errs := groups[node].GetMany(c.T.Context(), []string{key})
					var e *geocache.Error
					require.ErrorAs(t, err, &e)
					require.Equal(t, "GetItem", e.Op)
					require.Equal(t, "g", e.Group)
					require.Equal(t, key, e.Key)
					require.False(t, e.Inferred)
					require.Equal(t, node == "eu-1" && test.key == "gives-up", errors.Is(err, context.DeadlineExceeded))
					if test.key == "absent" {
						require.EqualError(t, err, fmt.Sprintf("geocache: getitem g/%q: key not found", key))
						require.ErrorIs(t, err, geocache.ErrNotFound)
						require.NoError(t, errs)
						continue
					}
					if test.is != nil {
						require.ErrorIs(t, err, test.is)
						require.ErrorIs(t, errs, test.is)
					}
					if test.is == geocache.ErrTimeout && node == "eu-1" { // either the load or the wait for it ends first
						require.ErrorContains(t, err, want)
						continue
					}
					require.EqualError(t, err, fmt.Sprintf("geocache: getitem g/%q at eu-1 in eu: %s", key, want))
					require.EqualError(t, errs, fmt.Sprintf("geocache: getmany g/%q at eu-1 in eu: %s", key, want))
					require.Equal(t, "eu-1", e.Node)
					require.Equal(t, "eu", e.Region)

					here := node == "eu-1"
					var path *fs.PathError
					require.Equal(t, here && test.key == "fails", errors.As(err, &path),
						"the getter's own error stays in its process")
					require.Equal(t, here && (test.key == "fails" || test.key == "panics"), errors.Is(err, fs.ErrPermission))
					var p *geocache.PanicError
					if require.Equal(t, here && strings.HasPrefix(test.key, "panics"), errors.As(err, &p)); p != nil {
						require.Contains(t, string(p.Stack), "geocache_test.failAsKeySays")
						require.NotNil(t, p.Value)
					}
				}
			})
		})
	}
}

// keyOwnedBy returns a key that begins with word and that owner owns.
func keyOwnedBy(g *geocache.Group[string], owner, word string) string {
	for i := 0; ; i++ {
		if key := fmt.Sprintf("%s %d", word, i); g.Locate(key)[0].Owner.ID == owner {
			return key
		}
	}
}

func TestKeyTooLarge(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		key := keyOwnedBy(c.Node("eu-1").Group, "eu-1", strings.Repeat("k", 5000))
		_, err := c.Node("eu-2").Group.Get(c.T.Context(), key)
		require.ErrorIs(t, err, geocache.ErrTooLarge)
		require.EqualError(t, err,
			fmt.Sprintf(`geocache: get test/"%s…": key or value too large: `+
				`a key of %d bytes, at most 4096 are allowed`,
				strings.Repeat("k", 64), len(key)))
		var e *geocache.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, key, e.Key, "the error has the whole key")
		require.Zero(t, c.Origin.Total())
	})
}

// A getter may read from another group. That group's error is then its own.
func TestErrorFromAnotherGroup(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		inner := onAll(c, "inner", geocache.GetterFunc[string](failAsKeySays))["eu-3"]
		innerKey := keyOwnedBy(inner, "eu-3", "fails")
		getter := geocache.GetterFunc[string](func(ctx context.Context, key string) (string, error) {
			_, err := inner.Get(ctx, innerKey)
			return "", fmt.Errorf("for %s: %w", key[:5], err)
		})
		outer := onAll(c, "outer", getter)
		key := keyOwnedBy(outer["eu-1"], "eu-1", "outer")
		text := fmt.Sprintf(`geocache: get outer/%q at eu-1 in eu: for outer: `+
			`geocache: get inner/%q at eu-3 in eu: reading row: open /rows: permission denied`, key, innerKey)
		_, err := outer["eu-1"].Get(c.T.Context(), key)
		require.EqualError(t, err, text)
		require.ErrorIs(t, err, fs.ErrPermission)
		_, err = outer["eu-2"].Get(c.T.Context(), key)
		require.EqualError(t, err, text)
	})
}

func TestCallersDeadlineIsNotErrTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, err := geocache.Open(t.Context(), geocache.WithClock(time.Now))
		require.NoError(t, err)
		defer cache.Close()
		getter := geocache.GetterFunc[string](func(ctx context.Context, _ string) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		})
		g, err := geocache.NewGroup(cache, "g", getter, geocache.WithLoadTimeout(time.Minute))
		require.NoError(t, err)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = g.Get(ctx, "ada")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, geocache.ErrTimeout)
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err = g.Get(ctx, "ada")
		require.ErrorIs(t, err, context.Canceled)
		require.EqualError(t, err, `geocache: get g/"ada": context canceled`)

		synctest.Wait() // else the load may find another caller before it is cancelled
		begun := time.Now()
		_, err = g.Get(t.Context(), "ada")
		require.ErrorIs(t, err, geocache.ErrTimeout)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(begun))
	})
}

// With real clocks, the timeouts that a load has end in any order. The error is the same.
func TestLoadTimeout(t *testing.T) {
	cache, err := geocache.Open(t.Context())
	require.NoError(t, err)
	release := make(chan struct{})
	getter := geocache.GetterFunc[string](func(context.Context, string) (string, error) {
		<-release
		return "", nil
	})
	g, err := geocache.NewGroup(cache, "g", getter, geocache.WithLoadTimeout(20*time.Millisecond))
	require.NoError(t, err)
	for i := range 20 {
		_, err := g.Get(t.Context(), fmt.Sprint(i))
		require.ErrorIs(t, err, geocache.ErrTimeout)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
	}
	require.Eventually(t, func() bool { return g.Stats().Abandoned == 20 }, 10*time.Second, time.Millisecond)
	close(release)
	require.NoError(t, cache.Close())
}
