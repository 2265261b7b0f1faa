package geocache_test

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/geocache/geocache"
)

// A group of two entries at most, in the order of LRU, that tells what leaves it.
func ExampleWithOnEvict() {
	cache, err := geocache.Open(context.Background(), silent)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close()

	load := func(_ context.Context, key string) (string, error) { return "value of " + key, nil }
	left := make(chan string, 1)
	users, err := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load),
		geocache.WithPolicy(geocache.LRU),
		geocache.WithMaxEntries(2),
		geocache.WithOnEvict(func(key, v string, reason geocache.EvictReason) {
			left <- fmt.Sprintf("%s left for %v: %s", key, reason, v)
		}))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, key := range []string{"ada", "bob", "ada", "cy"} {
		if _, err := users.Get(context.Background(), key); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(<-left)
	fmt.Println(users.Contains("ada"), users.Contains("bob"), users.Len())
	// Output:
	// bob left for capacity: value of bob
	// true false 2
}

// What is in this process's memory, without asking anybody.
func ExampleGroup_All() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	users, _ := geocache.NewGroup[string](cache, "users", nil)
	users.Set(ctx, "ada", "Ada Lovelace")
	users.Set(ctx, "grace", "Grace Hopper")

	fmt.Println(users.Len())
	for _, key := range slices.Sorted(maps.Keys(maps.Collect(users.All()))) {
		fmt.Println(key)
	}
	// Output:
	// 2
	// ada
	// grace
}
