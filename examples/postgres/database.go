package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/geocache/geocache"
)

const schema = `
CREATE TABLE IF NOT EXISTS users (
	id   bigint PRIMARY KEY,
	name text NOT NULL CHECK (name <> ''),
	team text NOT NULL
);
CREATE INDEX IF NOT EXISTS users_by_team ON users (team, id)`

// A database has the users. It knows nothing of the cache, but for how to say that a
// key has no value.
type database struct{ pool *pgxpool.Pool }

// openDatabase connects, and makes the table where there is none. What the connection
// string does not say is taken from PGHOST and so on.
func openDatabase(ctx context.Context, conn string) (*pgxpool.Pool, error) {
	pool, err := pgxpool.New(ctx, conn)
	if err != nil {
		return nil, err
	}
	if _, err := pool.Exec(ctx, schema); err != nil {
		pool.Close()
		return nil, fmt.Errorf("making the tables: %w", err)
	}
	return pool, nil
}

// get returns the user of that id.
func (d *database) get(ctx context.Context, id string) (User, error) {
	var u User
	err := d.pool.QueryRow(ctx, `SELECT name, team FROM users WHERE id = $1`, id).Scan(&u.Name, &u.Team)
	if errors.Is(err, pgx.ErrNoRows) {
		return User{}, geocache.ErrNotFound
	}
	return u, err
}

// put makes u the user of that id, be there one before or not. It may be called again
// with the same user. It returns the teams that may have another member now, even with
// an error: the transaction may have been committed all the same.
func (d *database) put(ctx context.Context, id string, u User) (teams []string, err error) {
	err = pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		var before string
		switch err := tx.QueryRow(ctx, `SELECT team FROM users WHERE id = $1 FOR UPDATE`, id).Scan(&before); {
		case errors.Is(err, pgx.ErrNoRows):
			teams = []string{u.Team}
		case err != nil:
			return err
		case before != u.Team:
			teams = []string{before, u.Team}
		}
		_, err := tx.Exec(ctx, `INSERT INTO users (id, name, team) VALUES ($1, $2, $3)
			ON CONFLICT (id) DO UPDATE SET name = excluded.name, team = excluded.team`, id, u.Name, u.Team)
		return err
	})
	return teams, err
}

// delete deletes the user of that id, if there is one. It returns what put does.
func (d *database) delete(ctx context.Context, id string) (teams []string, err error) {
	err = pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		var before string
		err := tx.QueryRow(ctx, `DELETE FROM users WHERE id = $1 RETURNING team`, id).Scan(&before)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		teams = []string{before}
		return err
	})
	return teams, err
}

// rename gives the members of one team to another.
func (d *database) rename(ctx context.Context, from, to string) error {
	_, err := d.pool.Exec(ctx, `UPDATE users SET team = $2 WHERE team = $1`, from, to)
	return err
}

// members returns the ids of a team's members, in their order.
func (d *database) members(ctx context.Context, team string, skip, limit int) ([]string, error) {
	rows, err := d.pool.Query(ctx, `SELECT id::text FROM users WHERE team = $1 ORDER BY id OFFSET $2 LIMIT $3`, team, skip, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
