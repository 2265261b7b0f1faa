// Package lease is the protocol by which a node knows that it is told of every write in its region, and by
// which a writer knows that whoever is not told serves nothing from memory. A [Table] is one node's part in it, in
// both roles: it grants leases to the nodes that ping it, and holds those that the others grant. It is a
// state machine: it does no I/O, starts no goroutines, and reads time only from its Config.
//
// # The protocol
//
// A node's view is what it takes for its region: the nodes that answer it, itself included. Nodes with the same view
// have the same hash of it. A node pings every other node of its region several times in a lease, and each ping
// carries the hash of its view.
//  1. Granting. A node grants a lease to whoever pings it if the view of that ping is its own, and if none of the
//     nodes that it has heard in the last lease and a quarter had another view in its last ping. Whether those
//     are in its own list, and whether their connections still exist, does not matter. Without this rule a
//     node that others still see would not be waited for.
//  2. Answering. A pong says how long the granted lease is, if there is one, and how long a lease that the node
//     granted to anybody under another view may still run.
//  3. Holding. The holder counts a lease from when it sent the ping, by its own clock, and makes it 1% shorter. The
//     granter counts from when the ping came, by its monotonic clock. So a lease ends at its holder before
//     it ends at its granter, if their clocks differ in speed by less than 1%.
//  4. Serving. A node serves what it has in memory, what it owns too, while it holds leases from all other nodes of
//     its view: until the earliest of them ends. The end is renewed by each pong. It is read before the present time,
//     so that what passes in between counts against it. A node that sees no other is alone: it holds a lease without
//     end once nobody else can hold one that it has granted, and nobody has pinged it for a lease and a quarter. From
//     before the others learn that it sees them, it is not alone any more.
//  5. Losing and resuming. A lease that has run out comes back in this order: the leases of all are held again, and
//     from then on writers wait for this node; then it fetches the journals of the others, which have what was
//     written without it; then the next epoch begins, so that what was asked for in an earlier one is not
//     kept; then the store is swept; then copies are served. If the leases break in between, it begins again.
//  6. Settling. A view is settled when no node outside of it can hold a lease: the node's own leases that it granted
//     under other views have ended, and each other node of the view has said the same of its own, in a pong to
//     a ping with this view, and has not forgotten that ping since. A node sets a view before it reads
//     when its own leases end; both happen under the lock of the grants, so none is granted under the old
//     view afterwards. A write is complete when all nodes of the view have it and the view is settled.
//  7. Forgetting. A ping counts for a lease and a quarter. A lease is shorter, so a node that is forgotten holds
//     none. The view of a node whose process has ended, by all evidence, ceases to count at once, see
//     [Table.Ended]. That is safe even if the process lives: it relies on what this node's pongs have said only
//     while it has the connection.
//  8. Connections. A connection may be replaced while pings over the old one are under way. A ping counts only
//     if none has come over a later connection.
//  9. Unknown peers. A node that has never held a lease may not have found all of its region. It completes no write
//     while a node that it does not see pings it: that one may own keys and hold leases. A node that has held
//     one ignores such peers: they have just come, and serve nothing by themselves.
//  10. Guests. A node that most of its region no longer counts is a guest. Its view is [Guest]. It gives up its leases
//     before it says so, so nobody waits for them; it is granted none, and its view keeps nobody from granting. One
//     that ceases to be a guest, and is alone in its view, waits a lease for others that did so at the same
//     moment.
//  11. Terms. A node may compare and swap what it owns while its view is settled, nobody it hears has another view,
//     it holds leases that all others granted for this very view, and it has all journals. Then no other node
//     can take itself for the owner, unless the two do not hear each other: then the region is in parts.
//  12. Restarting. A process does not know what an earlier one under its ID has granted. For a lease
//     from when it started, it allows for leases under any view.
//  13. Majorities. What a node serves is confirmed while it sees a majority of its region, see [Table.Unconfirmed]. If the
//     network divides a region, each part may settle, and write without the other. A new node goes by what the others
//     say, until it has agreed with all of a view.
//
// Not covered: a node that was stopped between looking at its lease and answering; and clocks that differ in speed by
// more than 1%. docs/model/lease.pml checks rules 1 to 8 and 10 in a small model.
package lease
