package writebehind

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/geocache/geocache/expiry"
)

// An op is one step of a script. Scripts are drawn before the bubble begins,
// because rapid's way of failing must not leave it.
type op struct {
	Kind string
	Key  string
	Late int // how many generations the write is behind
	Size int64
	Wait time.Duration
}

func drawScript(rt *rapid.T, kinds ...string) []op {
	return rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) op {
		return op{
			Kind: rapid.SampledFrom(kinds).Draw(rt, "kind"),
			Key:  rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(rt, "key"),
			Late: max(0, rapid.IntRange(-8, 3).Draw(rt, "late")),
			Size: rapid.Int64Range(300, 1500).Draw(rt, "size"),
			Wait: rapid.SampledFrom([]time.Duration{0, 0, 0, time.Millisecond, 150 * time.Millisecond, 4 * time.Second, time.Minute}).Draw(rt, "wait"),
		}
	}), 1, 80).Draw(rt, "script")
}

// bubble runs f in a synctest bubble and fails rt with what it requires.
func bubble(t *testing.T, rt *rapid.T, f func(t require.TestingT)) {
	var r failures
	synctest.Test(t, func(*testing.T) {
		done := make(chan struct{})
		go func() { // require ends it
			defer close(done)
			f(&r)
		}()
		<-done
		time.Sleep(time.Hour) // for what still runs
	})
	if len(r.all) > 0 {
		rt.Fatal(r.all[0])
	}
}

type failures struct{ all []string }

func (f *failures) Errorf(format string, args ...any) {
	f.all = append(f.all, fmt.Sprintf(format, args...))
}
func (f *failures) FailNow() { runtime.Goexit() }

// moody returns what an origin does that at random works, fails before or
// after the write has landed, hangs with and without regard to its context,
// panics, or ends the goroutine.
func moody(seed uint64, land func(Write)) func(context.Context, Write) error {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 1))
	return func(ctx context.Context, w Write) error {
		mu.Lock()
		what, pause := random.IntN(10), time.Duration(random.IntN(20_000))*time.Millisecond
		mu.Unlock()
		switch what {
		case 0:
			return errOrigin
		case 1:
			land(w)
			return errOrigin
		case 2:
			<-ctx.Done()
			return ctx.Err()
		case 3:
			<-ctx.Done()
			land(w)
			return ctx.Err()
		case 4:
			time.Sleep(pause)
			return errOrigin
		case 5:
			time.Sleep(pause)
		case 6:
			panic("at random")
		case 7:
			runtime.Goexit()
		}
		return nil
	}
}

// Whatever the origin does and in whatever order writes come: it never sees two
// calls for a key in parallel, nor falling stamps, and when it is healthy again
// it gets of each key the highest stamp that was taken in.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		script := drawScript(rt, "put", "put", "put", "hold", "hold", "release", "drop", "adopt", "disown", "flush")
		seed := rapid.Uint64().Draw(rt, "seed")
		bubble(t, rt, func(t require.TestingT) {
			b := newBench(Config{MaxBytes: 3000, Parallel: 2, Timeout: 2 * time.Second}, nil)
			defer b.end(context.Canceled)
			b.origin.set(moody(seed, b.origin.land))

			var mu sync.Mutex
			accepted := map[string]expiry.Stamp{} // highest of each key
			dropped := map[string]bool{}
			accept := func(w Write, err error) {
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					accepted[w.Key] = accepted[w.Key].Max(w.Stamp)
				} else {
					require.ErrorIs(t, err, ErrFull)
				}
			}
			var wg sync.WaitGroup
			for i, o := range script {
				g := i + 10
				if !dropped[o.Key] { // then only the caller knows what is late
					g -= o.Late
				}
				some := func(key string) bool { return key == o.Key }
				switch o.Kind {
				case "put":
					wg.Go(func() {
						ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
						defer cancel()
						w := sized(o.Key, g, o.Size)
						accept(w, b.Put(ctx, w))
					})
				case "hold":
					w := sized(o.Key, g, o.Size)
					accept(w, b.Hold(w))
				case "release", "drop":
					w, ok := b.Lookup(o.Key)
					if !ok {
						break
					}
					b.origin.land(w) // by another node
					if o.Kind == "drop" {
						dropped[o.Key] = true
						b.Drop(o.Key, w.Stamp)
					} else {
						b.Release(o.Key, w.Stamp)
					}
				case "adopt":
					b.Adopt(some)
				case "disown":
					for _, w := range b.Disown(some) {
						require.NotEqual(t, o.Key, w.Key)
					}
				case "flush":
					wg.Go(func() {
						ctx, cancel := context.WithTimeout(context.Background(), time.Second)
						defer cancel()
						_ = b.Flush(ctx)
					})
				}
				synctest.Wait()
				check(t, b.Queue)
				time.Sleep(o.Wait)
				synctest.Wait()
				check(t, b.Queue)
			}
			wg.Wait()

			b.origin.set(healthy)
			b.Adopt(func(string) bool { return true })
			require.NoError(t, b.Flush(context.Background()))
			synctest.Wait()
			check(t, b.Queue)
			require.Empty(t, b.origin.wrong)
			for key, s := range accepted {
				require.Equal(t, s, b.origin.values[key].Stamp, "the origin ends with the highest of %s", key)
			}
			s := b.Stats()
			require.Zero(t, s.QueuedBytes)
			require.Zero(t, s.HeldBytes)
			require.Zero(t, s.Overdue)
			require.Empty(t, b.Unwritten())
		})
	})
}

// An owner and its successor: what both have taken in reaches the origin
// although the owner dies, at whatever moment.
func TestSuccessorModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		script := drawScript(rt, "put")
		death := rapid.IntRange(0, len(script)-1).Draw(rt, "death")
		seed := rapid.Uint64().Draw(rt, "seed")
		bubble(t, rt, func(t require.TestingT) {
			owner := newBench(Config{Timeout: 2 * time.Second}, nil)
			successor := newBench(Config{}, nil)
			defer successor.end(context.Canceled)
			dead := func() bool { return owner.config.Context.Err() != nil }
			land := func(w Write) {
				if !dead() {
					successor.origin.land(w)
				}
			}
			behave := moody(seed, land)
			owner.origin.set(func(ctx context.Context, w Write) error {
				if err := behave(ctx, w); err != nil {
					return err
				}
				if dead() {
					return errOrigin
				}
				land(w)
				return nil
			})
			owner.config.Stored = func(w Write) { successor.Release(w.Key, w.Stamp) }
			successor.origin.set(healthy)

			accepted := map[string]expiry.Stamp{}
			for i, o := range script {
				if i == death {
					owner.end(errors.New("dead"))
					successor.Adopt(func(string) bool { return true })
				}
				w := sized(o.Key, i+1, o.Size)
				if i < death {
					require.NoError(t, successor.Hold(w))
					require.NoError(t, owner.Put(context.Background(), w))
				} else {
					require.NoError(t, successor.Put(context.Background(), w))
				}
				accepted[o.Key] = w.Stamp
				time.Sleep(o.Wait)
			}
			require.NoError(t, successor.Flush(context.Background()))
			for key, s := range accepted {
				require.Equal(t, s, successor.origin.values[key].Stamp)
			}
			require.Empty(t, owner.origin.wrong)
			require.Empty(t, successor.origin.wrong)
			require.Empty(t, successor.Unwritten())
			check(t, successor.Queue)
		})
	})
}
