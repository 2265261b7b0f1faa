package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/golang/groupcache"
	groupcachego "github.com/groupcache/groupcache-go/v3"
	"github.com/groupcache/groupcache-go/v3/transport"
	"github.com/redis/rueidis"
	"google.golang.org/grpc"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/regions"
)

// This file is the servers of the peer hit, each a process of its own that has all
// keys in memory.

// serveChild is a server of some kind.
func serveChild(parameters []byte, in *bufio.Reader) error {
	var s setup
	if err := json.Unmarshal(parameters, &s); err != nil {
		return err
	}
	serve, ok := map[string]func(net.Listener, *setup) error{
		"geocache":          serveGeocache,
		"geocache with TLS": serveGeocache,
		"groupcache":        serveGroupcache,
		"groupcache-go":     serveGroupcacheGo,
		"gRPC":              serveGRPC,
		"bare TCP":          serveTCP,
	}[s.Kind]
	if !ok {
		return fmt.Errorf("there is no server %q", s.Kind)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := l.Addr().String()
	if err := serve(l, &s); err != nil {
		return err
	}
	fmt.Println(address)
	_, err = io.Copy(io.Discard, in)
	return err
}

// startServer starts a server and returns its address.
func startServer(s *setup) (address string, p *process, err error) {
	if p, err = start("serve", s); err != nil {
		return "", nil, err
	}
	address, err = p.line()
	return address, p, err
}

// Each node's weight decides who owns the keys: next to all are the server's.
const (
	serverID, clientID         = "server", "client"
	serverWeight, clientWeight = 100, .01
)

// maxBytes is room for the keys of all sizes.
const maxBytes = 2 << 30

func openPeerGroup(l net.Listener, id string, weight float64, share float64, dir string, others ...regions.Node) (*geocache.Cache, *geocache.Group[[]byte], error) {
	opts := []geocache.Option{
		geocache.WithRegion("here"), geocache.WithNodeID(id), geocache.WithWeight(weight), geocache.WithLogger(quiet),
		geocache.WithListener(l), geocache.WithDiscovery(regions.Static(others...)), geocache.WithJoinWait(time.Second),
	}
	if dir != "" {
		config, err := readCertificates(dir)
		if err != nil {
			return nil, nil, err
		}
		opts = append(opts, geocache.WithTLS(config))
	}
	cache, err := geocache.Open(ctx, opts...)
	if err != nil {
		return nil, nil, err
	}
	g, err := geocache.NewGroup(cache, "bench",
		geocache.GetterFunc[[]byte](func(_ context.Context, key string) ([]byte, error) { return valueOf(key) }),
		geocache.WithTTL(ttl), geocache.WithMaxBytes(maxBytes), geocache.WithCopyShare(share))
	return cache, g, err
}

func serveGeocache(l net.Listener, s *setup) error {
	dir := ""
	if s.Kind == "geocache with TLS" {
		dir = s.Dir
	}
	_, _, err := openPeerGroup(l, serverID, serverWeight, 0, dir)
	return err
}

func serveGroupcache(l net.Listener, _ *setup) error {
	self := "http://" + l.Addr().String()
	pool := groupcache.NewHTTPPoolOpts(self, nil)
	pool.Set(self)
	groupcache.NewGroup("bench", maxBytes, groupcache.GetterFunc(func(_ context.Context, key string, dest groupcache.Sink) error {
		v, err := valueOf(key)
		if err != nil {
			return err
		}
		return dest.SetBytes(v)
	}))
	go func() { _ = http.Serve(l, pool) }()
	return nil
}

func loadGroupcacheGo(_ context.Context, key string, dest transport.Sink) error {
	v, err := valueOf(key)
	if err != nil {
		return err
	}
	return dest.SetBytes(v, time.Now().Add(ttl))
}

func serveGroupcacheGo(l net.Listener, _ *setup) error {
	address := l.Addr().String()
	if err := l.Close(); err != nil { // it makes its own
		return err
	}
	d, err := groupcachego.ListenAndServe(ctx, address, groupcachego.Options{
		Logger:    quiet,
		Transport: transport.NewHttpTransport(transport.HttpTransportOptions{Logger: quiet}),
	})
	if err != nil {
		return err
	}
	_, err = d.NewGroup("bench", maxBytes, groupcachego.GetterFunc(loadGroupcacheGo))
	return err
}

// contents returns the values of all keys, for those servers that load nothing.
func contents(keys []string) (map[string][]byte, error) {
	all := make(map[string][]byte, len(keys))
	for _, key := range keys {
		v, err := valueOf(key)
		if err != nil {
			return nil, err
		}
		all[key] = v
	}
	return all, nil
}

// A raw is the codec of messages that are bytes already.
type raw struct{}

func (raw) Name() string                       { return "raw" }
func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }

func serveGRPC(l net.Listener, s *setup) error {
	all, err := contents(s.Keys)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.MaxSendMsgSize(16<<20))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Get",
			Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var key []byte
				if err := dec(&key); err != nil {
					return nil, err
				}
				v, ok := all[string(key)]
				if !ok {
					return nil, errors.New("no such key")
				}
				return &v, nil
			},
		}},
	}, struct{}{})
	go func() { _ = server.Serve(l) }()
	return nil
}

// serveTCP answers the length of a key and the key by the length of its value and the
// value, one after the other on each connection.
func serveTCP(l net.Listener, s *setup) error {
	all, err := contents(s.Keys)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answerTCP(c, all)
		}
	}()
	return nil
}

func answerTCP(c net.Conn, all map[string][]byte) {
	defer c.Close()
	request := make([]byte, 256)
	for {
		n := 0
		for n < 1 || n < 1+int(request[0]) {
			m, err := c.Read(request[n:])
			if err != nil {
				return
			}
			n += m
		}
		v := all[string(request[1:n])]
		var length [4]byte
		binary.BigEndian.PutUint32(length[:], uint32(len(v)))
		var err error
		if len(v) <= 4096 {
			_, err = c.Write(append(length[:], v...)) // one packet
		} else {
			_, err = (&net.Buffers{length[:], v}).WriteTo(c)
		}
		if err != nil {
			return
		}
	}
}

// startRedis starts a Redis that keeps nothing on disk.
func startRedis(args ...string) (address string, p *process, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // for a port that is free
	if err != nil {
		return "", nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	cmd := exec.Command("redis-server", append([]string{
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", os.TempDir(), "--loglevel", "warning",
		"--client-output-buffer-limit", "replica 0 0 0", "--logfile", os.DevNull,
	}, args...)...)
	if p, err = launch(cmd); err != nil {
		return "", nil, err
	}
	address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	for range 200 {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return address, p, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.kill()
	return "", nil, errors.New("redis-server does not answer")
}

// kill is stop for a process that does not end with its standard input.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func fillRedis(client rueidis.Client, keys []string) error {
	for _, key := range keys {
		v, err := valueOf(key)
		if err != nil {
			return err
		}
		if err := client.Do(ctx, client.B().Set().Key(key).Value(rueidis.BinaryString(v)).Build()).Error(); err != nil {
			return fmt.Errorf("setting %q: %w", strings.Clone(key), err)
		}
	}
	return nil
}
