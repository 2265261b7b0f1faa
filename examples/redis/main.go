// Redis is an HTTP service that keeps documents in the memory of its instances, behind
// that in a Redis that all of them share, and behind that in a slow source. With a Redis
// on localhost:
//
//	go run -C examples ./redis
//
//	curl -X PUT localhost:8080/docs/tea -d 'two spoons for each cup'
//	curl -i localhost:8080/docs/tea       # X-Cache says where the answer came from
//	curl localhost:8080/stats             # what the cache and Redis have answered
//
// A second instance, in another shell. What is written at one is read at the other:
//
//	go run -C examples ./redis -http localhost:8081 -listen 127.0.0.1:7947
//	curl -i localhost:8081/docs/tea
//
// What is the cache for, with Redis there? A hit in Redis is a round trip and a system
// call or two, and a Redis that is away is a miss; a hit in this process's memory is
// neither:
//
//	go test -C examples -bench . ./redis
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/redis/rueidis"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/regions"
)

func main() {
	address := flag.String("http", "localhost:8080", "serve HTTP at this address")
	url := flag.String("redis", "redis://localhost:6379", "the Redis")
	dir := flag.String("source", os.TempDir(), "the directory with the documents")
	listen := flag.String("listen", "127.0.0.1:7946", "serve the cache's peers at this address")
	peers := flag.String("peers", "127.0.0.1:7946,127.0.0.1:7947", "where all instances serve their peers")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *address, *url, *dir, *listen, strings.Split(*peers, ",")); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends. The cache closes before the client of Redis: until then it
// writes what other instances ask this one, as the owner of a key, to write.
func run(ctx context.Context, address, url, dir, listen string, peers []string) error {
	files, err := openSource(dir)
	if err != nil {
		return err
	}
	defer files.Close()
	options, err := rueidis.ParseURL(url)
	if err != nil {
		return err
	}
	client, err := rueidis.NewClient(options)
	if err != nil {
		return err
	}
	defer client.Close()
	var nodes []regions.Node
	for _, p := range peers {
		nodes = append(nodes, regions.Node{ID: p, Region: "local", Address: p})
	}
	cache, err := geocache.Open(ctx, geocache.WithListen(listen), geocache.WithDiscovery(regions.Static(nodes...)))
	if err != nil {
		return err
	}
	defer cache.Close()
	s, err := newService(cache, &levels{redis: client, source: files})
	if err != nil {
		return err
	}
	server := &http.Server{Addr: address, Handler: s.handler(), ReadHeaderTimeout: patience}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	return server.Shutdown(ending)
}

// patience is the deadline of a request.
const patience = 3 * time.Second

// A service has documents. They are bytes, which need no encoding.
type service struct {
	levels *levels
	docs   *geocache.Group[[]byte]
}

// newService makes the service. To the cache, Redis and the source are one origin.
func newService(cache *geocache.Cache, l *levels) (*service, error) {
	docs, err := geocache.NewGroup(cache, "docs", geocache.ItemGetterFunc[[]byte](l.get),
		geocache.WithTTL(redisTTL),
		geocache.WithNegativeTTL(absentTTL),
		geocache.WithLoadTimeout(2*time.Second),
		geocache.WithSetter(l.set),
		geocache.WithRemover(l.remove))
	return &service{l, docs}, err
}

func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), patience)
			defer cancel()
			switch err := do(w, r.WithContext(ctx)); {
			case errors.Is(err, geocache.ErrNotFound):
				http.NotFound(w, r)
			case err != nil:
				slog.Warn("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
				http.Error(w, http.StatusText(http.StatusBadGateway), http.StatusBadGateway)
			}
		})
	}
	handle("GET /docs/{id}", s.get)
	handle("PUT /docs/{id}", s.put)
	handle("DELETE /docs/{id}", s.delete)
	handle("GET /stats", s.stats)
	return mux
}

func (s *service) get(w http.ResponseWriter, r *http.Request) error {
	item, err := s.docs.GetItem(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	w.Header().Set("X-Cache", item.Source.String())
	_, err = w.Write(item.Value)
	return err
}

func (s *service) put(w http.ResponseWriter, r *http.Request) error {
	doc, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil || len(doc) == 0 {
		http.Error(w, "a document has from 1 byte to 1 MiB", http.StatusBadRequest)
		return nil
	}
	if err := s.docs.Set(r.Context(), r.PathValue("id"), doc); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *service) delete(w http.ResponseWriter, r *http.Request) error {
	if err := s.docs.Remove(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// stats says who has answered what this instance was asked for, and what it has asked
// Redis and the source for.
func (s *service) stats(w http.ResponseWriter, _ *http.Request) error {
	stats := s.docs.Stats()
	return json.NewEncoder(w).Encode(map[string]uint64{
		"reads":       stats.Reads(),
		"store":       stats.Store,
		"owner":       stats.Owner,
		"loads":       stats.Loads,
		"redis hits":  s.levels.hits.Load(),
		"source gets": s.levels.misses.Load(),
	})
}
