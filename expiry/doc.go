// Package expiry decides whether a value is fresh. It has the one rule of the cache:
//
// A value is live while its age is below its time to live and its stamp is not below its floor. The floor
// is the stamp of the last write of its key, of the last removal of one of its tags or of a prefix of its
// key, or of the last Clear of the group, whichever is highest.
//
// Expiry, Set, Remove and Clear all follow from this rule. A write does not have to find the values that
// it replaces. It raises a floor, and every value loaded before the write is below it, wherever that
// value is and however late it arrives.
//
// The package has the parts of the rule. A [Generation] and a [Clock] order events across the cluster, and
// the clock measures ages on one node. A [Stamp] orders loads and writes. [Floors] remembers writes and
// lists them for other nodes. [JitterTTL] gives each key its time to live.
//
// The package is at the top level for historical reasons. It is outside the compatibility promise of this
// module: it may change in any release.
//
// # What it promises
//
//   - The generations that a Clock issues strictly increase, and exceed every generation that was merged
//     into it before.
//   - Instants never go back.
//   - Forgetting a floor to save memory can turn live values into misses. It never makes a dead value live.
//   - No I/O and no goroutines. The time comes from a function that the caller passes; only Clock.Elapsed
//     reads the machine's monotonic clock itself.
//
// # What it does not promise
//
// It does not synchronise clocks. It detects a node whose clock is too far ahead, so that the other nodes
// can refuse it.
package expiry
