// Package db stands for the database of the service in docs/migrating.md.
package db

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// A User is a row.
type User struct{ ID, Name string }

// ErrNoUser says that there is no such row.
var ErrNoUser = errors.New("no such user")

// Reads counts the calls of Find.
var Reads atomic.Int64

var (
	mu   sync.Mutex
	rows = map[string]User{ // guarded by mu
		"ada":   {"ada", "Ada Lovelace"},
		"grace": {"grace", "Grace Hopper"},
	}
)

// Find returns the user of that id.
func Find(_ context.Context, id string) (User, error) {
	Reads.Add(1)
	mu.Lock()
	defer mu.Unlock()
	user, ok := rows[id]
	if !ok {
		return User{}, ErrNoUser
	}
	return user, nil
}

// Save writes a user.
func Save(_ context.Context, user User) error {
	mu.Lock()
	defer mu.Unlock()
	rows[user.ID] = user
	return nil
}

// Delete removes a user.
func Delete(_ context.Context, id string) error {
	mu.Lock()
	defer mu.Unlock()
	delete(rows, id)
	return nil
}
