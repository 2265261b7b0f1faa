package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/regions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An instance is one process of the service, as far as it can be in one process.
type instance struct {
	*service
	url  string
	lost *atomic.Pointer[loss]
}

// A loss is of the next answer with that text: the connection breaks, or falls silent.
type loss struct {
	answer string
	silent bool
}

// open starts two instances that share the database and the cache.
func open(t *testing.T, s *server, opts ...geocache.GroupOption) [2]*instance {
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
		pool, lost := connect(t, s)
		opening.Go(func() {
			cache, err := geocache.Open(t.Context(), geocache.WithListener(l), geocache.WithDiscovery(regions.Static(nodes...)))
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { cache.Close() })
			service, err := newService(cache, &database{pool}, opts...)
			if err != nil {
				t.Error(err)
				return
			}
			web := httptest.NewServer(service.handler())
			t.Cleanup(web.Close)
			instances[i] = &instance{service, web.URL, lost}
		})
	}
	opening.Wait()
	require.False(t, t.Failed())
	return instances
}

// connect is openDatabase with connections on which an answer can be lost.
func connect(t *testing.T, s *server) (*pgxpool.Pool, *atomic.Pointer[loss]) {
	plain, err := openDatabase(t.Context(), s.url())
	require.NoError(t, err)
	config := plain.Config()
	plain.Close()

	lost, dial := new(atomic.Pointer[loss]), config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		return lossy{conn, lost}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool, lost
}

// A lossy connection loses an answer that is to be lost.
type lossy struct {
	net.Conn
	lost *atomic.Pointer[loss]
}

func (c lossy) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	l := c.lost.Load()
	if l == nil || !bytes.Contains(b[:n], []byte(l.answer)) || !c.lost.CompareAndSwap(l, nil) {
		return n, err
	}
	if l.silent {
		return c.Conn.Read(b) // until the deadline: there is no more
	}
	c.Conn.Close()
	return 0, io.ErrUnexpectedEOF
}

// do makes a request, and returns the status, what the cache said, and the body.
func (i *instance) do(t *testing.T, method, path, body string) (status int, source, reply string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, i.url+path, strings.NewReader(body))
	require.NoError(t, err)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, resp.Header.Get("X-Cache"), strings.TrimSpace(string(text))
}

func (i *instance) put(t *testing.T, id int, name, team string) {
	t.Helper()
	status, _, text := i.do(t, http.MethodPut, fmt.Sprint("/users/", id), fmt.Sprintf(`{"name":%q,"team":%q}`, name, team))
	require.Equal(t, http.StatusNoContent, status, text)
}

func (i *instance) requireGet(t *testing.T, path string, status int, reply string) {
	t.Helper()
	got, _, text := i.do(t, http.MethodGet, path, "")
	require.Equal(t, status, got, text)
	if status == http.StatusOK {
		require.JSONEq(t, reply, text)
	}
}

// answersFrom returns whether the cache says that the answer came from there.
func (i *instance) answersFrom(t *testing.T, path, source string) func() bool {
	return func() bool {
		status, got, _ := i.do(t, http.MethodGet, path, "")
		return status == http.StatusOK && got == source
	}
}

// query returns what the database has of a user, whatever the cache says.
func (i *instance) query(t *testing.T, id int) string {
	t.Helper()
	u, err := i.db.get(t.Context(), fmt.Sprint(id))
	if errors.Is(err, geocache.ErrNotFound) {
		return ""
	}
	require.NoError(t, err)
	return u.Name
}

func TestAWriteAtOneIsReadAtTheOther(t *testing.T) {
	s := newServer(t)
	nodes := open(t, s)
	a, b := nodes[0], nodes[1]
	for id := range 20 { // some are owned by a and some by b
		path := fmt.Sprint("/users/", id)
		for _, n := range nodes {
			n.requireGet(t, path, http.StatusNotFound, "") // its absence is cached
		}
		a.put(t, id, "Ada", "engines")
		require.Equal(t, "Ada", a.query(t, id))
		b.requireGet(t, path, http.StatusOK, `{"name":"Ada","team":"engines"}`)
		b.put(t, id, "Grace", "engines")
		a.requireGet(t, path, http.StatusOK, `{"name":"Grace","team":"engines"}`)

		status, _, _ := a.do(t, http.MethodDelete, path, "")
		require.Equal(t, http.StatusNoContent, status)
		require.Empty(t, a.query(t, id))
		b.requireGet(t, path, http.StatusNotFound, "")
	}

	a.put(t, 42, "Ada", "engines")
	for _, n := range nodes { // one that has just come asks the owner for the first second
		require.Eventually(t, n.answersFrom(t, "/users/42", "store"), 10*time.Second, 20*time.Millisecond)
	}
}

