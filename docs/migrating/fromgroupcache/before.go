// Package fromgroupcache is the code of docs/migrating.md about groupcache.
package fromgroupcache

import (
	"context"
	"encoding/json"

	"github.com/golang/groupcache"

	"github.com/geocache/geocache/docs/migrating/db"
)

// OldUsers makes the group in the process at self, one of urls.
func OldUsers(self string, urls ...string) *groupcache.Group {
	pool := groupcache.NewHTTPPool(self) // answers peers on http.DefaultServeMux
	pool.Set(urls...)                    // all processes, this one too
	return groupcache.NewGroup("users", 64<<20, groupcache.GetterFunc(getUser))
}

func getUser(ctx context.Context, id string, dest groupcache.Sink) error {
	user, err := db.Find(ctx, id)
	if err != nil {
		return err
	}
	data, err := json.Marshal(user)
	if err != nil {
		return err
	}
	return dest.SetBytes(data)
}

// OldUser returns a user.
func OldUser(ctx context.Context, users *groupcache.Group, id string) (user db.User, err error) {
	var data []byte
	if err := users.Get(ctx, id, groupcache.AllocatingByteSliceSink(&data)); err != nil {
		return user, err
	}
	err = json.Unmarshal(data, &user)
	return user, err
}
