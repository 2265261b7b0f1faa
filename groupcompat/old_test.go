package groupcompat_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/golang/groupcache"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/groupcompat"
)

// oldEnv makes the process an old one, which runs groupcache as it is. groupcache
// allows one pool and one group of a name in a process. Its value is the address to
// listen on.
const oldEnv = "GEOCACHE_TEST_OLD_PROCESS"

// bothEnv has it run geocache before its groupcache, with a group whose getter is the
// groupcache group.
const bothEnv = "GEOCACHE_TEST_BOTH"

const groupName = "users&more" // to be escaped. With a space old processes do not find it at each other

func TestMain(m *testing.M) {
	if address := os.Getenv(oldEnv); address != "" {
		runOld(address)
		return
	}
	goleak.VerifyTestMain(m)
}

// largeValue is what every origin has for keys that begin with "large".
var largeValue = strings.Repeat("0123456789abcdef", 8<<20/16)

// originOf is the origin of a kind of process: the value of a key says who has loaded it.
func originOf(kind, key string) (string, error) {
	switch word, _, _ := strings.Cut(key, " "); word {
	case "missing":
		return "", fmt.Errorf("%s: no such user", key)
	case "broken":
		return "", errors.New("the database is down")
	case "large":
		return kind + largeValue, nil
	}
	return kind + ":" + key, nil
}

// runOld is an old process, until its standard input ends. Beside groupcache it
// serves what a test wants of it.
func runOld(address string) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		panic(err)
	}
	pool := groupcache.NewHTTPPoolOpts("http://"+l.Addr().String(), nil)
	var (
		mu    sync.Mutex
		loads = map[string]int{} // guarded by mu
	)
	hanging, hung := make(chan struct{}, 100), make(chan struct{}, 100)
	group := groupcache.NewGroup(groupName, 64<<20, groupcache.GetterFunc(func(ctx context.Context, key string, dest groupcache.Sink) error {
		mu.Lock()
		loads[key]++
		mu.Unlock()
		if strings.HasPrefix(key, "hanging") {
			hanging <- struct{}{}
			<-ctx.Done()
			hung <- struct{}{}
			return ctx.Err()
		}
		value, err := originOf("old", key)
		if err != nil {
			return err
		}
		return dest.SetString(value)
	}))

	get := func(ctx context.Context, key string) (value string, err error) {
		err = group.Get(ctx, key, groupcache.StringSink(&value))
		return value, err
	}
	if os.Getenv(bothEnv) != "" {
		cache, err := geocache.Open(context.Background(), quiet)
		if err != nil {
			panic(err)
		}
		users, err := geocache.NewGroup(cache, groupName, groupcompat.Decoded(groupcompat.Getter(group), groupcompat.String()))
		if err != nil {
			panic(err)
		}
		get = func(ctx context.Context, key string) (string, error) { return users.Get(ctx, key) }
	}

	mux := http.NewServeMux()
	mux.Handle("/_groupcache/", pool)
	mux.HandleFunc("/get", func(w http.ResponseWriter, r *http.Request) {
		value, err := get(r.Context(), r.FormValue("key"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		io.WriteString(w, value)
	})
	mux.HandleFunc("/peers", func(_ http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		pool.Set(r.Form["peer"]...)
	})
	mux.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		json.NewEncoder(w).Encode(oldStats{
			Loads:          loads,
			PeerLoads:      group.Stats.PeerLoads.Get(),
			PeerErrors:     group.Stats.PeerErrors.Get(),
			ServerRequests: group.Stats.ServerRequests.Get(),
		})
	})
	mux.HandleFunc("/hanging", func(http.ResponseWriter, *http.Request) { <-hanging })
	mux.HandleFunc("/hung", func(http.ResponseWriter, *http.Request) { <-hung })
	go http.Serve(l, mux)
	fmt.Println(l.Addr())
	bufio.NewReader(os.Stdin).ReadByte()
}

type oldStats struct {
	Loads                                 map[string]int // by key
	PeerLoads, PeerErrors, ServerRequests int64
}

// An oldProcess is a running one, as a test sees it.
type oldProcess struct {
	t    *testing.T
	addr string
	url  string
	stop func()
}

// startOld starts one on a port of its own.
func startOld(t *testing.T, env ...string) *oldProcess {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), oldEnv+"=127.0.0.1:0", "GORACE=atexit_sleep_ms=0") // no second of waiting for its races
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	stop := sync.OnceFunc(func() {
		in.Close()
		cmd.Wait()
	})
	t.Cleanup(stop)
	addr, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	addr = strings.TrimSpace(addr)
	o := &oldProcess{t: t, addr: addr, url: "http://" + addr, stop: stop}
	o.setPeers(o.url)
	return o
}

// call asks the process for path, and returns what it answers.
func (o *oldProcess) call(path string, query url.Values) (string, int) {
	o.t.Helper()
	res, err := client(o.t).Get(o.url + path + "?" + query.Encode())
	require.NoError(o.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(o.t, err)
	return string(body), res.StatusCode
}

func (o *oldProcess) setPeers(urls ...string) { o.call("/peers", url.Values{"peer": urls}) }

// get reads through the process's group.
func (o *oldProcess) get(key string) (value string, err error) {
	body, status := o.call("/get", url.Values{"key": {key}})
	if status != http.StatusOK {
		return "", errors.New(strings.TrimSpace(body))
	}
	return body, nil
}

func (o *oldProcess) stats() (s oldStats) {
	body, _ := o.call("/stats", nil)
	require.NoError(o.t, json.Unmarshal([]byte(body), &s))
	return s
}

// loads returns how often the process has called its getter.
func (o *oldProcess) loads() (n int) {
	for _, l := range o.stats().Loads {
		n += l
	}
	return n
}

var clients sync.Map // by *testing.T

// client returns the test's HTTP client. Its connections end with the test.
func client(t *testing.T) *http.Client {
	c, ok := clients.Load(t)
	if !ok {
		tr := &http.Transport{}
		c = &http.Client{Transport: tr}
		clients.Store(t, c)
		t.Cleanup(func() {
			tr.CloseIdleConnections()
			clients.Delete(t)
		})
	}
	return c.(*http.Client)
}
