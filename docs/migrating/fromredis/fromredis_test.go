package fromredis

import (
	"log/slog"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/docs/migrating/db"
)

func TestStages(t *testing.T) {
	ctx := t.Context()
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	open := func() *geocache.Cache {
		cache, err := geocache.Open(ctx, geocache.WithLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		t.Cleanup(func() { cache.Close() })
		return cache
	}
	ada := db.User{ID: "ada", Name: "Ada Lovelace"}
	queen := db.User{ID: "ada", Name: "Augusta Ada King"}

	old := Old{client}
	user, err := old.User(ctx, "ada")
	require.NoError(t, err)
	require.Equal(t, ada, user)
	_, err = old.User(ctx, "bob")
	require.ErrorIs(t, err, db.ErrNoUser)

	// Beside Redis: what it has is not read from the database, a write reaches the
	// processes that still use it, and a Redis that is down costs reads of the database.
	beside, err := NewBesideRedis(open(), client)
	require.NoError(t, err)
	reads := db.Reads.Load()
	user, err = beside.User(ctx, "ada")
	require.NoError(t, err)
	require.Equal(t, ada, user)
	require.Equal(t, reads, db.Reads.Load())
	server.Set("user:late", `{"ID":"late","Name":"Late"}`)
	server.SetTTL("user:late", 10*time.Second)
	item, err := beside.Users.GetItem(ctx, "late")
	require.NoError(t, err)
	require.Equal(t, "Late", item.Value.Name)
	require.LessOrEqual(t, time.Until(item.Expires), 10*time.Second, "longer than in Redis")
	_, err = beside.User(ctx, "bob")
	require.ErrorIs(t, err, geocache.ErrNotFound)
	require.NoError(t, beside.Save(ctx, queen))
	user, err = old.User(ctx, "ada")
	require.NoError(t, err)
	require.Equal(t, queen, user)
	require.NoError(t, beside.Save(ctx, db.User{ID: "bob", Name: "Bob"}))
	require.NoError(t, beside.Users.Remove(ctx, "bob"))
	_, err = old.User(ctx, "bob")
	require.ErrorIs(t, err, db.ErrNoUser)
	server.SetError("down")
	user, err = beside.User(ctx, "grace")
	require.NoError(t, err)
	require.Equal(t, "Grace Hopper", user.Name)

	// Without.
	s, err := New(open())
	require.NoError(t, err)
	require.NoError(t, s.Save(ctx, ada))
	reads = db.Reads.Load()
	user, err = s.User(ctx, "ada")
	require.NoError(t, err)
	require.Equal(t, ada, user)
	require.Equal(t, reads, db.Reads.Load())
	user, err = db.Find(ctx, "ada")
	require.NoError(t, err)
	require.Equal(t, ada, user)
	_, err = s.User(ctx, "bob")
	require.ErrorIs(t, err, geocache.ErrNotFound)
}
