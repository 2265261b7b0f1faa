package expiry

import "time"

// jitterShare is the part of a time to live that jitter may take off it.
const jitterShare = 10 // a tenth

// Life returns the time to live of a key whose group has the given one: the
// same or up to a tenth less, decided by keyHash, a hash of the key. Keys that
// were loaded together so do not all expire together. It is shortened only:
// the time to live that the user gave stays an upper bound. The same key has
// the same life on every node.
func Life(ttl time.Duration, keyHash uint64) time.Duration {
	// The upper half of the hash, as a fraction of 2³²; the product cannot
	// overflow for a spread below 2³¹ seconds because it is taken in parts.
	spread := uint64(ttl / jitterShare)
	fraction := keyHash >> 32
	off := spread>>32*fraction + spread&(1<<32-1)*fraction>>32
	return ttl - time.Duration(off)
}
