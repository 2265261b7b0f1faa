package groupcompat_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"testing"

	"github.com/golang/groupcache"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/groupcompat"
)

func TestGetter(t *testing.T) {
	message := wrapperspb.String("ada")
	old := groupcache.GetterFunc(func(ctx context.Context, key string, dest groupcache.Sink) error {
		switch key {
		case "string":
			return dest.SetString("ada")
		case "bytes":
			return dest.SetBytes([]byte("ada"))
		case "proto":
			return dest.SetProto(protoadapt.MessageV1Of(message))
		case "empty string":
			return dest.SetString("")
		case "empty bytes":
			return dest.SetBytes(nil)
		case "empty proto":
			return dest.SetProto(protoadapt.MessageV1Of(&wrapperspb.StringValue{}))
		case "nothing":
			return nil
		case "missing":
			return fmt.Errorf("user: %w", sql.ErrNoRows)
		case "missing here":
			return geocache.ErrNotFound
		}
		return ctx.Err()
	})
	g := groupcompat.Getter(old, sql.ErrNoRows)
	for key, want := range map[string]string{
		"string": "ada", "bytes": "ada", "proto": "\x0a\x03ada", "empty string": "", "empty bytes": "", "empty proto": "",
	} {
		v, err := g.Get(t.Context(), key)
		require.NoError(t, err, key)
		require.Equal(t, want, string(v), key)
	}

	_, err := g.Get(t.Context(), "nothing")
	require.ErrorContains(t, err, "without setting a value")

	_, err = g.Get(t.Context(), "missing")
	require.ErrorIs(t, err, geocache.ErrNotFound)
	require.ErrorIs(t, err, sql.ErrNoRows)
	_, err = g.Get(t.Context(), "missing here")
	require.Equal(t, geocache.ErrNotFound, err)
	_, err = groupcompat.Getter(old).Get(t.Context(), "missing")
	require.NotErrorIs(t, err, geocache.ErrNotFound)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = g.Get(ended, "the context's error")
	require.Equal(t, context.Canceled, err)
}

func TestDecoded(t *testing.T) {
	bytes := geocache.GetterFunc[[]byte](func(_ context.Context, key string) ([]byte, error) {
		if key == "missing" {
			return nil, geocache.ErrNotFound
		}
		return []byte(key), nil
	})
	messages := groupcompat.Decoded(bytes, groupcompat.Proto[*wrapperspb.StringValue]())
	m, err := messages.Get(t.Context(), "\x0a\x03ada")
	require.NoError(t, err)
	require.Equal(t, "ada", m.GetValue())
	_, err = messages.Get(t.Context(), "\x0a\x05ada")
	require.ErrorContains(t, err, "the value does not decode")
	_, err = messages.Get(t.Context(), "missing")
	require.Equal(t, geocache.ErrNotFound, err)

	for _, codec := range []geocache.Codec[string]{groupcompat.String()} {
		data, err := codec.Encode("ada")
		require.NoError(t, err)
		back, err := codec.Decode(data)
		require.NoError(t, err)
		require.Equal(t, "ada", back)
	}
}

// A whole groupcache Group is a Getter.
func TestGroupAsGetter(t *testing.T) {
	loads := 0
	old := groupcache.NewGroup(rand.Text(), 1<<20, groupcache.GetterFunc(func(_ context.Context, key string, dest groupcache.Sink) error {
		if key == "bob" {
			return errors.New("no such user")
		}
		loads++
		return dest.SetString("old:" + key)
	}))
	getter := groupcompat.Getter(old)
	for range 2 { // as after the geocache group has dropped it
		v, err := getter.Get(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, "old:ada", string(v))
	}
	require.Equal(t, 1, loads)
	_, err := getter.Get(t.Context(), "bob")
	require.EqualError(t, err, "no such user")
}