func TestAbsenceIsCached(t *testing.T) {
	a := open(t, newServer(t))[0]
	for range 10 {
		a.requireGet(t, "/users/7", http.StatusNotFound, "")
	}
	stats := a.users.Stats()
	require.EqualValues(t, 10, stats.NotFound)
	require.LessOrEqual(t, stats.Loads, uint64(1), "none if the other one owns it")
}

func TestBadRequests(t *testing.T) {
	a := open(t, newServer(t))[0]
	for _, r := range []struct{ method, path, body string }{
		{http.MethodGet, "/users/ada", ""},
		{http.MethodDelete, "/users/99999999999999999999", ""},
		{http.MethodPut, "/users/1", `{`},
		{http.MethodPut, "/users/1", `{"name":"","team":"engines"}`},
		{http.MethodPut, "/users/1", `{"name":"Ada","team":"No Such"}`},
		{http.MethodPut, "/users/1", `{"name":"A\u0000","team":"engines"}`},
		{http.MethodGet, "/teams/engines?page=1000", ""},
		{http.MethodPost, "/teams/engines/rename?to=No%20Such", ""},
		{http.MethodGet, "/teams/engines?page=x", ""},
	} {
		status, _, _ := a.do(t, r.method, r.path, r.body)
		require.Equal(t, http.StatusBadRequest, status, r)
	}
	a.requireGet(t, "/teams/No%20Such", http.StatusNotFound, "")
	a.put(t, 42, "Ada", "engines")
	a.requireGet(t, "/users/042", http.StatusOK, `{"name":"Ada","team":"engines"}`)
}

// TestListing: who comes, goes, is renamed or moves is shown so at once at both.
func TestListing(t *testing.T) {
	nodes := open(t, newServer(t))
	requireTeams := func(engines, compilers string) {
		t.Helper()
		for _, n := range nodes {
			n.requireGet(t, "/teams/engines", http.StatusOK, engines)
			n.requireGet(t, "/teams/compilers?page=0", http.StatusOK, compilers)
		}
	}
	a, b := nodes[0], nodes[1]
	requireTeams(`[]`, `[]`)
	a.put(t, 1, "Ada", "engines")
	b.put(t, 2, "Grace", "engines")
	requireTeams(`[{"id":"1","name":"Ada","team":"engines"},{"id":"2","name":"Grace","team":"engines"}]`, `[]`)
	b.put(t, 1, "Augusta", "engines")
	requireTeams(`[{"id":"1","name":"Augusta","team":"engines"},{"id":"2","name":"Grace","team":"engines"}]`, `[]`)
	a.put(t, 2, "Grace", "compilers")
	requireTeams(`[{"id":"1","name":"Augusta","team":"engines"}]`, `[{"id":"2","name":"Grace","team":"compilers"}]`)
	status, _, _ := b.do(t, http.MethodDelete, "/users/1", "")
	require.Equal(t, http.StatusNoContent, status)
	requireTeams(`[]`, `[{"id":"2","name":"Grace","team":"compilers"}]`)

	b.put(t, 300, "Zoe", "engines")
	a.requireGet(t, "/teams/engines?page=1", http.StatusOK, `[]`)
	_, err := a.db.pool.Exec(t.Context(), `INSERT INTO users SELECT i, 'N', 'engines' FROM generate_series(101, 200) i`)
	require.NoError(t, err)
	b.put(t, 301, "Zoë", "engines") // a page that nobody has written to has changed, too
	a.requireGet(t, "/teams/engines?page=1", http.StatusOK, `[{"id":"300","name":"Zoe","team":"engines"},{"id":"301","name":"Zoë","team":"engines"}]`)
}

