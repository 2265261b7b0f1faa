package fromredis

import (
	"context"
	"encoding/json"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/docs/migrating/db"
)

// NewBesideRedis is New while other processes still use Redis.
func NewBesideRedis(cache *geocache.Cache, r *redis.Client) (s Service, err error) {
	s.Users, err = geocache.NewGroup(cache, "users",
		geocache.ItemGetterFunc[db.User](func(ctx context.Context, id string) (geocache.Loaded[db.User], error) {
			if loaded, ok := fromRedis(ctx, r, id); ok {
				return loaded, nil
			}
			user, err := findUser(ctx, id)
			return geocache.Loaded[db.User]{Value: user}, err
		}),
		geocache.WithTTL(30*time.Second), // for so long an old process's write may go unseen
		geocache.WithSetter(func(ctx context.Context, id string, user db.User) error {
			if err := db.Save(ctx, user); err != nil {
				return err
			}
			return r.Del(ctx, "user:"+id).Err() // for the old processes
		}),
		geocache.WithRemover(func(ctx context.Context, id string) error {
			if err := db.Delete(ctx, id); err != nil {
				return err
			}
			return r.Del(ctx, "user:"+id).Err()
		}))
	return s, err
}

// fromRedis returns what Redis has, for as long as it would have kept it.
func fromRedis(ctx context.Context, r *redis.Client, id string) (loaded geocache.Loaded[db.User], ok bool) {
	var data *redis.StringCmd
	var left *redis.DurationCmd
	_, err := r.Pipelined(ctx, func(p redis.Pipeliner) error {
		data, left = p.Get(ctx, "user:"+id), p.PTTL(ctx, "user:"+id)
		return nil
	})
	if err != nil || left.Val() <= 0 || json.Unmarshal([]byte(data.Val()), &loaded.Value) != nil {
		return loaded, false
	}
	loaded.TTL = left.Val()
	return loaded, true
}
