package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/golang/groupcache"
	groupcachego "github.com/groupcache/groupcache-go/v3"
	"github.com/groupcache/groupcache-go/v3/transport"
	"github.com/groupcache/groupcache-go/v3/transport/peer"
	"github.com/redis/rueidis"
	"github.com/zeebo/xxh3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/regions"
)

// This file is the clients of the peer hit. None keeps anything, so that each read
// is answered by the server.

type geocacheClient struct {
	cache *geocache.Cache
	group *geocache.Group[[]byte]
}

func openGeocachePlain(s *setup) (remote, *process, error) { return openGeocacheRemote(s, "") }
func openGeocacheTLS(s *setup) (remote, *process, error)   { return openGeocacheRemote(s, s.Dir) }

func openGeocacheRemote(s *setup, dir string) (remote, *process, error) {
	address, p, err := startServer(s)
	if err != nil {
		return nil, p, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, p, err
	}
	server := regions.Node{ID: serverID, Region: "here", Address: address, Weight: serverWeight}
	cache, group, err := openPeerGroup(l, clientID, clientWeight, 0, dir, server)
	if err != nil {
		return nil, p, err
	}
	for _, key := range s.Keys {
		if owner := group.Locate(key)[0].Owner.ID; owner != serverID {
			return nil, p, fmt.Errorf("%q is owned by %q and not by the server", key, owner)
		}
	}
	return &geocacheClient{cache, group}, p, nil
}

func (c *geocacheClient) get(_ int, key string) ([]byte, error) { return c.group.Get(ctx, key) }
func (c *geocacheClient) close()                                { _ = c.cache.Close() }

type groupcacheClient struct {
	group *groupcache.Group
	ctx   context.Context
}

// tuned is the key of a context whose reads keep their connections. As it comes, the HTTP
// client keeps two for each server, and 128 callers make new ones all the time.
type tuned struct{}

var keeping = &http.Transport{MaxIdleConnsPerHost: 1024}

// groupcache has one pool in a process, and its groups are the process's.
var (
	groupcachePool = sync.OnceValue(func() *groupcache.HTTPPool {
		pool := groupcache.NewHTTPPoolOpts("http://self", nil)
		pool.Transport = func(ctx context.Context) http.RoundTripper {
			if ctx.Value(tuned{}) != nil {
				return keeping
			}
			return http.DefaultTransport
		}
		return pool
	})
	groupcacheOnly = sync.OnceValue(func() *groupcache.Group {
		return groupcache.NewGroup("bench", 0, groupcache.GetterFunc(func(context.Context, string, groupcache.Sink) error {
			return errors.New("the client was asked to load")
		}))
	})
	groupcacheServer *process // of both clients
)

func openGroupcache(s *setup) (remote, *process, error) {
	address, p, err := startServer(s)
	if err != nil {
		return nil, p, err
	}
	groupcacheServer = p
	groupcachePool().Set("http://" + address)
	return &groupcacheClient{groupcacheOnly(), ctx}, p, nil
}

// openGroupcacheTuned must come after openGroupcache, whose server it uses.
func openGroupcacheTuned(*setup) (remote, *process, error) {
	return &groupcacheClient{groupcacheOnly(), context.WithValue(ctx, tuned{}, true)}, groupcacheServer, nil
}

func (c *groupcacheClient) get(_ int, key string) ([]byte, error) {
	var view groupcache.ByteView
	if err := c.group.Get(c.ctx, key, groupcache.ByteViewSink(&view)); err != nil {
		return nil, err
	}
	return viewBytes(view)
}

// viewBytes returns what is in a view. Its methods copy, which a reader need not: so
// the length is what counts, and the tests look at the rest.
func viewBytes(v groupcache.ByteView) ([]byte, error) {
	if checkBytes {
		return v.ByteSlice(), nil
	}
	return emptyOf(v.Len()), nil
}

// checkBytes has get return the values themselves where that takes a copy that
// a reader would not need.
var checkBytes bool

var zeros = make([]byte, 1<<20)

// emptyOf returns some bytes of that length.
func emptyOf(n int) []byte { return zeros[:n] }

