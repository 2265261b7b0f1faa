package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/geocache/geocache"
)

// A function is enough for a group.
func ExampleNewGroupFunc() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	users, err := geocache.NewGroupFunc(cache, "users", load, geocache.WithTTL(time.Minute))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(users.Get(ctx, "ada"))
	// Output: Ada Lovelace <nil>
}

// A service that is told to stop gives the cache as long as it has itself.
func ExampleCache_Shutdown() {
	cache, _ := geocache.Open(context.Background(), silent)

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	fmt.Println(cache.Shutdown(ctx))
	// Output: <nil>
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

// The first of all processes in all regions gets the job.
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

// A form that somebody has open is saved only if nobody else has saved it since.
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
