package geocache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/geocache/geocache"
)

// Look-aside: a group without a getter has what its users have Set.
func ExampleNewGroup_lookAside() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	users, _ := geocache.NewGroup[string](cache, "users", nil)

	name, err := users.Get(ctx, "ada")
	if errors.Is(err, geocache.ErrNotFound) {
		if name, err = load(ctx, "ada"); err == nil {
			err = users.Set(ctx, "ada", name)
		}
	}
	fmt.Println(name, err)
	fmt.Println(users.Get(ctx, "ada"))
	// Output:
	// Ada Lovelace <nil>
	// Ada Lovelace <nil>
}

// A key that is read in the last minute of its TTL is loaded again before it expires.
func ExampleWithRefreshAhead() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	users, err := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load),
		geocache.WithTTL(10*time.Minute), geocache.WithRefreshAhead(time.Minute))
	fmt.Println(err)
	fmt.Println(users.Get(ctx, "ada"))
	// Output:
	// <nil>
	// Ada Lovelace <nil>
}

// A reader of a value that has just expired does not wait for the new one.
func ExampleWithStaleWhileRevalidate() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	users, _ := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load),
		geocache.WithTTL(50*time.Millisecond), geocache.WithStaleWhileRevalidate(time.Hour))

	users.Get(ctx, "ada")
	time.Sleep(60 * time.Millisecond)
	item, err := users.GetItem(ctx, "ada")
	fmt.Println(item.Value, err, "from", item.Source)
	// Output:
	// Ada Lovelace <nil> from stale
}

// GetMany loads missing keys with one query at each owner.
func ExampleBatchGetterFunc() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	query := func(_ context.Context, keys []string) (map[string]string, error) { // SELECT … WHERE id IN (…)
		fmt.Println("a query for", len(keys))
		found := map[string]string{}
		for _, key := range keys {
			if name, ok := names[key]; ok {
				found[key] = name
			}
		}
		return found, nil
	}
	users, _ := geocache.NewGroup(cache, "users", geocache.BatchGetterFunc[string](query))

	found, err := users.GetMany(ctx, []string{"ada", "bob", "grace"})
	fmt.Println(len(found), err)
	// Output:
	// a query for 3
	// 2 <nil>
}

// A function whose results are cached in the whole cluster.
func ExampleMemoize() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	type trip struct {
		From, To string
		Stops    []string
	}
	route := func(_ context.Context, t trip) (int, error) {
		fmt.Println("finding a route")
		return 100 + 50*len(t.Stops), nil
	}
	cached, err := geocache.Memoize(cache, "routes", route, geocache.WithTTL(time.Hour))
	if err != nil {
		panic(err)
	}
	fmt.Println(cached(ctx, trip{"Rome", "Oslo", []string{"Linz"}}))
	fmt.Println(cached(ctx, trip{"Rome", "Oslo", []string{"Linz"}}))
	// Output:
	// finding a route
	// 150 <nil>
	// 150 <nil>
}

// Keys that other calls of the cache can use as well.
func ExampleMemoizeBy() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	square := func(_ context.Context, n int) (int, error) {
		fmt.Println("squaring", n)
		return n * n, nil
	}
	cached, err := geocache.MemoizeBy(cache, "squares", strconv.Itoa, strconv.Atoi, square)
	if err != nil {
		panic(err)
	}
	fmt.Println(cached(ctx, 12))
	fmt.Println(cached(ctx, 12))
	// Output:
	// squaring 12
	// 144 <nil>
	// 144 <nil>
}

// Keys that will be needed are loaded before anybody waits for them.
func ExampleGroup_Warm() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	users, _ := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load))

	s, err := users.Warm(ctx, slices.Values([]string{"ada", "bob", "grace"}), geocache.WithWarmRate(500))
	fmt.Printf("%+v %v\n", s, err)
	fmt.Println(users.Peek("ada"))
	// Output:
	// {Loaded:2 Present:0 Missing:1 Failed:0} <nil>
	// Ada Lovelace true
}

func ExampleIncrement() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	visits, _ := geocache.NewGroup[int64](cache, "visits", nil, geocache.WithTTL(24*time.Hour))

	geocache.Increment(ctx, visits, "ada", 1)
	fmt.Println(geocache.Increment(ctx, visits, "ada", 10))
	// Output:
	// 11 <nil>
}

// While the origin is down, the old value is served, and says so.
func ExampleWithStaleIfError() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	down := false
	query := func(ctx context.Context, key string) (string, error) {
		if down {
			return "", errors.New("connection refused")
		}
		return load(ctx, key)
	}
	users, _ := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](query),
		geocache.WithTTL(50*time.Millisecond), geocache.WithStaleIfError(time.Hour))

	users.Get(ctx, "ada")
	down = true
	time.Sleep(60 * time.Millisecond)
	item, err := users.GetItem(ctx, "ada")
	fmt.Println(item.Value, err, "from", item.Source)
	// Output:
	// Ada Lovelace <nil> from stale
}

// The origin is asked only once in ten seconds for a key that it does not have.
func ExampleWithNegativeTTL() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	users, _ := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load),
		geocache.WithNegativeTTL(10*time.Second))

	for range 3 {
		_, err := users.Get(ctx, "bob")
		fmt.Println(errors.Is(err, geocache.ErrNotFound))
	}
	fmt.Println(users.Stats().Loads)
	// Output:
	// true
	// true
	// true
	// 1
}

// A process takes over what its predecessor had in memory.
func ExampleGroup_Snapshot() {
	ctx := context.Background()
	open := func() (*geocache.Cache, *geocache.Group[string]) {
		cache, _ := geocache.Open(ctx, silent)
		users, _ := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load))
		return cache, users
	}
	cache, users := open()
	users.Get(ctx, "ada")
	var file bytes.Buffer
	fmt.Println(users.Snapshot(&file))
	cache.Close()

	cache, users = open()
	defer cache.Close()
	fmt.Println(users.Restore(&file))
	fmt.Println(users.Peek("ada"))
	// Output:
	// <nil>
	// 1 <nil>
	// Ada Lovelace true
}
