package fromgroupcache

import (
	"context"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/docs/migrating/db"
)

// Replace makes user what everybody reads, for a minute at most.
func Replace(ctx context.Context, users *geocache.Group[db.User], user db.User) error {
	return users.Set(ctx, user.ID, user, geocache.WithItemTTL(time.Minute))
}

// Forget has the user loaded anew.
func Forget(ctx context.Context, users *geocache.Group[db.User], id string) error {
	return users.Remove(ctx, id)
}
