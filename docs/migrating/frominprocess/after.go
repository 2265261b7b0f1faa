package frominprocess

import (
	"context"
	"errors"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/docs/migrating/db"
)

// Service is the service with geocache.
type Service struct{ Users *geocache.Group[db.User] }

// New uses the options of a Cache when there is more than one process: WithListen,
// WithTLS, WithDiscovery. Without, it is a cache in this process.
func New(ctx context.Context, opts ...geocache.Option) (s Service, cache *geocache.Cache, err error) {
	if cache, err = geocache.Open(ctx, opts...); err != nil {
		return s, nil, err
	}
	s.Users, err = geocache.NewGroup(cache, "users", geocache.GetterFunc[db.User](findUser),
		geocache.WithTTL(5*time.Minute),
		geocache.WithMaxBytes(64<<20),
		geocache.WithSetter(saveUser))
	return s, cache, err
}

func findUser(ctx context.Context, id string) (db.User, error) {
	user, err := db.Find(ctx, id)
	if errors.Is(err, db.ErrNoUser) {
		return user, geocache.ErrNotFound
	}
	return user, err
}

func saveUser(ctx context.Context, _ string, user db.User) error { return db.Save(ctx, user) }

// User returns a user.
func (s Service) User(ctx context.Context, id string) (db.User, error) {
	return s.Users.Get(ctx, id)
}

// Save changes a user, here and in all other processes.
func (s Service) Save(ctx context.Context, user db.User) error {
	return s.Users.Set(ctx, user.ID, user)
}