// TestRename: many users change in one statement, and none of them is what it was.
func TestRename(t *testing.T) {
	nodes := open(t, newServer(t))
	for id := range 20 {
		nodes[id%2].put(t, id, "Ada", "engines") // written, with its tag
	}
	_, err := nodes[0].db.pool.Exec(t.Context(), `INSERT INTO users SELECT i, 'Ada', 'engines' FROM generate_series(20, 39) i`)
	require.NoError(t, err)
	nodes[0].put(t, 40, "Grace", "compilers")
	requireTeam := func(team string) {
		t.Helper()
		for id := range 40 { // read, and from 20 on loaded, with their tags
			for _, n := range nodes {
				n.requireGet(t, fmt.Sprint("/users/", id), http.StatusOK, fmt.Sprintf(`{"name":"Ada","team":%q}`, team))
			}
		}
		for _, n := range nodes {
			_, _, text := n.do(t, http.MethodGet, "/teams/"+team, "")
			require.Equal(t, 40, strings.Count(text, "Ada"))
		}
	}
	requireTeam("engines")
	for _, n := range nodes {
		n.requireGet(t, "/teams/compilers", http.StatusOK, `[{"id":"40","name":"Grace","team":"compilers"}]`)
	}
	status, _, text := nodes[1].do(t, http.MethodPost, "/teams/engines/rename?to=compilers", "")
	require.Equal(t, http.StatusNoContent, status, text)
	requireTeam("compilers")
	for _, n := range nodes {
		n.requireGet(t, "/teams/engines", http.StatusOK, `[]`)
	}

	nodes[1].lost.Store(&loss{answer: "UPDATE 41\x00"})
	status, _, _ = nodes[1].do(t, http.MethodPost, "/teams/compilers/rename?to=engines", "")
	require.Equal(t, http.StatusBadGateway, status)
	requireTeam("engines")
}

// TestCommittedAndFailed: the database commits and the setter returns an error.
func TestCommittedAndFailed(t *testing.T) {
	nodes := open(t, newServer(t))
	for id := range 10 {
		for i, n := range nodes {
			a, b, path := n, nodes[1-i], fmt.Sprint("/users/", id)
			team := fmt.Sprintf("team%d-%d", id, i)
			a.put(t, id, "Ada", team)
			for _, n := range nodes {
				n.requireGet(t, path, http.StatusOK, fmt.Sprintf(`{"name":"Ada","team":%q}`, team))
				n.requireGet(t, "/teams/"+team, http.StatusOK, fmt.Sprintf(`[{"id":"%d","name":"Ada","team":%q}]`, id, team))
				n.requireGet(t, "/teams/next-"+team, http.StatusOK, `[]`)
			}
			for _, n := range nodes { // one of them owns the key
				n.lost.Store(&loss{answer: "COMMIT\x00"})
			}
			status, _, _ := b.do(t, http.MethodPut, path, fmt.Sprintf(`{"name":"Grace","team":"next-%s"}`, team))
			require.Equal(t, http.StatusBadGateway, status)
			for _, n := range nodes {
				n.lost.Store(nil)
			}
			require.Equal(t, "Grace", a.query(t, id), "it has been committed")
			for _, n := range nodes {
				n.requireDropped(t, id, "Ada")
				n.requireGet(t, path, http.StatusOK, fmt.Sprintf(`{"name":"Grace","team":"next-%s"}`, team))
				n.requireGet(t, "/teams/"+team, http.StatusOK, `[]`)
				n.requireGet(t, "/teams/next-"+team, http.StatusOK, fmt.Sprintf(`[{"id":"%d","name":"Grace","team":"next-%s"}]`, id, team))
			}
		}
	}
}

// TestCommittedAndSilent: the answer to the COMMIT does not come, so that the setter's time
// is up when it returns.
func TestCommittedAndSilent(t *testing.T) {
	nodes := open(t, newServer(t))
	a, b := nodes[0], nodes[1]
	a.put(t, 1, "Ada", "engines")
	for _, n := range nodes {
		n.requireGet(t, "/teams/engines", http.StatusOK, `[{"id":"1","name":"Ada","team":"engines"}]`)
		n.requireGet(t, "/teams/compilers", http.StatusOK, `[]`)
		n.lost.Store(&loss{answer: "COMMIT\x00", silent: true})
	}
	status, _, _ := a.do(t, http.MethodPut, "/users/1", `{"name":"Ada","team":"compilers"}`)
	require.Equal(t, http.StatusGatewayTimeout, status)
	for _, n := range nodes {
		n.lost.Store(nil)
	}
	b.put(t, 1, "Ada", "compilers") // done again, as the client may; it waits for the first one's end
	for _, n := range nodes {
		n.requireGet(t, "/teams/engines", http.StatusOK, `[]`)
		n.requireGet(t, "/teams/compilers", http.StatusOK, `[{"id":"1","name":"Ada","team":"compilers"}]`)
	}
}

