package consul

import (
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestResponsesAreBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 256 MiB")
	}
	b := limitedTransport{roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{Body: spaces{}}, nil
	})}
	a, err := b.RoundTrip(nil)
	require.NoError(t, err)
	n, err := io.Copy(io.Discard, a.Body)
	require.EqualValues(t, maxResponse, n)
	require.ErrorContains(t, err, "response exceeds 268435456 bytes")

	// A response below the limit is read in full.
	b = limitedTransport{roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{Body: io.NopCloser(io.LimitReader(spaces{}, 1<<20))}, nil
	})}
	a, err = b.RoundTrip(nil)
	require.NoError(t, err)
	n, err = io.Copy(io.Discard, a.Body)
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, n)
}
