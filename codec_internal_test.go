package geocache

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type (
	profile struct{ Tags []tag }
	tag     struct{ secret string }
	more    struct{ *wrapperspb.StringValue }
)

var _ = tag{secret: ""}

func TestTypesThatNewGroupRefuses(t *testing.T) {
	cache, err := Open(t.Context(), WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer cache.Close()
	_, err = NewGroup[profile](cache, "p", nil)
	require.EqualError(t, err,
		"geocache: group \"p\": not every geocache.profile comes back from the default codec: "+
			"geocache.profile.Tags[].secret: an unexported field, which JSON leaves out\n"+
			"WithCodec takes a codec of your own, or JSON[geocache.profile] if that is as it should be")
	_, err = NewGroup[profile](cache, "p", nil, WithCodec(JSON[profile]{}))
	require.NoError(t, err)
	_, err = NewGroup[struct{ *wrapperspb.StringValue }](cache, "half", nil)
	require.ErrorContains(t, err, "a message that is no pointer")
	_, err = NewGroup[*more](cache, "more", nil)
	require.ErrorContains(t, err, "*geocache.more: an empty message cannot be made of its type alone")
}

func TestStringsThatTheDefaultCodecRefuses(t *testing.T) {
	type inner struct{ T string }
	const bad = "\xff"
	_, err := jsonCodec[inner]{}.Encode(inner{T: bad})
	require.ErrorContains(t, err, "WithCodec")
	_, err = jsonCodec[inner]{}.Encode(inner{T: "\ufffd \\ufffd"})
	require.NoError(t, err)
}

func TestNilMessageIsRefused(t *testing.T) {
	codec, err := defaultCodec[*wrapperspb.StringValue]()
	require.NoError(t, err)
	_, err = codec.Encode(nil)
	require.True(t, errors.Is(err, errNilMessage))
}
