package fromredis

import (
	"context"
	"errors"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/docs/migrating/db"
)

// Service is the service without.
type Service struct{ Users *geocache.Group[db.User] }

// New makes the service's group.
func New(cache *geocache.Cache) (s Service, err error) {
	s.Users, err = geocache.NewGroup(cache, "users", geocache.GetterFunc[db.User](findUser),
		geocache.WithTTL(5*time.Minute),
		geocache.WithNegativeTTL(10*time.Second),
		geocache.WithSetter(saveUser),
		geocache.WithRemover(db.Delete))
	return s, err
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

// Save changes a user: in the database first, then in the cache.
func (s Service) Save(ctx context.Context, user db.User) error {
	return s.Users.Set(ctx, user.ID, user)
}
