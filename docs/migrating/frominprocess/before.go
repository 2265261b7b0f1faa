// Package frominprocess is the code of docs/migrating.md about caches in one process.
package frominprocess

import (
	"context"
	"time"

	"github.com/dgraph-io/ristretto/v2"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/maypok86/otter/v2"

	"github.com/geocache/geocache/docs/migrating/db"
)

// Otter is the service with otter.
type Otter struct{ Cache *otter.Cache[string, db.User] }

// NewOtter makes its cache.
func NewOtter() (o Otter, err error) {
	o.Cache, err = otter.New(&otter.Options[string, db.User]{
		MaximumSize:      100_000,
		ExpiryCalculator: otter.ExpiryWriting[string, db.User](5 * time.Minute),
	})
	return o, err
}

// User returns a user.
func (o Otter) User(ctx context.Context, id string) (db.User, error) {
	return o.Cache.Get(ctx, id, otter.LoaderFunc[string, db.User](db.Find))
}

// Save changes a user.
func (o Otter) Save(ctx context.Context, user db.User) error {
	if err := db.Save(ctx, user); err != nil {
		return err
	}
	o.Cache.Set(user.ID, user)
	return nil
}

// Ristretto is the service with ristretto.
type Ristretto struct {
	Cache *ristretto.Cache[string, db.User]
}

// NewRistretto makes its cache.
func NewRistretto() (r Ristretto, err error) {
	r.Cache, err = ristretto.NewCache(&ristretto.Config[string, db.User]{
		NumCounters: 1_000_000,
		MaxCost:     64 << 20,
		BufferItems: 64,
	})
	return r, err
}

// User returns a user.
func (r Ristretto) User(ctx context.Context, id string) (db.User, error) {
	if user, ok := r.Cache.Get(id); ok {
		return user, nil
	}
	user, err := db.Find(ctx, id)
	if err == nil {
		r.Cache.SetWithTTL(id, user, int64(len(user.ID)+len(user.Name)), 5*time.Minute)
	}
	return user, err
}

// LRU is the service with golang-lru.
type LRU struct {
	Cache *expirable.LRU[string, db.User]
}

// NewLRU makes its cache.
func NewLRU() LRU {
	return LRU{expirable.NewLRU[string, db.User](100_000, nil, 5*time.Minute)}
}

// User returns a user.
func (l LRU) User(ctx context.Context, id string) (db.User, error) {
	if user, ok := l.Cache.Get(id); ok {
		return user, nil
	}
	user, err := db.Find(ctx, id)
	if err == nil {
		l.Cache.Add(id, user)
	}
	return user, err
}
