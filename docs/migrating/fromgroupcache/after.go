package fromgroupcache

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/docs/migrating/db"
	"github.com/geocache/geocache/regions"
)

// Open makes the process a node, among those.
func Open(ctx context.Context, listen string, t *tls.Config, nodes ...regions.Node) (*geocache.Cache, error) {
	return geocache.Open(ctx,
		geocache.WithRegion("eu"),
		geocache.WithListen(listen), // a port of its own, beside the HTTP server's
		geocache.WithTLS(t),
		geocache.WithDiscovery(regions.Static(nodes...))) // or consul.New("users")
}

// Users makes the group.
func Users(cache *geocache.Cache) (*geocache.Group[db.User], error) {
	return geocache.NewGroup(cache, "users", geocache.GetterFunc[db.User](findUser),
		geocache.WithTTL(5*time.Minute),
		geocache.WithMaxBytes(64<<20))
}

func findUser(ctx context.Context, id string) (db.User, error) {
	user, err := db.Find(ctx, id)
	if errors.Is(err, db.ErrNoUser) {
		return user, geocache.ErrNotFound
	}
	return user, err
}

// User returns a user.
func User(ctx context.Context, users *geocache.Group[db.User], id string) (db.User, error) {
	return users.Get(ctx, id)
}
