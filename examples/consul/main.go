// Consul is a service whose instances find each other through Consul. It says who is
// there, and who keeps a key:
//
//	make consul && .bin/consul agent -dev      # unless one runs here already
//	go run -C examples ./consul
//
//	curl localhost:8080/
//	curl localhost:8080/keys/ada
//	curl -X PUT localhost:8080/keys/ada -d Lovelace
//
// A second instance, in another shell, is seen by the first a moment after it has started,
// and gone a moment after Ctrl-C:
//
//	go run -C examples ./consul -http localhost:8081 -listen 127.0.0.1:7947
//	.bin/consul catalog services -tags
//
// Beyond loopback it needs -certs, or -plaintext:
//
//	go run -C examples ./consul -listen 10.0.3.7:7946 -certs /etc/keys
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/peertls"
	"github.com/geocache/geocache/regions"
	"github.com/geocache/geocache/regions/consul"
)

// name is what all instances have in common: the service in Consul, and the name that
// their certificates are for.
const name = "geocache-example"

func main() {
	address := flag.String("http", "localhost:8080", "serve HTTP at this address")
	listen := flag.String("listen", "127.0.0.1:7946", "serve the cache's peers at this address, which they can dial")
	certs := flag.String("certs", "", "encrypt what goes between instances, with ca.pem, node.pem and node-key.pem of this directory; they are for the name "+name)
	plaintext := flag.Bool("plaintext", false, "encrypt nothing: whoever is on the network can read and change what is cached")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The agent is where CONSUL_HTTP_ADDR says, else at localhost:8500. consul.WithConfig
	// sets that, a token and TLS in code.
	if err := run(ctx, *address, *listen, *certs, *plaintext, consul.New(name)); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, address, listen, certs string, plaintext bool, discovery regions.Discovery) error {
	cache, err := open(ctx, listen, certs, plaintext, discovery)
	if err != nil {
		return err
	}
	// Close takes the instance out of Consul at once, so that nobody looks for it there,
	// tells its peers, hands them what it keeps, and answers what they still wait for. An
	// instance that is killed instead is missed by its peers within a second; in Consul
	// its check fails after ten, and it is taken out a minute later.
	defer cache.Close()
	handler, err := newHandler(cache)
	if err != nil {
		return err
	}
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: patience}
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

// open makes this process an instance of the service in Consul, with a check that says
// whether it serves. Its region is the datacenter of the agent. That has to be asked, so
// an instance that is to start while Consul is down needs geocache.WithRegion too.
//
// Once it has started, a Consul that is down takes nothing away: the instances stay
// together as they are.
func open(ctx context.Context, listen, certs string, plaintext bool, discovery regions.Discovery) (*geocache.Cache, error) {
	options := []geocache.Option{
		geocache.WithListen(listen),
		geocache.WithDiscovery(discovery),
	}
	if certs != "" {
		// The files are followed, so certificates and authorities are rotated without a restart. An instance lets
		// in who has a certificate of the authorities for name, be it to ask or to be asked: others
		// of this authority stay out.
		files, err := peertls.Load(peertls.Options{
			Certificate: filepath.Join(certs, "node.pem"),
			Key:         filepath.Join(certs, "node-key.pem"),
			Authorities: filepath.Join(certs, "ca.pem"),
		})
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, files.Close)
		options = append(options, geocache.WithTLSFunc(files.TLS), geocache.WithPeerNames(name))
	}
	if plaintext {
		options = append(options, geocache.WithPlaintext())
	}
	return geocache.Open(ctx, options...)
}

// newHandler serves a group whose origin is a sentence about who was asked: it shows that
// a key is loaded once in a region.
func newHandler(cache *geocache.Cache) (http.Handler, error) {
	load := func(_ context.Context, key string) (string, error) {
		return fmt.Sprintf("%s, loaded by %s in %s", key, cache.Node().ID, cache.Node().Region), nil
	}
	keys, err := geocache.NewGroup(cache, "keys", geocache.GetterFunc[string](load))
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, cache.Stats())
	})
	mux.HandleFunc("GET /keys/{key}", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		item, err := keys.GetItem(ctx, r.PathValue("key"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("X-Cache", item.Source.String())
		for _, l := range keys.Locate(r.PathValue("key")) {
			w.Header().Add("X-Owner", l.Owner.ID+" in "+l.Region)
		}
		fmt.Fprintln(w, item.Value)
	})
	mux.HandleFunc("PUT /keys/{key}", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		value, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
		if err := errors.Join(err, keys.Set(ctx, r.PathValue("key"), string(value))); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux, nil
}
