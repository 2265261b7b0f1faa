package message

import (
	"fmt"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/wire"
)

// The layouts beside the types are made of the parts that package wire defines:
// groups and regions are a string8, keys a string16 and values a bytes32.
//
// A message ends where its layout ends: nothing may be left over. A sender must
// not encode a name or a value that is too long for its length field; the
// transport's limits are lower.
//
// The decoders copy strings and values. The payload may be in a buffer that is
// about to be overwritten, and what is decoded is kept for long: as a floor's
// key or an entry's value.

// MaxKey is the longest key, and the longest prefix of one, in bytes.
const MaxKey = 4 << 10

// maxTags is the most tags that a value may have.
const maxTags = 255

// readKey returns a user's key.
func readKey(r *wire.Reader) string {
	key := r.String16()
	checkKey(r, key, false)
	return key
}

// checkKey makes r fail unless key is a user's key of a legal length, or if
// scope is set, a scope with a name of a legal length. Keys that may be scopes
// are checked after they are read, since another field says what they are.
func checkKey(r *wire.Reader, key string, scope bool) {
	name := key
	if scope {
		if !expiry.Subject(key).IsScope() {
			r.Fail("a scope is neither a tag nor a prefix")
		}
		name = expiry.Subject(key).Name()
	}
	if len(name) > MaxKey {
		r.Fail("a key is too long")
	}
}

// whole returns m, for which r has read its message, or an error if r has
// failed or has bytes left over. It wraps wire.ErrMalformed.
func whole[M any](r *wire.Reader, m M) (M, error) {
	if err := r.End(); err != nil {
		var none M
		return none, fmt.Errorf("%T: %w", none, err)
	}
	return m, nil
}
