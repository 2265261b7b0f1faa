package main

import (
	"context"
	"time"

	"github.com/geocache/geocache"
)

// load stands for what a service would ask a database or another service.
func load(ctx context.Context, id string) (string, error) {
	select {
	case <-time.After(500 * time.Millisecond):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	name, ok := map[string]string{"ada": "Ada Lovelace", "grace": "Grace Hopper"}[id]
	if !ok {
		return "", geocache.ErrNotFound
	}
	return name, nil
}
