package frominprocess

import (
	"context"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/docs/migrating/db"
)

func TestReads(t *testing.T) {
	o, err := NewOtter()
	require.NoError(t, err)
	defer o.Cache.StopAllGoroutines()
	r, err := NewRistretto()
	require.NoError(t, err)
	defer r.Cache.Close()
	s, cache, err := New(t.Context(), geocache.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer cache.Close()

	for name, read := range map[string]func(context.Context, string) (db.User, error){
		"otter": o.User, "ristretto": r.User, "golang-lru": NewLRU().User, "geocache": s.User,
	} {
		user, err := read(t.Context(), "ada")
		require.NoError(t, err, name)
		require.Equal(t, db.User{ID: "ada", Name: "Ada Lovelace"}, user, name)
		_, err = read(t.Context(), "bob")
		notFound := db.ErrNoUser
		if name == "geocache" {
			notFound = geocache.ErrNotFound // in whichever process it was found out
		}
		require.ErrorIs(t, err, notFound, name)
	}

	grace := db.User{ID: "grace", Name: "Admiral Hopper"}
	require.NoError(t, o.Save(t.Context(), grace))
	require.NoError(t, s.Save(t.Context(), grace))
	reads := db.Reads.Load()
	for _, read := range []func(context.Context, string) (db.User, error){o.User, s.User} {
		user, err := read(t.Context(), "grace")
		require.NoError(t, err)
		require.Equal(t, grace, user)
	}
	require.Equal(t, reads, db.Reads.Load())
}
