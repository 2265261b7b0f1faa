package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
)

// The tests of the last look: whatever a read waits for, what it returns is alive when it returns, or was
// loaded since it began.

// lateness is a getter and a codec whose work takes time. Its values are "key n", from the nth load of a key.
type lateness struct {
	loads   map[string]time.Duration // by value, how long it takes
	decodes map[string]time.Duration
	bad     string                   // the value that does not decode
	none    string                   // and the one that the origin says not to have
	lives   map[string]time.Duration // by key, for how long, if not for five seconds

	mu sync.Mutex
	n  map[string]int
}

func (l *lateness) Get(context.Context, string) (string, error) { panic("is an ItemGetter") }

func (l *lateness) GetItem(_ context.Context, key string) (loaded, error) {
	l.mu.Lock()
	if l.n == nil {
		l.n = make(map[string]int)
	}
	l.n[key]++
	v := fmt.Sprint(key, " ", l.n[key])
	l.mu.Unlock()
	time.Sleep(l.loads[v])
	if v == l.none {
		return loaded{}, ErrNotFound
	}
	ttl := l.lives[key]
	if ttl == 0 {
		ttl = 5 * time.Second
	}
	return loaded{Value: v, TTL: ttl}, nil
}

func (l *lateness) Encode(v string) ([]byte, error) { return []byte(v), nil }

func (l *lateness) Decode(b []byte) (string, error) {
	if string(b) == l.bad {
		return "", errors.New("not of this version")
	}
	time.Sleep(l.decodes[string(b)])
	return string(b), nil
}

// late runs f with a group of l's.
func late(t *testing.T, l *lateness, f func(t *testing.T, g *textGroup), opts ...groupOption) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		opts = append(opts, withCodec(l), withTTL(time.Minute))
		f(t, alone(t, getter(l), opts...))
	})
}

// has has keys loaded so long ago. They are in memory, and not decoded yet.
func (g *Group) has(t *testing.T, ago time.Duration, keys ...string) {
	for _, key := range keys {
		require.NoError(t, g.fill(t.Context(), key).err)
	}
	time.Sleep(ago)
}

// Every kind of read looks after it has decoded.
func TestMechanismTheLastLookComesAfterDecoding(t *testing.T) {
	for name, read := range map[string]func(ctx context.Context, g *textGroup) (string, error){
		"Get": func(ctx context.Context, g *textGroup) (string, error) { return g.Get(ctx, "ada") },
		"GetItem": func(ctx context.Context, g *textGroup) (string, error) {
			i, err := g.GetItem(ctx, "ada")
			return i.Value, err
		},
		"GetMany": func(ctx context.Context, g *textGroup) (string, error) {
			m, err := g.GetMany(ctx, []string{"ada"})
			return m["ada"], err
		},
		"Update": func(ctx context.Context, g *textGroup) (read string, err error) {
			_, err = g.Update(ctx, "ada", func(old string, _ bool) (string, error) {
				read = old
				return "new", nil
			})
			return read, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			slow := &lateness{decodes: map[string]time.Duration{"ada 1": 2 * time.Second}}
			late(t, slow, func(t *testing.T, g *textGroup) {
				g.has(t, 4*time.Second, "ada")
				v, err := read(t.Context(), g)
				require.NoError(t, err)
				require.Equal(t, "ada 2", v)
			})
		})
	}
	t.Run("Peek, All", func(t *testing.T) {
		slow := &lateness{decodes: map[string]time.Duration{"ada 1": 2 * time.Second, "bob 1": 2 * time.Second}}
		late(t, slow, func(t *testing.T, g *textGroup) {
			g.has(t, 4*time.Second, "ada")
			_, ok := g.Peek("ada")
			require.False(t, ok)
			g.has(t, 4*time.Second, "bob")
			for key := range g.All() {
				t.Error(key, "has expired")
			}
		})
	})
}

// A codec that takes longer than values live decodes what there is, and GetItem says what that is.
func TestACodecThatTakesLongerThanValuesLive(t *testing.T) {
	slow := &lateness{decodes: map[string]time.Duration{"ada 1": 6 * time.Second, "ada 2": 6 * time.Second}}
	late(t, slow, func(t *testing.T, g *textGroup) {
		g.has(t, time.Second, "ada")
		i, err := g.GetItem(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, "ada 2", i.Value)
		require.Equal(t, SourceStale, i.Source)
		require.Equal(t, 6*time.Second, i.Age)
		require.EqualValues(t, 1, g.Stats().Stale)
	})
}

