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
	"time"

	"github.com/geocache/geocache"
)

func main() {
	cache, err := geocache.Open(context.Background()) // WithListen and WithDiscovery make many processes one cache
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close()
	users, err := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](load), geocache.WithTTL(time.Minute))
	if err != nil {
		log.Fatal(err)
	}
	log.Print(http.ListenAndServe("localhost:8080", handler(users)))
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
