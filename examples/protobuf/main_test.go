package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/examples/protobuf/cartpb"
	"github.com/geocache/geocache/regions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An instance is one process of the service, as far as it can be in one process.
type instance struct {
	carts *geocache.Group[*cartpb.Cart]
	url   string
}

// open starts two instances that share the cache.
func open(t *testing.T) [2]*instance {
	var listeners [2]net.Listener
	var nodes []regions.Node
	for i := range listeners {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		listeners[i] = l
		nodes = append(nodes, regions.Node{ID: l.Addr().String(), Region: "local", Address: l.Addr().String()})
	}
	var instances [2]*instance
	var opening sync.WaitGroup
	for i, l := range listeners {
		opening.Go(func() {
			cache, err := geocache.Open(t.Context(), geocache.WithListener(l), geocache.WithDiscovery(regions.Static(nodes...)))
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { cache.Close() })
			carts, err := newCarts(cache)
			if err != nil {
				t.Error(err)
				return
			}
			web := httptest.NewServer(handler(carts))
			t.Cleanup(web.Close)
			instances[i] = &instance{carts, web.URL}
		})
	}
	opening.Wait()
	require.False(t, t.Failed())
	return instances
}

// do makes a request and returns the status and the cart.
func (i *instance) do(t *testing.T, method, id, body string) (int, *cartpb.Cart) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, i.url+"/carts/"+id, strings.NewReader(body))
	require.NoError(t, err)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, nil
	}
	cart := new(cartpb.Cart)
	require.NoError(t, protojson.Unmarshal(text, cart), string(text))
	return resp.StatusCode, cart
}

func (i *instance) requireItems(t *testing.T, id string, items ...*cartpb.Item) {
	t.Helper()
	status, cart := i.do(t, http.MethodGet, id, "")
	require.Equal(t, http.StatusOK, status)
	require.True(t, proto.Equal(&cartpb.Cart{Items: items}, &cartpb.Cart{Items: cart.Items}), cart)
}

func TestAWriteAtOneIsReadAtTheOther(t *testing.T) {
	nodes := open(t)
	for i := range 10 { // some are kept by one and some by the other
		id := fmt.Sprint("ada-", i)
		for _, n := range nodes {
			n.requireItems(t, id)
		}
		for j, n := range nodes {
			status, cart := n.do(t, http.MethodPost, id, `{"article":"tea","count":2}`)
			require.Equal(t, http.StatusOK, status)
			require.WithinDuration(t, time.Now(), cart.Changed.AsTime(), time.Minute)
			for _, m := range nodes {
				m.requireItems(t, id, &cartpb.Item{Article: "tea", Count: uint32(2 + 2*j)})
			}
		}
		nodes[i%2].do(t, http.MethodPost, id, `{"article":"milk","count":1}`)
		for _, n := range nodes {
			n.requireItems(t, id, &cartpb.Item{Article: "tea", Count: 4}, &cartpb.Item{Article: "milk", Count: 1})
		}
		status, _ := nodes[i%2].do(t, http.MethodDelete, id, "")
		require.Equal(t, http.StatusOK, status)
		for _, n := range nodes {
			n.requireItems(t, id)
		}
	}
	status, _ := nodes[0].do(t, http.MethodPost, "ada", `{"article":"tea"}`)
	require.Equal(t, http.StatusBadRequest, status)
}

// TestNoItemIsLost: many put something into one cart at the same time, at both, while
// others read it. The race detector sees to it that nobody changes what is read.
func TestNoItemIsLost(t *testing.T) {
	nodes := open(t)
	var wg sync.WaitGroup
	for i := range 40 {
		n := nodes[i%2]
		wg.Go(func() {
			item := &cartpb.Item{Article: fmt.Sprint("article ", i%4), Count: 1}
			if _, err := add(context.Background(), n.carts, "ada", item); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if cart, err := n.carts.Get(context.Background(), "ada"); err == nil {
				_, err = proto.Marshal(cart)
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, n := range nodes {
		cart, err := n.carts.Get(t.Context(), "ada")
		require.NoError(t, err)
		require.Len(t, cart.Items, 4)
		for _, item := range cart.Items {
			require.EqualValues(t, 10, item.Count, item.Article)
		}
	}
}

// TestNewFieldsSurvive: an instance of a later version has written a field that this one
// does not know, and this one changes the cart.
func TestNewFieldsSurvive(t *testing.T) {
	nodes := open(t)
	later := &cartpb.Cart{Items: []*cartpb.Item{{Article: "tea", Count: 1}}}
	voucher := protowire.AppendString(protowire.AppendTag(nil, 7, protowire.BytesType), "ten percent")
	later.ProtoReflect().SetUnknown(voucher)
	require.NoError(t, nodes[0].carts.Set(t.Context(), "ada", later))

	_, err := add(t.Context(), nodes[1].carts, "ada", &cartpb.Item{Article: "milk", Count: 1})
	require.NoError(t, err)
	for _, n := range nodes {
		cart, err := n.carts.Get(t.Context(), "ada")
		require.NoError(t, err)
		require.Len(t, cart.Items, 2)
		require.EqualValues(t, voucher, cart.ProtoReflect().GetUnknown())
	}
}

// TestRun is main without its flags.
func TestRun(t *testing.T) {
	address := free(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, address, free(t), nil) }()

	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	require.Eventually(t, func() bool {
		resp, err := client.Get("http://" + address + "/carts/ada")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}, 20*time.Second, 20*time.Millisecond)
	stop()
	require.NoError(t, <-ended)
}

// free returns an address that nobody listened on a moment ago.
func free(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}
