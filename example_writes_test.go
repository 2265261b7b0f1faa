package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/geocache/geocache"
)

// A table stands for a database that the getter reads and the setter writes.
type table struct {
	mu   sync.Mutex
	rows map[string]string // guarded by mu
}

func (t *table) Get(_ context.Context, key string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if v, ok := t.rows[key]; ok {
		return v, nil
	}
	return "", geocache.ErrNotFound
}

func (t *table) set(_ context.Context, key, v string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows[key] = v
	return nil
}

func (t *table) remove(_ context.Context, key string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.rows, key)
	return nil
}

func (t *table) all() map[string]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.rows)
}

func ExampleGroup_Set() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	users, _ := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load))

	fmt.Println(users.Get(ctx, "ada"))
	fmt.Println(users.Set(ctx, "ada", "Augusta Ada King"))
	fmt.Println(users.Get(ctx, "ada"))
	// Output:
	// Ada Lovelace <nil>
	// <nil>
	// Augusta Ada King <nil>
}

func ExampleGroup_Remove() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	users, _ := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load))

	users.Set(ctx, "ada", "Augusta Ada King")
	fmt.Println(users.Remove(ctx, "ada"))
	fmt.Println(users.Get(ctx, "ada")) // loaded
	// Output:
	// <nil>
	// Ada Lovelace <nil>
}

func ExampleGroup_Clear() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	users, _ := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load))

	users.Get(ctx, "ada")
	users.Get(ctx, "grace")
	fmt.Println(users.Clear(ctx))
	_, ok := users.Peek("ada")
	fmt.Println(ok)
	// Output:
	// <nil>
	// false
}

// Updates of one key happen one after the other, whichever processes and regions they come from.
func ExampleGroup_Update() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	none := func(context.Context, string) (int, error) { return 0, geocache.ErrNotFound }
	visits, _ := geocache.NewGroup(cache, "visits", geocache.GetterFunc[int](none))

	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			visits.Update(ctx, "ada", func(old int, ok bool) (int, error) { return old + 1, nil })
		})
	}
	wg.Wait()
	fmt.Println(visits.Get(ctx, "ada"))

	// An error of the function leaves everything as it is.
	errBudget := errors.New("budget spent")
	_, err := visits.Update(ctx, "ada", func(old int, ok bool) (int, error) { return 0, errBudget })
	fmt.Println(err, errors.Is(err, errBudget))
	// Output:
	// 100 <nil>
	// geocache: update visits/"ada": budget spent true
}

// Set and Remove write to the database, which has the write when they return.
func ExampleWithSetter() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	db := &table{rows: map[string]string{"ada": "Ada Lovelace"}}
	users, _ := geocache.NewGroup(cache, "users", db,
		geocache.WithSetter(db.set), geocache.WithRemover(db.remove))

	users.Set(ctx, "grace", "Grace Hopper")
	fmt.Println(db.all())
	users.Remove(ctx, "ada")
	fmt.Println(db.all())
	_, err := users.Get(ctx, "ada")
	fmt.Println(errors.Is(err, geocache.ErrNotFound))
	// Output:
	// map[ada:Ada Lovelace grace:Grace Hopper]
	// map[grace:Grace Hopper]
	// true
}

// Set returns before the database has the write. Of several writes of a key the database gets the
// last, and Close waits until it has them all.
func ExampleWithWriteBehind() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	db := &table{rows: map[string]string{}}
	positions, _ := geocache.NewGroup(cache, "positions", db,
		geocache.WithSetter(db.set), geocache.WithRemover(db.remove), geocache.WithWriteBehind(16<<20))

	for i := range 1000 {
		positions.Set(ctx, "bus 42", fmt.Sprint("stop ", i))
	}
	fmt.Println(positions.Get(ctx, "bus 42"))
	fmt.Println(cache.Close())
	fmt.Println(db.all())
	// Output:
	// stop 999 <nil>
	// <nil>
	// map[bus 42:stop 999]
}

// A write that waits for all regions, and reports which have confirmed it.
func ExampleWithReceipt() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent, geocache.WithRegion("eu-west"))
	defer cache.Close()
	users, _ := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load))

	var w geocache.Receipt
	err := users.Set(ctx, "ada", "Augusta Ada King", geocache.WithAck(geocache.AckWorld),
		geocache.WithReceipt(&w))
	fmt.Println(err, w.Confirmed, w.Pending, w.Generation != 0)
	// Output:
	// <nil> [eu-west] [] true
}

func ExampleGroup_RemoveTag() {
	cache, err := geocache.Open(context.Background(), silent)
	if err != nil {
		panic(err)
	}
	defer cache.Close()

	// A page of a team's members is made from many rows, and bears the tag of each.
	pages, err := geocache.NewGroup(cache, "pages", geocache.ItemGetterFunc[string](
		func(ctx context.Context, key string) (geocache.Loaded[string], error) {
			return geocache.Loaded[string]{Value: "ada, grace", Tags: []string{"user:1", "user:2"}}, nil
		}))
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	if _, err := pages.Get(ctx, "team:7?page=1"); err != nil {
		panic(err)
	}

	// User 2 has changed: every page that shows it is loaded again, everywhere.
	if err := pages.RemoveTag(ctx, "user:2"); err != nil {
		panic(err)
	}
	_, ok := pages.Peek("team:7?page=1")
	fmt.Println(ok)
	// Output: false
}

