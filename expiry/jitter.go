package expiry

import "time"

// jitterShare is the inverse of the largest fraction of a time to live that jitter takes off: a tenth.
const jitterShare = 10

// JitterTTL returns the time to live of a key in a group with the given one: ttl, or up to a tenth less,
// depending on keyHash, a hash of the key. Without jitter, keys that were loaded together would expire
// together. Jitter only shortens, so the user's ttl remains an upper bound. All nodes compute the same
// time to live for the same key.
func JitterTTL(ttl time.Duration, keyHash uint64) time.Duration {
	// The upper half of the hash is a fraction of 2³². Multiplying in two parts avoids an overflow for
	// every spread below 2³¹ seconds.
	spread := uint64(ttl / jitterShare)
	fraction := keyHash >> 32
	off := spread>>32*fraction + spread&(1<<32-1)*fraction>>32
	return ttl - time.Duration(off)
}
