// Package engine is one node of the cluster, and its groups of encoded values. It lies beneath the typed
// face, package geocache: the face validates options, encodes and decodes values, and documents what users
// see; the engine does everything else. A [Cache] is the node, a [Group] one key space.
//
// # What it promises
//
//   - A read returns no value past its time to live, other than one marked as stale (SourceStale).
//     Ages are measured; no wall clock is trusted with them.
//   - Once a write has succeeded, no node of its region serves anything older. Other regions receive the
//     write as soon as they can be reached, whatever fails in between. Everywhere the same of two concurrent
//     writes wins.
//   - While a region's nodes stay the same, a key is loaded once per region and expiry, however many callers
//     and nodes want it. No cycle of nodes waits for itself (see fill).
//   - A panic, runtime.Goexit or hang in user code stops neither the node nor the callers of other keys (see
//     package internal/origin).
//   - A hit takes no lock and allocates nothing.
//
// The methods of Cache and Group are safe for concurrent use. Errors that callers need to tell apart match
// one of the Err variables by errors.Is; an [Error] says on which node an error occurred.
//
// # What it does not promise
//
// It is a cache: any value may be evicted at any time. It is not linearizable across regions: two regions
// may hold different values, each within its time to live. It does not validate what the face has checked:
// a Config or GroupConfig with impossible values misbehaves. A process that is stopped between the final
// check of a value and its return serves that value however long it was stopped. Package internal/lease
// lists what a lease does not cover.
//
// # The files
//
// The node and its groups:
//
//	cache.go        Cache: opening, housekeeping, closing in order
//	group.go        Group: what it is made of
//	address.go      the address that other nodes connect to
//	server.go       answers the requests of peers
//	guarded.go      guards dialer, listener, logger and discovery
//	errors.go       errors, and their way across the network
//	stats.go        counters
//
// Reads:
//
//	freshness.go    the one place that decides what an entry may be used for
//	read.go         a local read, and its final check
//	readmany.go     a local read of many keys, with one request to each owner
//	lookup.go       answers from memory, and frees it
//	fill.go         answers a miss, on three levels of shared flights
//	request.go      asks another node for a value
//	answer.go       stores the result of a fill, unless a write came first
//	peek.go         asks the nodes that owned a key before the ring changed
//	load.go         calls the getter
//	batchload.go    gathers keys for a getter of many
//	refresh.go      refreshes values that nobody waits for
//	warm.go         makes owners load keys ahead of reads
//
// Writes:
//
//	writes.go       Set, Remove, Clear and the like, and their options
//	route.go        a write on the node where it was called
//	commit.go       a write on the key's owner, which gives it its stamp
//	apply.go        a write on any node that hears of it
//	broadcast.go    tells the nodes of the region
//	update.go       Update: read, compute, compare and swap
//	originwrites.go writes to the origin, through or behind
//	tags.go         the tags that precede a value
//
// Leases and membership:
//
//	membership.go   who is a member
//	view.go         what all nodes of a region must agree on
//	resume.go       follows the view; loses and resumes leases
//	term.go         when no other node can be the owner too
//	ownership.go    which keys this node owns
//	journal.go      what a node that joins or comes back must learn
//	handover.go     hands entries to their next owners
//	guest.go        a node that its region no longer lists
//	signal.go       wakes writers that wait for a change
//
// Between regions:
//
//	replicate.go    sends writes to other regions and receives theirs
//	takeover.go     sends what a process that is gone may not have sent
//	antientropy.go  compares what regions know of writes, and repairs it
//	homes.go        the region in which a key's Updates take place
//	originlag.go    origins that are replicas and lag behind
//
// Memory and time:
//
//	eviction.go     tells the user what has left the store
//	snapshot.go     writes a group's entries to a stream
//	restore.go      reads them back
//	coarseclock.go  the clock of hits
//
// # Imports
//
// Imports run one way: geocache, then engine, then peers, regions and the packages beneath internal that
// each have one task (lease, origin, flight, keylock, store, outbox, writebehind), then message, wire,
// expiry and consistenthash. Nothing below engine imports it, and engine does not import geocache.
// TestImports in the root package checks this.
//
// docs/design.md follows a read and a write through these files.
package engine