func ExampleGroup_RemovePrefix() {
	cache, err := geocache.Open(context.Background(), silent)
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	pages, err := geocache.NewGroup(cache, "pages", geocache.GetterFunc[string](
		func(ctx context.Context, key string) (string, error) { return "page " + key, nil }))
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	if _, err := pages.GetMany(ctx, []string{"team:7/1", "team:7/2", "team:8/1"}); err != nil {
		panic(err)
	}
	if err := pages.RemovePrefix(ctx, "team:7/"); err != nil {
		panic(err)
	}
	for _, key := range []string{"team:7/1", "team:7/2", "team:8/1"} {
		_, ok := pages.Peek(key)
		fmt.Println(key, ok)
	}
	// Output:
	// team:7/1 false
	// team:7/2 false
	// team:8/1 true
}

func ExampleGroup_RemoveMany() {
	cache, err := geocache.Open(context.Background(), silent)
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	users, err := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](
		func(ctx context.Context, key string) (string, error) { return "user " + key, nil }))
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	if _, err := users.GetMany(ctx, []string{"1", "2", "3"}); err != nil {
		panic(err)
	}
	if err := users.RemoveMany(ctx, []string{"1", "3"}); err != nil {
		panic(err)
	}
	for _, key := range []string{"1", "2", "3"} {
		_, ok := users.Peek(key)
		fmt.Println(key, ok)
	}
	// Output:
	// 1 false
	// 2 true
	// 3 false
}

// A value with a TTL of its own, which is exact: only the group's TTL is shortened by up to a
// tenth.
func ExampleWithItemTTL() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	codes, _ := geocache.NewGroup[string](cache, "codes", nil, geocache.WithTTL(time.Hour))

	codes.Set(ctx, "ada", "1815", geocache.WithItemTTL(time.Minute))
	item, _ := codes.GetItem(ctx, "ada")
	fmt.Println(time.Until(item.Expires).Round(time.Second))
	// Output: 1m0s
}

// Removing any of its tags removes a value.
func ExampleWithTags() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	pages, _ := geocache.NewGroup[string](cache, "pages", nil)

	pages.Set(ctx, "/ada/posts/1", "On engines", geocache.WithTags("user:ada", "posts"))
	pages.RemoveTag(ctx, "user:ada")
	fmt.Println(pages.Contains("/ada/posts/1"))
	// Output: false
}

// An error of a write says whether the write has happened.
func ExampleError() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	setter := geocache.WithSetter(func(context.Context, string, string) error {
		return errors.New("read-only")
	})
	users, _ := geocache.NewGroup[string](cache, "users", nil, setter)

	err := users.Set(ctx, "ada", "Augusta")
	switch {
	case errors.Is(err, geocache.ErrUncertain):
		fmt.Println("it may have happened: set it again")
	case errors.Is(err, geocache.ErrUnconfirmed):
		fmt.Println("it has happened, and some nodes or regions do not know yet")
	case err != nil:
		fmt.Println("the cache has not got it:", err)
	}
	var e *geocache.Error
	if errors.As(err, &e) {
		fmt.Println(e.Op, e.Group, e.Key, "at", e.Node, "in", e.Region)
	}
	// Output:
	// the cache has not got it: geocache: set users/"ada" at alone in local: writing to the origin: read-only
	// Set users ada at alone in local
}

func ExampleGroup_SetMany() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	prices, _ := geocache.NewGroup[int](cache, "prices", nil)

	fmt.Println(prices.SetMany(ctx, map[string]int{"apple": 30, "pear": 40}, geocache.WithTags("fruit")))
	found, _ := prices.GetMany(ctx, []string{"apple", "pear"})
	fmt.Println(found)
	// Output:
	// <nil>
	// map[apple:30 pear:40]
}

// The first process, in whichever region, gets the job.
func ExampleGroup_SetIfAbsent() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	jobs, _ := geocache.NewGroup[string](cache, "jobs", nil)

	fmt.Println(jobs.SetIfAbsent(ctx, "job 7", "worker 1"))
	fmt.Println(jobs.SetIfAbsent(ctx, "job 7", "worker 2"))
	fmt.Println(jobs.Get(ctx, "job 7"))
	// Output:
	// true <nil>
	// false <nil>
	// worker 1 <nil>
}

// An edited form is saved only if nobody else has saved it in the meantime.
func ExampleGroup_CompareAndSet() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	forms, _ := geocache.NewGroup[string](cache, "forms", nil)
	forms.Set(ctx, "7", "draft")

	opened, _ := forms.GetItem(ctx, "7")
	forms.Set(ctx, "7", "somebody else's draft")

	current, generation, err := forms.CompareAndSet(ctx, "7", opened.Generation, "my draft")
	fmt.Println(errors.Is(err, geocache.ErrChanged), current)

	current, _, err = forms.CompareAndSet(ctx, "7", generation, "both drafts")
	fmt.Println(err, current)
	// Output:
	// true somebody else's draft
	// <nil> both drafts
}

// A user has changed her profile in one region, and her next request goes to another one. A cookie carries
// what names the write, so that she sees her change.
func ExampleAfter() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	profiles, _ := geocache.NewGroup[string](cache, "profiles", nil)

	var receipt geocache.Receipt
	profiles.Set(ctx, "ada", "countess", geocache.WithReceipt(&receipt))
	cookie := receipt.Written.String()

	written, err := geocache.ParseWritten(cookie) // in the other region
	if err != nil {
		written = geocache.Written{} // somebody has made it up
	}
	fmt.Println(profiles.Get(ctx, "ada", geocache.After(written)))
	// Output: countess <nil>
}
