// Package fromredis is the code of docs/migrating.md about cache-aside with Redis.
package fromredis

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/geocache/geocache/docs/migrating/db"
)

// Old is the service with Redis.
type Old struct{ Redis *redis.Client }

// User returns a user.
func (o Old) User(ctx context.Context, id string) (user db.User, err error) {
	data, err := o.Redis.Get(ctx, "user:"+id).Bytes()
	if err == nil && json.Unmarshal(data, &user) == nil {
		return user, nil
	}
	if err != nil && !errors.Is(err, redis.Nil) {
		slog.Warn("reading Redis", "err", err)
	}
	if user, err = db.Find(ctx, id); err != nil {
		return user, err
	}
	if data, err = json.Marshal(user); err != nil {
		return user, err
	}
	if err := o.Redis.Set(ctx, "user:"+id, data, 5*time.Minute).Err(); err != nil {
		slog.Warn("writing Redis", "err", err)
	}
	return user, nil
}

// Save changes a user.
func (o Old) Save(ctx context.Context, user db.User) error {
	if err := db.Save(ctx, user); err != nil {
		return err
	}
	return o.Redis.Del(ctx, "user:"+user.ID).Err()
}
