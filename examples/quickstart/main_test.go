package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
)

func TestService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, err := geocache.Open(t.Context())
		require.NoError(t, err)
		defer cache.Close()

		loads := 0
		getter := geocache.GetterFunc[string](func(ctx context.Context, id string) (string, error) {
			loads++
			if id == "broken" {
				return "", errors.New("no database")
			}
			return load(ctx, id)
		})
		users, err := geocache.NewGroup(cache, "users", getter)
		require.NoError(t, err)
		get := func(path string) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			handler(users)(w, httptest.NewRequest(http.MethodGet, path, nil))
			return w
		}

		for range 2 {
			w := get("/ada")
			require.Equal(t, http.StatusOK, w.Code)
			require.Equal(t, "Ada Lovelace\n", w.Body.String())
		}
		require.Equal(t, 1, loads, "the second answer comes from memory")
		require.Equal(t, http.StatusNotFound, get("/nobody").Code)
		require.Equal(t, http.StatusBadGateway, get("/broken").Code)
	})
}

func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, run(ctx, "localhost:0"), "told to end")
	require.Error(t, run(t.Context(), "nowhere"))
}