func (c *groupcacheClient) close() {}

type groupcacheGoClient struct {
	group groupcachego.Group
}

func openGroupcacheGo(s *setup) (remote, *process, error) {
	address, p, err := startServer(s)
	if err != nil {
		return nil, p, err
	}
	// It must be one of the peers itself. So that it owns no key all keys get one hash,
	// and it one name after the other until the server comes first on the ring.
	instance := groupcachego.New(groupcachego.Options{Logger: quiet, HashFn: func(data []byte) uint64 {
		if bytes.IndexByte(data, '/') > 0 {
			return 1 << 63 // the lowest, as it takes numbers to be signed
		}
		return xxh3.Hash(data)
	}})
	g, err := instance.NewGroup("bench", 0, groupcachego.GetterFunc(func(context.Context, string, transport.Sink) error {
		return errors.New("the client was asked to load")
	}))
	for port := 1; err == nil; port++ {
		err = instance.SetPeers(ctx, []peer.Info{{Address: address}, {Address: fmt.Sprint("127.0.0.1:", port), IsSelf: true}})
		if _, isRemote := instance.PickPeer(s.Keys[0]); isRemote {
			break
		}
	}
	return &groupcacheGoClient{g}, p, err
}

func (c *groupcacheGoClient) get(_ int, key string) ([]byte, error) {
	var view transport.ByteView
	if err := c.group.Get(ctx, key, transport.ByteViewSink(&view)); err != nil {
		return nil, err
	}
	if checkBytes {
		return view.ByteSlice(), nil
	}
	return emptyOf(view.Len()), nil
}

func (c *groupcacheGoClient) close() {}

type grpcClient struct{ conn *grpc.ClientConn }

func openGRPC(s *setup) (remote, *process, error) {
	address, p, err := startServer(s)
	if err != nil {
		return nil, p, err
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(16<<20)))
	return &grpcClient{conn}, p, err
}

func (c *grpcClient) get(_ int, key string) (v []byte, err error) {
	request := []byte(key)
	return v, c.conn.Invoke(ctx, "/bench/Get", &request, &v)
}

func (c *grpcClient) close() { _ = c.conn.Close() }

type redisClient struct {
	client rueidis.Client
	server *process
}

func openRedis(s *setup) (remote, *process, error) {
	address, p, err := startRedis()
	if err != nil {
		return nil, nil, err
	}
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{address}, DisableCache: true})
	if err != nil {
		p.kill()
		return nil, nil, err
	}
	return &redisClient{client, p}, p, fillRedis(client, s.Keys)
}

func (c *redisClient) get(_ int, key string) ([]byte, error) {
	return c.client.Do(ctx, c.client.B().Get().Key(key).Build()).AsBytes()
}

func (c *redisClient) close() {
	c.client.Close()
	_ = c.server.cmd.Process.Kill()
}

// A tcpClient has a connection for each caller, that waits for its answer before it
// sends again: what the kernel takes, and nothing else.
type tcpClient struct{ conns []*tcpConn }

type tcpConn struct {
	net.Conn
	buffer []byte
}

func openTCP(s *setup) (remote, *process, error) {
	address, p, err := startServer(s)
	if err != nil {
		return nil, p, err
	}
	c := new(tcpClient)
	for range s.callers {
		conn, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err != nil {
			return c, p, err
		}
		c.conns = append(c.conns, &tcpConn{conn, make([]byte, 2<<10)})
	}
	return c, p, nil
}

func (c *tcpClient) get(caller int, key string) ([]byte, error) {
	conn := c.conns[caller]
	request := append(append(conn.buffer[:0], byte(len(key))), key...)
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	n := 0
	for n < 4 {
		m, err := conn.Read(conn.buffer[n:])
		if err != nil {
			return nil, err
		}
		n += m
	}
	v := make([]byte, binary.BigEndian.Uint32(conn.buffer))
	got := copy(v, conn.buffer[4:n])
	_, err := io.ReadFull(conn, v[got:])
	return v, err
}

func (c *tcpClient) close() {
	for _, conn := range c.conns {
		conn.Close()
	}
}
