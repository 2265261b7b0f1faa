package writebehind

import "github.com/geocache/geocache/expiry"

// recentKeys is the least number of keys that recent remembers.
const recentKeys = 4096

// recent remembers which writes the origin has of the keys stored last, so that a late write is not
// stored or held again. It has at most 2 × recentKeys keys, and forgets half of them at a time.
type recent struct{ young, old map[string]expiry.Stamp }

// of returns the highest stamp of key that the origin is known to have.
func (r *recent) of(key string) expiry.Stamp { return r.young[key].Max(r.old[key]) }

// add records that the origin has the write of key with stamp s.
func (r *recent) add(key string, s expiry.Stamp) {
	s = s.Max(r.of(key))
	if r.young == nil || len(r.young) >= recentKeys {
		r.young, r.old = make(map[string]expiry.Stamp), r.young
	}
	r.young[key] = s
}
