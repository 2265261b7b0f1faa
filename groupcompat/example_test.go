package groupcompat_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/golang/groupcache"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/groupcompat"
)

// loadUser is a getter as it was written for groupcache.
func loadUser(_ context.Context, key string, dest groupcache.Sink) error {
	if key != "ada" {
		return fmt.Errorf("user %s: %w", key, sql.ErrNoRows)
	}
	return dest.SetString("Ada Lovelace")
}

// A getter that was written for groupcache goes on as it is.
func ExampleGetter() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, quiet)
	defer cache.Close()
	users, _ := geocache.NewGroup(cache, "users",
		groupcompat.Getter(groupcache.GetterFunc(loadUser), sql.ErrNoRows))

	value, err := users.Get(ctx, "ada")
	fmt.Printf("%s %v\n", value, err)
	_, err = users.Get(ctx, "bob")
	fmt.Println(errors.Is(err, geocache.ErrNotFound))
	// Output:
	// Ada Lovelace <nil>
	// true
}

// The same, with values of a type of their own.
func ExampleDecoded() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, quiet)
	defer cache.Close()
	users, _ := geocache.NewGroup(cache, "users",
		groupcompat.Decoded(groupcompat.Getter(groupcache.GetterFunc(loadUser), sql.ErrNoRows), groupcompat.String()))

	name, err := users.Get(ctx, "ada")
	fmt.Println(name, err)
	// Output:
	// Ada Lovelace <nil>
}

// A process of the new kind answers as one of the old.
func ExampleServe() {
	ctx := context.Background()
	cache, _ := geocache.Open(ctx, quiet)
	defer cache.Close()
	users, _ := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](
		func(_ context.Context, key string) (string, error) { return "user " + key, nil }))

	handler := groupcompat.NewHandler(nil, nil)
	groupcompat.Serve(handler, users, groupcompat.String())
	mux := http.NewServeMux()
	mux.Handle("/_groupcache/", handler) // where the HTTPPool has been

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", "/_groupcache/users/ada", nil)) // as an old process asks
	fmt.Printf("%d %q\n", w.Code, w.Body)
	fmt.Printf("%+v\n", handler.Stats())
	// Output:
	// 200 "\n\buser ada"
	// {Requests:1 NotFound:0 Errors:0}
}

// A process of the new kind asks the old ones before the origin.
func ExamplePeers() {
	ctx := context.Background()
	old := startOldServer() // stands for a process that runs groupcache
	defer old.Close()
	self := "http://10.0.0.7:8008"

	peers, err := groupcompat.NewPeers(self, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	peers.Set(old.URL) // and the others, as groupcache's HTTPPool is told

	cache, _ := geocache.Open(ctx, quiet)
	defer cache.Close()
	users, _ := geocache.NewGroup(cache, "users", peers.Getter("users", geocache.GetterFunc[[]byte](
		func(_ context.Context, key string) ([]byte, error) { return []byte("user " + key), nil })))

	value, err := users.Get(ctx, "ada")
	fmt.Printf("%s %v\n", value, err)

	peers.Set(self) // the last old process has been replaced
	value, err = users.Get(ctx, "bob")
	fmt.Printf("%s %v\n", value, err)
	fmt.Printf("%+v\n", peers.Stats())
	// Output:
	// ada, as the old process has it <nil>
	// user bob <nil>
	// {Answered:1 Own:1 Moved:0 NotFound:0 Failed:0 Unreachable:0}
}

func startOldServer() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "\x0a\x1eada, as the old process has it")
	}))
}
