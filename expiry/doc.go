// Package expiry decides what is fresh. It holds the one rule of the cache:
//
// A value is live while its age is below its time to live and its stamp is not
// below the floor of its key, the floor being the stamp of the key's last write
// or of the group's last Clear, whichever is higher.
//
// Time-to-live expiry, Set, Remove and Clear are nothing but this rule. A write
// does not have to find the values it replaces: it raises a floor, and whatever
// was loaded before it, anywhere, however late it arrives, is below.
//
// The package has the rule's terms: [Generation] and [Clock] order events
// across the cluster and measure ages on a node, a [Stamp] orders what was
// loaded and written, [Floors] remembers writes and tells other nodes of them,
// and [Life] gives each key its time to live. It does no I/O and starts no
// goroutine; the time comes from a function that its user passes.
//
// It promises that generations issued by one Clock strictly rise and are above
// every generation the Clock was told of; that instants never go back; and
// that forgetting a floor to save memory can only turn live values into
// misses, never dead ones live. It does not synchronise clocks: a node whose
// clock runs too far ahead is refused by the others.
package expiry