// What GetMany has of one key does not grow too old while it does something for another.
func TestMechanismTheLastLookOfGetMany(t *testing.T) {
	const long = 3 * time.Second
	type durations = map[string]time.Duration
	for name, test := range map[string]struct {
		*lateness
		has  map[string]time.Duration // in memory, by key, for how long
		want map[string]string
	}{
		"that is loaded": {
			&lateness{loads: durations{"bob 1": long}},
			durations{"ada": 4 * time.Second},
			map[string]string{"ada": "ada 2", "bob": "bob 1"},
		},
		"that is decoded": {
			&lateness{decodes: durations{"bob 1": long}, lives: durations{"bob": time.Minute}},
			durations{"ada": 4 * time.Second, "bob": 0},
			map[string]string{"ada": "ada 2", "bob": "bob 1"},
		},
		"that does not decode": {
			&lateness{bad: "bob 1", loads: durations{"bob 2": long}, lives: durations{"bob": time.Minute}},
			durations{"ada": 4 * time.Second, "bob": 0},
			map[string]string{"ada": "ada 2", "bob": "bob 2"},
		},
		"that is filled once more": {
			&lateness{loads: durations{"cid 1": long, "bob 2": time.Second}},
			durations{"ada": 1500 * time.Millisecond, "bob": 4 * time.Second},
			map[string]string{"ada": "ada 2", "bob": "bob 2", "cid": "cid 1"},
		},
		"and what it had was an absence": {
			&lateness{none: "ada 1", loads: durations{"bob 1": long}},
			durations{"ada": 4 * time.Second},
			map[string]string{"ada": "ada 2", "bob": "bob 1"},
		},
		"and what it had was stale": {
			&lateness{loads: durations{"bob 1": long, "ada 2": time.Second}},
			durations{"ada": 5 * time.Second},
			map[string]string{"ada": "ada 2", "bob": "bob 1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			late(t, test.lateness, func(t *testing.T, g *textGroup) {
				for key, ago := range test.has {
					go func() {
						time.Sleep(5*time.Second - ago)
						g.fill(context.Background(), key)
					}()
				}
				time.Sleep(5 * time.Second)
				synctest.Wait()
				var keys []string
				for _, key := range []string{"ada", "bob", "cid"} {
					if test.want[key] != "" {
						keys = append(keys, key)
					}
				}
				values, err := g.GetMany(t.Context(), keys)
				require.NoError(t, err)
				require.Equal(t, test.want, values)
				require.EqualValues(t, len(keys), g.Stats().reads(), "each is counted once")
			}, withNegativeTTL(5*time.Second), withStaleWhileRevalidate(time.Second), withStaleIfError(time.Hour))
		})
	}
}

// What was loaded for the call is what there is, if it lives shorter than another key's load takes.
func TestGetManyOfAKeyThatLivesShorterThanAnotherTakes(t *testing.T) {
	l := &lateness{
		loads: map[string]time.Duration{"bob 1": 3 * time.Second},
		lives: map[string]time.Duration{"ada": time.Second},
	}
	late(t, l, func(t *testing.T, g *textGroup) {
		values, err := g.GetMany(t.Context(), []string{"ada", "bob"})
		require.NoError(t, err)
		require.Equal(t, map[string]string{"ada": "ada 1", "bob": "bob 1"}, values)
		require.EqualValues(t, 1, g.Stats().Stale)
	})
}

// A value from before a read, by a clock that is ahead, is not taken for one that was loaded since. A
// stale one may be served for as long as what has made it be served allows.
func TestMechanismTheLastLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := alone(t, counting(), withStaleIfError(time.Hour), withStaleWhileRevalidate(time.Second))
		begun := g.cache.clock.Instant()
		e := func(born expiry.Instant) *store.Entry {
			return g.store.NewEntry(store.Item{
				Key:     "ada",
				Stamp:   expiry.Loaded(g.cache.clock.Now().Add(200 * time.Millisecond)),
				Born:    born,
				Expires: begun.Add(time.Second),
			})
		}
		before := e(begun.Add(-ageRounding) - 1)
		end := before.Expires
		until := func(a answer) expiry.Instant { return g.servableUntil(a, begun) }
		require.Equal(t, end, until(answer{entry: before, source: SourceOwner}))
		require.Equal(t, end.Add(time.Hour), until(answer{entry: before, source: SourceStale}))
		require.Equal(t, end.Add(time.Second), until(answer{entry: before, source: SourceStale, revalidated: true}))
		require.Greater(t, until(answer{entry: e(begun), source: SourceOwner}), end.Add(time.Hour))
		require.Greater(t, until(answer{err: ErrClosed}), end.Add(time.Hour))
		require.Equal(t, SourceOwner, g.markStale(answer{entry: before, source: SourceOwner}, end-1).source)
		require.Equal(t, SourceStale, g.markStale(answer{entry: before, source: SourceOwner}, end).source)
	})
}

// An absence that is not kept is the answer of who has joined the load of another.
func TestAnAbsenceThatIsNotKeptIsLoadedOnce(t *testing.T) {
	l := &lateness{none: "ada 1", loads: map[string]time.Duration{"ada 1": time.Second}}
	late(t, l, func(t *testing.T, g *textGroup) {
		go g.Get(context.Background(), "ada")
		time.Sleep(time.Millisecond)
		_, err := g.Get(t.Context(), "ada")
		require.ErrorIs(t, err, ErrNotFound)
		values, err := g.GetMany(t.Context(), []string{"ada"})
		require.NoError(t, err)
		require.Equal(t, map[string]string{"ada": "ada 2"}, values)
	})
}

// Nothing is filled for a key that is refused, or for a caller whose time is up, be it at first or once more.
func TestMechanismAReadThatIsRefused(t *testing.T) {
	slow := &lateness{decodes: map[string]time.Duration{"ada 1": 2 * time.Second}}
	late(t, slow, func(t *testing.T, g *textGroup) {
		g.has(t, 4*time.Second, "ada")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := g.Get(ctx, "ada")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = g.GetMany(ctx, []string{"ada", "bob"})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = g.GetMany(t.Context(), []string{strings.Repeat("x", MaxKey+1)})
		require.ErrorIs(t, err, ErrTooLarge)
		synctest.Wait()
		require.Equal(t, map[string]int{"ada": 1}, slow.n)
	})
}
