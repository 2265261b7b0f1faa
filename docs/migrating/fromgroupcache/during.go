package fromgroupcache

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/golang/groupcache"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/docs/migrating/db"
	"github.com/geocache/geocache/groupcompat"
)

// userCodec is how getUser encodes.
type userCodec struct{}

func (userCodec) Encode(user db.User) ([]byte, error) { return json.Marshal(user) }

func (userCodec) Decode(data []byte) (user db.User, err error) {
	err = json.Unmarshal(data, &user)
	return user, err
}

// UsersBeforeOld is the group while groupcache goes on behind it.
func UsersBeforeOld(cache *geocache.Cache, old *groupcache.Group) (*geocache.Group[db.User], error) {
	return geocache.NewGroup(cache, "users",
		groupcompat.Decoded(groupcompat.Getter(old, db.ErrNoUser), userCodec{}),
		geocache.WithTTL(5*time.Minute),
		geocache.WithMaxBytes(64<<20))
}

// UsersAmongOld is the group in a process among others that still run groupcache. self
// and urls are what the process gave to groupcache before.
func UsersAmongOld(cache *geocache.Cache, mux *http.ServeMux, self string, urls ...string) (*geocache.Group[db.User], error) {
	peers, err := groupcompat.NewPeers(self, nil)
	if err != nil {
		return nil, err
	}
	peers.Set(urls...)
	origin := groupcompat.Getter(groupcache.GetterFunc(getUser), db.ErrNoUser) // as it was
	users, err := geocache.NewGroup(cache, "users",
		groupcompat.Decoded(peers.Getter("users", origin), userCodec{}),
		geocache.WithTTL(5*time.Minute),
		geocache.WithMaxBytes(64<<20))
	if err != nil {
		return nil, err
	}
	handler := groupcompat.NewHandler(nil, nil)
	groupcompat.Serve(handler, users, userCodec{})
	mux.Handle("/_groupcache/", handler) // in place of the HTTPPool
	return users, nil
}
