package engine

import (
	"bytes"
	"context"
	"io"
	"iter"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
)

// This file is a face for tests: groups of strings, as a user has them.

type (
	getter interface {
		Get(ctx context.Context, key string) (string, error)
	}
	getterFunc func(ctx context.Context, key string) (string, error)

	itemGetter interface {
		GetItem(ctx context.Context, key string) (loaded, error)
	}
	itemGetterFunc func(ctx context.Context, key string) (loaded, error)

	loaded struct {
		Value string
		TTL   time.Duration
		Tags  []string
	}
	codec interface {
		Encode(v string) ([]byte, error)
		Decode(b []byte) (string, error)
	}
	textConfig struct {
		GroupConfig
		codec codec
	}
	groupOption func(*textConfig)
)

func (f getterFunc) Get(ctx context.Context, key string) (string, error) { return f(ctx, key) }

func (f itemGetterFunc) GetItem(ctx context.Context, key string) (loaded, error) { return f(ctx, key) }
func (f itemGetterFunc) Get(ctx context.Context, key string) (string, error) {
	l, err := f(ctx, key)
	return l.Value, err
}

func withTTL(d time.Duration) groupOption          { return func(c *textConfig) { c.TTL = d } }
func withLoadTimeout(d time.Duration) groupOption  { return func(c *textConfig) { c.LoadTimeout = d } }
func withStaleIfError(d time.Duration) groupOption { return func(c *textConfig) { c.StaleIfError = d } }
func withNegativeTTL(d time.Duration) groupOption  { return func(c *textConfig) { c.NegativeTTL = d } }
func withMaxBytes(n int64) groupOption             { return func(c *textConfig) { c.MaxBytes = n } }
func withCodec(codec codec) groupOption            { return func(c *textConfig) { c.codec = codec } }
func withStaleWhileRevalidate(d time.Duration) groupOption {
	return func(c *textConfig) { c.Revalidate = d }
}

// open opens a Cache of the default configuration with changes.
func open(t testing.TB, change func(c *Config)) *Cache {
	t.Helper()
	config := Config{
		Cluster:  "geocache",
		Weight:   1,
		Lease:    time.Second,
		Grace:    time.Minute,
		JoinWait: 5 * time.Second,
		MaxDrift: expiry.DefaultMaxDrift,
		Limits:   peers.Limits{MaxKey: MaxKey, MaxValue: 64 << 20},
		Clock:    time.Now,
		Logger:   slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if change != nil {
		change(&config)
	}
	c, err := Open(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// A textGroup is a Group of strings.
type textGroup struct {
	*Group
	codec codec
}

type text string

func newText(t testing.TB, c *Cache, from getter, opts ...groupOption) *textGroup {
	t.Helper()
	config := textConfig{GroupConfig: GroupConfig{
		TTL: 5 * time.Minute, LoadTimeout: 10 * time.Second, MaxBytes: 64 << 20, CopyShare: 0.25, MaxLoads: 1000,
	}}
	for _, o := range opts {
		o(&config)
	}
	g := &textGroup{codec: config.codec}
	if g.codec != nil {
		config.DecodedSize = 16
	}
	config.Codec = Codec{
		Encode: func(v any) ([]byte, error) { return []byte(v.(string)), nil },
		Decode: func(e *store.Entry) (any, error) { return g.decode(e) },
	}
	config.Get = func(ctx context.Context, key string) (Loaded, error) {
		if from, ok := from.(itemGetter); ok {
			l, err := from.GetItem(ctx, key)
			return Loaded{Value: WithTags(l.Tags, []byte(l.Value)), Tagged: len(l.Tags) > 0, TTL: l.TTL}, err
		}
		v, err := from.Get(ctx, key)
		return Loaded{Value: []byte(v)}, err
	}
	var err error
	g.Group, err = c.NewGroup("test", config.GroupConfig)
	require.NoError(t, err)
	return g
}

func (g *textGroup) decode(e *store.Entry) (string, error) {
	if g.codec == nil {
		return string(e.Payload()), nil
	}
	if v := store.Decoded[text](e); v != nil {
		return string(*v), nil
	}
	v, err := g.codec.Decode(bytes.Clone(e.Payload()))
	if err != nil {
		return "", err
	}
	kept := text(v)
	return string(*store.SetDecoded(e, &kept)), nil
}

func (g *textGroup) read(ctx context.Context, key string) (v string, r Read, err error) {
	r, err = g.Read(ctx, key, func(e *store.Entry) (err error) {
		v, err = g.decode(e)
		return err
	})
	return v, r, err
}

func (g *textGroup) Get(ctx context.Context, key string) (string, error) {
	if e, ok := g.Hit(key); ok && !e.Absent() && (g.codec == nil || store.Decoded[text](e) != nil) {
		if v, err := g.decode(e); err == nil && g.CountHit(e) {
			return v, nil
		}
	}
	v, _, err := g.read(ctx, key)
	return v, err
}

// An item is what GetItem returns.
type item struct {
	Value      string
	Generation expiry.Generation
	Age        time.Duration
	Source     Source
}

func (g *textGroup) GetItem(ctx context.Context, key string) (item, error) {
	v, r, err := g.read(ctx, key)
	if err != nil {
		return item{}, err
	}
	return item{v, r.Entry.Generation, r.Age(), r.Source}, nil
}

func (g *textGroup) GetMany(ctx context.Context, keys []string) (map[string]string, error) {
	m := make(map[string]string)
	failed := g.ReadMany(ctx, keys, func(key string) Decode {
		return func(e *store.Entry) error {
			v, err := g.decode(e)
			if err == nil {
				m[key] = v
			}
			return err
		}
	}, func(key string) { delete(m, key) })
	if len(failed.First) > 0 {
		return m, failed.First[0].Err
	}
	return m, nil
}

func (g *textGroup) Peek(key string) (string, bool) {
	e, ok := g.Group.Peek(key)
	if !ok {
		return "", false
	}
	return g.living(e)
}

func (g *textGroup) living(e *store.Entry) (string, bool) {
	v, err := g.decode(e)
	return v, err == nil && g.Alive(e)
}

func (g *textGroup) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for e := range g.Group.All() {
			if v, ok := g.living(e); ok && !yield(e.Key(), v) {
				return
			}
		}
	}
}

func (g *textGroup) Set(ctx context.Context, key, v string) error {
	return g.Group.Set(ctx, key, []byte(v), &WriteOptions{})
}

func (g *textGroup) Remove(ctx context.Context, key string) error {
	return g.Group.Remove(ctx, key, &WriteOptions{})
}

func (g *textGroup) Update(ctx context.Context, key string, f func(old string, ok bool) (string, error)) (string, error) {
	v, err := g.Group.Update(ctx, key, func(old any, ok bool, _ *store.Entry) (any, error) {
		s, _ := old.(string)
		return f(s, ok)
	}, &WriteOptions{})
	s, _ := v.(string)
	return s, err
}

// reads returns how many reads have been counted.
func (s GroupStats) reads() uint64 {
	return s.Store + s.Owner + s.Region + s.Getter + s.Stale + s.NotFound + s.Errors
}
