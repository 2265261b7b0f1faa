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

// An op is one step of a script. Scripts are drawn before the bubble begins: rapid fails by a panic,
// which must not leave it.
type op struct {
	Kind string
	Key  string
	Late int // by how many generations the write comes late
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
			Wait: rapid.SampledFrom([]time.Duration{
				0, 0, 0, time.Millisecond, 150 * time.Millisecond, 4 * time.Second, time.Minute,
			}).Draw(rt, "wait"),
		}
	}), 1, 80).Draw(rt, "script")
}

// bubble runs f in a synctest bubble, and fails rt if a requirement in f fails.
func bubble(t *testing.T, rt *rapid.T, f func(t require.TestingT)) {
	var r failures
	synctest.Test(t, func(*testing.T) {
		done := make(chan struct{})
		go func() { // a failed requirement ends this goroutine
			defer close(done)
			f(&r)
		}()
		<-done
		time.Sleep(time.Hour) // until everything has ended
	})
	if len(r.all) > 0 {
		rt.Fatal(r.all[0])
	}
}

// failures is a require.TestingT that records failures.
type failures struct{ all []string }

func (f *failures) Errorf(format string, args ...any) {
	f.all = append(f.all, fmt.Sprintf(format, args...))
}
func (f *failures) FailNow() { runtime.Goexit() }

// flaky returns the handler of a flaky origin. At random a call succeeds, fails before or after the write
// has landed, takes long, hangs until its context ends, panics, or ends its goroutine.
func flaky(seed uint64, land func(Write)) func(context.Context, Write) error {
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

// Whatever the origin does, and in whatever order writes come, the origin never sees two calls for a key at
// once, nor falling stamps. When it is healthy again it gets the write of each key with the highest
// accepted stamp.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		script := drawScript(rt,
			"put", "put", "put", "hold", "hold", "release", "drop", "adopt", "disown", "flush")
		seed := rapid.Uint64().Draw(rt, "seed")
		bubble(t, rt, func(t require.TestingT) {
			f := newFixture(Config{MaxBytes: 3000, parallel: 2, Timeout: 2 * time.Second}, nil)
			defer f.end(context.Canceled)
			f.origin.set(flaky(seed, f.origin.land))

			var mu sync.Mutex
			accepted := map[string]expiry.Stamp{} // the highest of each key
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
				if !dropped[o.Key] { // after a Drop only the caller can tell a late write
					g -= o.Late
				}
				some := func(key string) bool { return key == o.Key }
				switch o.Kind {
				case "put":
					wg.Go(func() {
						ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
						defer cancel()
						w := sized(o.Key, g, o.Size)
						accept(w, f.Put(ctx, w))
					})
				case "hold":
					w := sized(o.Key, g, o.Size)
					accept(w, f.Hold(w))
				case "release", "drop":
					w, ok := f.Lookup(o.Key)
					if !ok {
						break
					}
					f.origin.land(w) // by another node
					if o.Kind == "drop" {
						dropped[o.Key] = true
						f.Drop(o.Key, w.Stamp)
					} else {
						f.Release(o.Key, w.Stamp)
					}
				case "adopt":
					f.Adopt(some)
				case "disown":
					for _, w := range f.Disown(some) {
						require.NotEqual(t, o.Key, w.Key)
					}
				case "flush":
					wg.Go(func() {
						ctx, cancel := context.WithTimeout(context.Background(), time.Second)
						defer cancel()
						_ = f.Flush(ctx)
					})
				}
				synctest.Wait()
				check(t, f.Queue)
				time.Sleep(o.Wait)
				synctest.Wait()
				check(t, f.Queue)
			}
			wg.Wait()

			f.origin.set(healthy)
			f.Adopt(func(string) bool { return true })
			require.NoError(t, f.Flush(context.Background()))
			synctest.Wait()
			check(t, f.Queue)
			require.Empty(t, f.origin.violations)
			for key, s := range accepted {
				require.Equal(t, s, f.origin.values[key].Stamp, "the origin ends up with the highest write of %s", key)
			}
			s := f.Stats()
			require.Zero(t, s.QueuedBytes)
			require.Zero(t, s.HeldBytes)
			require.Zero(t, s.overdue)
			require.Empty(t, f.Unwritten())
		})
	})
}

// Whatever an owner and its successor have both accepted reaches the origin, at whatever moment the owner
// dies.
func TestSuccessorModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		script := drawScript(rt, "put")
		death := rapid.IntRange(0, len(script)-1).Draw(rt, "death")
		seed := rapid.Uint64().Draw(rt, "seed")
		bubble(t, rt, func(t require.TestingT) {
			owner := newFixture(Config{Timeout: 2 * time.Second}, nil)
			successor := newFixture(Config{}, nil)
			defer successor.end(context.Canceled)
			dead := func() bool { return owner.config.Context.Err() != nil }
			land := func(w Write) {
				if !dead() {
					successor.origin.land(w)
				}
			}
			behave := flaky(seed, land)
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
			require.Empty(t, owner.origin.violations)
			require.Empty(t, successor.origin.violations)
			require.Empty(t, successor.Unwritten())
			check(t, successor.Queue)
		})
	})
}
