// Protobuf is an HTTP service that keeps carts, which are protobuf messages, in the
// memory of its instances and nowhere else.
//
//	go run -C examples ./protobuf
//
//	curl localhost:8080/carts/ada -d '{"article":"tea","count":2}'
//	curl localhost:8080/carts/ada
//
// A second instance, in another shell, shares the carts with the first:
//
//	go run -C examples ./protobuf -http localhost:8081 -listen 127.0.0.1:7947
//	curl localhost:8081/carts/ada -d '{"article":"milk","count":1}'
//
// With messages nothing needs to be said of encoding: a group of them encodes them as
// protobuf. And a deploy that adds a field to Cart is safe, even while old and new
// instances share carts: an old one keeps the fields that it does not know.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/examples/protobuf/cartpb"
	"github.com/geocache/geocache/regions"
)

//go:generate protoc --go_out=. --go_opt=paths=source_relative cartpb/cart.proto

func main() {
	address := flag.String("http", "localhost:8080", "serve HTTP at this address")
	listen := flag.String("listen", "127.0.0.1:7946", "serve the cache's peers at this address")
	peers := flag.String("peers", "127.0.0.1:7946,127.0.0.1:7947", "where all instances serve their peers")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *address, *listen, strings.Split(*peers, ",")); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, address, listen string, peers []string) error {
	var nodes []regions.Node
	for _, p := range peers {
		nodes = append(nodes, regions.Node{ID: p, Region: "local", Address: p})
	}
	cache, err := geocache.Open(ctx, geocache.WithListen(listen), geocache.WithDiscovery(regions.Static(nodes...)))
	if err != nil {
		return err
	}
	defer cache.Close() // hands the carts to the other instances
	carts, err := newCarts(cache)
	if err != nil {
		return err
	}
	server := &http.Server{Addr: address, Handler: handler(carts), ReadHeaderTimeout: patience}
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

// newCarts makes the group. A cart has no origin: what the cache does not have is an
// empty cart, and if all instances that keep one die, or it is not touched for a day, it
// is lost. Its values are pointers to the generated type.
func newCarts(cache *geocache.Cache) (*geocache.Group[*cartpb.Cart], error) {
	none := func(context.Context, string) (*cartpb.Cart, error) { return nil, geocache.ErrNotFound }
	return geocache.NewGroup(cache, "carts", geocache.GetterFunc[*cartpb.Cart](none), geocache.WithTTL(24*time.Hour))
}

// add puts an item into the cart, be there one or not. Others may do so at the same time,
// at any instance: none is lost.
//
// Whoever reads the cart has the same message, so it is never changed: what changes is a
// clone. add may be called again with what somebody else has made of the cart meanwhile.
func add(ctx context.Context, carts *geocache.Group[*cartpb.Cart], id string, item *cartpb.Item) (*cartpb.Cart, error) {
	return carts.Update(ctx, id, func(old *cartpb.Cart, ok bool) (*cartpb.Cart, error) {
		cart := &cartpb.Cart{}
		if ok {
			cart = proto.CloneOf(old)
		}
		i := slices.IndexFunc(cart.Items, func(there *cartpb.Item) bool { return there.Article == item.Article })
		if i >= 0 {
			cart.Items[i].Count += item.Count
		} else {
			cart.Items = append(cart.Items, item)
		}
		cart.Changed = timestamppb.Now()
		return cart, nil
	})
}

func handler(carts *geocache.Group[*cartpb.Cart]) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(r *http.Request, id string) (*cartpb.Cart, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), patience)
			defer cancel()
			cart, err := do(r.WithContext(ctx), r.PathValue("id"))
			switch {
			case errors.Is(err, errBadRequest):
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			case err != nil:
				slog.Warn("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
				http.Error(w, http.StatusText(http.StatusBadGateway), http.StatusBadGateway)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, protojson.Format(cart)+"\n")
		})
	}
	handle("GET /carts/{id}", func(r *http.Request, id string) (*cartpb.Cart, error) {
		cart, err := carts.Get(r.Context(), id)
		if errors.Is(err, geocache.ErrNotFound) {
			return &cartpb.Cart{}, nil
		}
		return cart, err
	})
	handle("POST /carts/{id}", func(r *http.Request, id string) (*cartpb.Cart, error) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
		if err != nil {
			return nil, err
		}
		var item cartpb.Item
		if protojson.Unmarshal(body, &item) != nil || item.Article == "" || item.Count == 0 {
			return nil, errBadRequest
		}
		return add(r.Context(), carts, id, &item)
	})
	handle("DELETE /carts/{id}", func(r *http.Request, id string) (*cartpb.Cart, error) {
		return &cartpb.Cart{}, carts.Remove(r.Context(), id)
	})
	return mux
}

var errBadRequest = errors.New("an item has an article and a count")
