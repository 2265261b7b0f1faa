// Quickstart is an HTTP service that answers through a cache. Try it twice:
//
//	go run -C examples ./quickstart
//
//	curl localhost:8080/ada
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/geocache/geocache"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, "localhost:8080"); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends, and closes the cache then: that hands what it has to the others.
func run(ctx context.Context, address string) error {
	cache, err := geocache.Open(ctx) // WithListen and WithDiscovery make many processes one cache
	if err != nil {
		return err
	}
	defer cache.Close()
	users, err := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load), geocache.WithTTL(time.Minute))
	if err != nil {
		return err
	}
	server := &http.Server{Addr: address, Handler: handler(users)}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return server.Shutdown(ending) // and only then Close
}

func handler(users *geocache.Group[string]) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch user, err := users.Get(r.Context(), r.URL.Path[1:]); {
		case errors.Is(err, geocache.ErrNotFound):
			http.NotFound(w, r)
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadGateway)
		default:
			fmt.Fprintln(w, user)
		}
	}
}
