package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/internal/store"
)

// An update that waits for the next round gets that round's error if it ends before the function is called.
func TestAnUpdateEndsWithTheRoundItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("down")
		loads := 0
		g := alone(t, getterFunc(func(context.Context, string) (string, error) {
			if loads++; loads > 1 {
				return "", down
			}
			return "1", nil
		}))
		_, err := g.Group.Update(t.Context(), "ada", func(any, bool, *store.Entry) (any, error) {
			g.noted("ada") // so that the next round has to load it
			return nil, ErrNextRound
		}, &WriteOptions{})
		require.ErrorIs(t, err, down)
	})
}
