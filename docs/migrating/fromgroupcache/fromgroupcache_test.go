package fromgroupcache

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/docs/migrating/db"
)

// What the readers of each stage get is the same. Between real processes, package groupcompat
// tests it.
func TestStages(t *testing.T) {
	ctx := t.Context()
	open := func() *geocache.Cache {
		cache, err := geocache.Open(ctx, geocache.WithLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		t.Cleanup(func() { cache.Close() })
		return cache
	}
	check := func(read func(ctx context.Context, id string) (db.User, error), notFound error) {
		t.Helper()
		user, err := read(ctx, "ada")
		require.NoError(t, err)
		require.Equal(t, db.User{ID: "ada", Name: "Ada Lovelace"}, user)
		_, err = read(ctx, "bob")
		require.ErrorIs(t, err, notFound)
	}
	through := func(users *geocache.Group[db.User]) func(ctx context.Context, id string) (db.User, error) {
		return func(ctx context.Context, id string) (db.User, error) { return User(ctx, users, id) }
	}

	// One old process, and one of the new kind that is in its list.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &http.Server{Handler: http.DefaultServeMux}
	go server.Serve(l)
	defer server.Close()
	old, among := "http://"+l.Addr().String(), "http://127.0.0.1:1"
	group := OldUsers(old, old)
	check(func(ctx context.Context, id string) (db.User, error) { return OldUser(ctx, group, id) }, db.ErrNoUser)

	reads := db.Reads.Load()
	users, err := UsersBeforeOld(open(), group)
	require.NoError(t, err)
	check(through(users), geocache.ErrNotFound)
	require.Equal(t, reads+1, db.Reads.Load(), "only bob is read")

	mux := http.NewServeMux()
	users, err = UsersAmongOld(open(), mux, among, old)
	require.NoError(t, err)
	reads = db.Reads.Load()
	_, err = users.Get(ctx, "ada")
	require.NoError(t, err)
	require.Equal(t, reads, db.Reads.Load(), "the old process has it")
	check(through(users), geocache.ErrNotFound)
	_, pattern := mux.Handler(httptest.NewRequest("GET", "/_groupcache/users/ada", nil))
	require.Equal(t, "/_groupcache/", pattern)
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()

	users, err = Users(open())
	require.NoError(t, err)
	check(through(users), geocache.ErrNotFound)

	cache, err := Open(ctx, "127.0.0.1:0", nil)
	require.NoError(t, err)
	require.NoError(t, cache.Close())
}