// TestRefused: the database refuses, and the setter returns an error.
func TestRefused(t *testing.T) {
	nodes := open(t, newServer(t))
	nodes[0].put(t, 1, "Ada", "engines")
	for _, n := range nodes {
		n.requireGet(t, "/users/1", http.StatusOK, `{"name":"Ada","team":"engines"}`)
		err := n.users.Set(t.Context(), "1", User{Name: "", Team: "engines"})
		require.ErrorContains(t, err, "violates check constraint")
	}
	for _, n := range nodes {
		n.requireGet(t, "/users/1", http.StatusOK, `{"name":"Ada","team":"engines"}`)
	}
}

// requireDropped waits until the instance does not have that user in its memory: after
// a write that failed, Set does not wait for the others to have dropped it.
func (i *instance) requireDropped(t *testing.T, id int, name string) {
	t.Helper()
	require.Eventually(t, func() bool {
		u, ok := i.users.Peek(fmt.Sprint(id))
		return !ok || u.Name != name
	}, 5*time.Second, time.Millisecond)
}

// TestWhileTheDatabaseIsDown: what has been read before is served, stale, and writes fail.
func TestWhileTheDatabaseIsDown(t *testing.T) {
	s := newServer(t)
	nodes := open(t, s, geocache.WithTTL(200*time.Millisecond), geocache.WithNegativeTTL(0))
	nodes[0].put(t, 1, "Ada", "engines")
	nodes[0].put(t, 2, "Grace", "engines")
	const ada = `{"name":"Ada","team":"engines"}`
	for _, n := range nodes {
		n.requireGet(t, "/users/1", http.StatusOK, ada)
	}
	s.stop(t)
	for _, n := range nodes {
		require.Eventually(t, n.answersFrom(t, "/users/1", "stale"), 5*time.Second, 20*time.Millisecond)
		n.requireGet(t, "/users/1", http.StatusOK, ada)
		n.requireGet(t, "/users/3", http.StatusBadGateway, "")
	}
	status, _, _ := nodes[0].do(t, http.MethodPut, "/users/2", ada)
	require.Equal(t, http.StatusBadGateway, status)

	s.start(t)
	for _, n := range nodes {
		require.Eventually(t, func() bool { return !n.answersFrom(t, "/users/1", "stale")() }, 5*time.Second, 20*time.Millisecond)
		n.requireGet(t, "/users/1", http.StatusOK, ada)
		n.requireGet(t, "/users/2", http.StatusOK, `{"name":"Grace","team":"engines"}`)
	}
}

// TestWhileTheDatabaseHangs: a request is answered within its deadline.
func TestWhileTheDatabaseHangs(t *testing.T) {
	a := open(t, newServer(t))[0]
	lock, err := a.db.pool.Begin(t.Context())
	require.NoError(t, err)
	defer lock.Rollback(context.Background()) // the pool does not close before
	_, err = lock.Exec(t.Context(), `LOCK TABLE users IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)

	began := time.Now()
	a.requireGet(t, "/users/1", http.StatusGatewayTimeout, "")
	status, _, _ := a.do(t, http.MethodPut, "/users/1", `{"name":"Ada","team":"engines"}`)
	require.Equal(t, http.StatusGatewayTimeout, status)
	require.Less(t, time.Since(began), 2*patience)

	require.NoError(t, lock.Rollback(context.Background()))
	a.put(t, 1, "Ada", "engines")
	a.requireGet(t, "/users/1", http.StatusOK, `{"name":"Ada","team":"engines"}`)
}

// TestRun is main without its flags.
func TestRun(t *testing.T) {
	s := newServer(t)
	conn, err := pgx.ParseConfig(s.url())
	require.NoError(t, err)
	for name, value := range map[string]string{"PGHOST": conn.Host, "PGUSER": conn.User, "PGDATABASE": conn.Database} {
		t.Setenv(name, value)
	}
	address := free(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, address, free(t), nil) }()

	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	require.Eventually(t, func() bool {
		resp, err := client.Get("http://" + address + "/users/1")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusNotFound
	}, 20*time.Second, 20*time.Millisecond)
	stop()
	require.NoError(t, <-ended)

	require.ErrorContains(t, run(t.Context(), address, "10.0.0.1:1", nil), "WithTLS")
}

// free returns an address that nobody listened on a moment ago.
func free(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}
