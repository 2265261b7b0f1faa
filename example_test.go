package geocache_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/regions"
)

var names = map[string]string{"ada": "Ada Lovelace", "grace": "Grace Hopper"}

// load stands for a database query.
func load(_ context.Context, key string) (string, error) {
	if name, ok := names[key]; ok {
		return name, nil
	}
	return "", fmt.Errorf("user %s: %w", key, geocache.ErrNotFound)
}

// A Cache without a listener is alone. Everything works.
func Example() {
	ctx := context.Background()
	cache, err := geocache.Open(ctx, silent)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close()

	users, err := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load),
		geocache.WithTTL(5*time.Minute))
	if err != nil {
		fmt.Println(err)
		return
	}
	name, err := users.Get(ctx, "ada")
	fmt.Println(name, err)

	_, err = users.Get(ctx, "bob")
	fmt.Println(err)
	fmt.Println(errors.Is(err, geocache.ErrNotFound))
	// Output:
	// Ada Lovelace <nil>
	// geocache: get users/"bob": key not found
	// true
}

// Two nodes, the second of which is told of the first. In a service, each is a process, and all
// know of all others from their configuration or from Consul.
func Example_nodes() {
	ctx := context.Background()
	open := func(id, address string, others ...regions.Node) *geocache.Cache {
		cache, err := geocache.Open(ctx, silent,
			geocache.WithRegion("eu-west"),
			geocache.WithNodeID(id),
			geocache.WithListen(address),
			geocache.WithDiscovery(regions.Static(others...)))
		if err != nil {
			panic(err)
		}
		return cache
	}
	first := open("node-1", "127.0.0.1:0")
	defer first.Close()
	second := open("node-2", "127.0.0.1:0", first.Node())
	defer second.Close()

	users, err := geocache.NewGroup(second, "users", geocache.GetterFunc[string](load))
	if err != nil {
		panic(err)
	}
	for _, key := range []string{"ada", "grace"} {
		at := users.Locate(key)[0]
		fmt.Println(key, "is at", at.Owner.ID, "or else at", at.Successor.ID)
	}
	// Output:
	// ada is at node-1 or else at node-2
	// grace is at node-2 or else at node-1
}

func ExampleGroup_GetItem() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	users, _ := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load),
		geocache.WithTTL(time.Minute))

	for range 2 {
		item, err := users.GetItem(ctx, "ada")
		fmt.Println(item.Value, err, "from", item.Source)
		fmt.Println(item.Age < time.Second, time.Until(item.Expires) <= time.Minute)
	}
	// Output:
	// Ada Lovelace <nil> from getter
	// true true
	// Ada Lovelace <nil> from store
	// true true
}

func ExampleGroup_GetMany() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	users, _ := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load))

	found, err := users.GetMany(ctx, []string{"ada", "bob", "grace"})
	fmt.Println(len(found), err)
	fmt.Println(found["ada"])
	_, ok := found["bob"]
	fmt.Println(ok)
	// Output:
	// 2 <nil>
	// Ada Lovelace
	// false
}

func ExampleGroup_Peek() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	users, _ := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load))

	fmt.Println(users.Peek("ada"))
	users.Get(ctx, "ada")
	fmt.Println(users.Peek("ada"))
	// Output:
	//  false
	// Ada Lovelace true
}

// A getter that knows how long what it loads stays valid.
func ExampleItemGetterFunc() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	tokens, _ := geocache.NewGroup(cache, "tokens",
		geocache.ItemGetterFunc[string](func(_ context.Context, key string) (geocache.Loaded[string], error) {
			return geocache.Loaded[string]{Value: "token of " + key, TTL: 30 * time.Second}, nil
		}),
		geocache.WithTTL(time.Hour)) // the longest that any item lives

	item, err := tokens.GetItem(ctx, "ada")
	fmt.Println(item.Value, err, time.Until(item.Expires) <= 30*time.Second)
	// Output:
	// token of ada <nil> true
}

// uvarint encodes numbers in fewer bytes than JSON.
type uvarint struct{}

func (uvarint) Encode(v uint64) ([]byte, error) { return binary.AppendUvarint(nil, v), nil }

func (uvarint) Decode(data []byte) (uint64, error) {
	v, n := binary.Uvarint(data)
	if n != len(data) {
		return 0, errors.New("not a number")
	}
	return v, nil
}

func ExampleWithCodec() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, silent)
	defer cache.Close()
	lengths, _ := geocache.NewGroup(cache, "lengths",
		geocache.GetterFunc[uint64](func(_ context.Context, key string) (uint64, error) {
			return uint64(len(key)), nil
		}),
		geocache.WithCodec[uint64](uvarint{}))

	fmt.Println(lengths.Get(ctx, "ada"))
	// Output:
	// 3 <nil>
}

// Every mistake is reported at once.
func ExampleOpen_mistakes() {
	_, err := geocache.Open(context.Background(),
		geocache.WithListen(":7946"),
		geocache.WithLease(time.Millisecond))
	mistakes := strings.Split(err.Error(), "\n")
	slices.Sort(mistakes)
	for _, m := range mistakes {
		fmt.Println(m)
	}
	// Output:
	// WithListen(":7946"): beyond loopback use WithTLS, or say WithPlaintext
	// WithListen(":7946"): other nodes cannot dial a wildcard address; name one by WithAdvertise
	// geocache: WithLease(1ms): must be from 10ms to 1 hour
}

// The fields of Stats are for programs. For people, fmt.Print(cache.Stats()) prints all of it as a
// report.
func ExampleCache_Stats() {
	ctx := context.Background()
	cache, err := geocache.Open(ctx, silent)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close()

	users, err := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load))
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 10 {
		if _, err := users.Get(ctx, "ada"); err != nil {
			fmt.Println(err)
		}
	}
	s := cache.Stats().Groups["users"]
	fmt.Printf("%d reads, %.0f%% from memory, %d load\n", s.Reads(), 100*s.HitRatio(), s.Loads)
	// Output: 10 reads, 90% from memory, 1 load
}

// A function is all that a group needs.
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

// A service that is told to stop gives the cache the time that it has left itself.
func ExampleCache_Shutdown() {
	cache, _ := geocache.Open(context.Background(), silent)

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	fmt.Println(cache.Shutdown(ctx))
	// Output: <nil>
}

// A group of at most two entries, evicted by LRU, that reports what leaves it.
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

// Reading what is in this process's memory, without asking anybody.
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
