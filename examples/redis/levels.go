package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/geocache/geocache"
)

const (
	redisTTL  = 5 * time.Minute  // of documents
	absentTTL = 10 * time.Second // of a word that there is none; longer than a load may take, see remove

	// redisTimeout is the patience with Redis. It is no more than the source takes:
	// who waits longer is better off without.
	redisTimeout = 100 * time.Millisecond
)

// levels are Redis, and behind it the source. It is the usual look-aside.
type levels struct {
	redis  rueidis.Client
	source source

	hits, misses atomic.Uint64 // of Redis
}

// A source is what Redis saves asking. It returns geocache.ErrNotFound for what it does
// not have.
type source interface {
	get(ctx context.Context, id string) ([]byte, error)
	put(ctx context.Context, id string, doc []byte) error
	delete(ctx context.Context, id string) error
}

// get is the getter: Redis, else the source, and then Redis has it for the others. A
// Redis that is away costs time and nothing else.
//
// The cache is told how long Redis would have kept the document. So its two times to live
// do not add up: a change that somebody makes behind the service's back is seen when
// Redis forgets the old one, everywhere.
func (l *levels) get(ctx context.Context, id string) (geocache.Loaded[[]byte], error) {
	doc, left, err := l.fromRedis(ctx, id)
	switch {
	case err == nil && len(doc) == 0:
		l.hits.Add(1)
		return geocache.Loaded[[]byte]{}, geocache.ErrNotFound
	case err == nil:
		l.hits.Add(1)
		return geocache.Loaded[[]byte]{Value: doc, TTL: left}, nil
	case !rueidis.IsRedisNil(err):
		slog.Warn("Redis does not answer, the source is asked", "err", err)
	}
	l.misses.Add(1)
	doc, err = l.source.get(ctx, id)
	if err != nil && !errors.Is(err, geocache.ErrNotFound) {
		return geocache.Loaded[[]byte]{}, err
	}
	// Only if there is nothing (NX): a document that was written since the source has
	// been asked is newer than this one, which has been read before.
	if err := l.toRedis(ctx, id, doc, true); err != nil && !rueidis.IsRedisNil(err) {
		slog.Warn("Redis does not take what the source had", "err", err)
	}
	return geocache.Loaded[[]byte]{Value: doc}, err
}

// set is the setter. Called by the instance that owns the key, one write of a key at a
// time, it changes the source and what Redis has; when it returns nil, the cache drops
// what is older in all instances.
//
// Redis forgets the document first. If it cannot be reached, nothing has changed, and the
// writer is told; were it asked only afterwards, it could be left with the old document.
//
// This needs one Redis for all regions. Of several only this region's would be told: the
// caches of all regions have the new document at once, but when it expires there, what
// they load is what their own Redis has, for as long as that lasts.
func (l *levels) set(ctx context.Context, id string, doc []byte) error {
	if err := l.forget(ctx, id); err != nil {
		return err
	}
	if err := l.source.put(ctx, id, doc); err != nil {
		return err
	}
	return l.toRedis(ctx, id, doc, false)
}

// remove is the remover, and like set. It leaves behind in Redis that there is no
// document: a plain DEL would let in a getter that has read the old one.
func (l *levels) remove(ctx context.Context, id string) error {
	if err := l.forget(ctx, id); err != nil {
		return err
	}
	if err := l.source.delete(ctx, id); err != nil {
		return err
	}
	return l.toRedis(ctx, id, nil, false)
}

// fromRedis returns what Redis has, and for how long it will. An empty document says that
// there is none.
func (l *levels) fromRedis(ctx context.Context, id string) (doc []byte, left time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	answers := l.redis.DoMulti(ctx,
		l.redis.B().Get().Key(redisKey(id)).Build(),
		l.redis.B().Pttl().Key(redisKey(id)).Build())
	if doc, err = answers[0].AsBytes(); err != nil {
		return nil, 0, err
	}
	ms, err := answers[1].AsInt64()
	return doc, max(time.Duration(ms)*time.Millisecond, time.Millisecond), err
}

func (l *levels) toRedis(ctx context.Context, id string, doc []byte, ifNone bool) error {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	ttl := redisTTL
	if len(doc) == 0 {
		ttl = absentTTL
	}
	set := l.redis.B().Set().Key(redisKey(id)).Value(rueidis.BinaryString(doc))
	if ifNone {
		return l.redis.Do(ctx, set.Nx().Ex(ttl).Build()).Error()
	}
	return l.redis.Do(ctx, set.Ex(ttl).Build()).Error()
}

func (l *levels) forget(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	return l.redis.Do(ctx, l.redis.B().Del().Key(redisKey(id)).Build()).Error()
}

func redisKey(id string) string { return "docs:" + id }

// files is a source: documents in a directory, on a disk that is slow.
type files struct{ *os.Root }

func openSource(dir string) (files, error) {
	root, err := os.OpenRoot(dir)
	return files{root}, err
}

func (f files) get(ctx context.Context, id string) ([]byte, error) {
	if err := slow(ctx); err != nil {
		return nil, err
	}
	doc, err := f.ReadFile(fileName(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, geocache.ErrNotFound
	}
	return doc, err
}

func (f files) put(ctx context.Context, id string, doc []byte) error {
	if err := slow(ctx); err != nil {
		return err
	}
	whole := fileName(id)
	if err := f.WriteFile(whole+".new", doc, 0o600); err != nil {
		return err
	}
	return f.Rename(whole+".new", whole) // nobody reads half of it
}

func (f files) delete(ctx context.Context, id string) error {
	if err := slow(ctx); err != nil {
		return err
	}
	if err := f.Remove(fileName(id)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func fileName(id string) string { return "geocache-" + url.PathEscape(id) + ".doc" }

func slow(ctx context.Context) error {
	select {
	case <-time.After(100 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
