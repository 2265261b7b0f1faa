// Package groupcompat is the road from golang/groupcache to geocache, for services
// that cannot stop to change over.
//
// [Getter] uses a groupcache Getter, or a whole groupcache Group, as the getter of a
// geocache group.
//
// [Handler] answers the peers of an unmodified groupcache from geocache groups, on the
// path and in the messages they know. To them, the process is one of theirs.
//
// [Peers] is a getter that asks an existing groupcache cluster before the origin, so
// that a process of the new kind finds what the old ones have loaded.
//
// With these a service moves process by process, or group by group: docs/migrating.md
// has the steps. While old and new processes run together, a group can promise no more
// than groupcache does: see [Peers.Getter].
//
// Nothing else of geocache imports this package, so that groupcache is in no service
// that does not.
package groupcompat
