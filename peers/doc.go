// Package peers carries requests between the processes of a cluster: the wire protocol, its client and its
// server. It knows nothing of rings, regions or what a value means. It takes a [Request] or a [Call] to a
// node and brings an [Answer] back, says which nodes can be reached, and carries pings and pongs to
// internal/lease, which decides what they mean.
//
// Begin with [New], [Transport.Serve] and [Transport.SetPeers]; then ask with [Peer.Fetch],
// [Peer.FetchMany] and [Peer.Call], and answer with a [Handler].
//
// The package is at the top level for reasons of history. It is not part of the compatibility promise of
// this module: only its wire format is.
//
// # Promises
//
//   - A request ends: with an answer, with an error that says who said what ([Error]), or with its context.
//     To a peer that is down it ends at once.
//   - A peer that cannot be reached is down within one [Config.Lease], and comes back by itself.
//   - Deadlines and cancellation travel to the node that does the work.
//   - No node with another cluster's name, another ring seed or a clock too far ahead is ever talked to, in
//     either direction. With TLS, neither is a node whose certificate is for no accepted name, or that
//     claims to be a node which is connected with another certificate.
//   - What a peer sends can cost that peer its connection, and nothing else. It is counted by [Reason] and
//     logged, takes no memory beyond [Limits], and no other connection notices.
//   - When [Transport.Close] has returned, no goroutine and no connection is left.
//
// Not promised: that a request is carried out at most once, or not at all, when the answer is an inferred
// error; fairness between the callers of one peer; and, without TLS, that a node is who it says it is. With
// TLS its certificate is accepted, but among several nodes that share their names only its word counts.
//
// # Connections
//
// A node dials every peer, and asks over that connection only. Over the connections that it accepts, from peers
// and from passive nodes, it only answers. All requests to a peer share one TCP or TLS connection. So the frames of many
// callers share a system call, which matters more than parallel streams.
//
// A client pings four times in a lease. It takes its peer to be down when nothing at all, pong or not, has
// come for a lease, so that a huge value under way does not look like death. A server closes a connection
// over which it has heard nothing for ten leases. A client renews a connection before a certificate with
// which it was made expires, and when [Config.TLS] returns something else: new requests go over the new
// connection, and those in flight end on the old one. Until then both carry pings, and those of the older
// one do not count. A connection that breaks is replaced at once, and if that fails after pauses from 50 ms
// to 2 s, with jitter; after a refusal, which takes a person to mend, after the longest pause. A node that
// is refused because the other one does not list it yet tries again as soon as the other has connected
// to it.
//
// # Wire format
//
// All numbers are big endian. A string8 is a length in one byte and as many
// bytes. A stamp is a generation u64 and an origin u64. Times are in microseconds (µs). Everything is sent in frames:
//
//	length u32   bytes after this field
//	type   u8    see below
//	id     u64   numbers the requests of a connection; 0 where there is none
//	clock  u64   the sender's hybrid clock, but in Hello, Welcome, Ping and Pong its wall clock
//	             alone, to be judged by; the receiver merges it, or closes the connection
//	body
//
// The client's frames:
//
//	1 Hello    "geocache", lowest u16 and highest u16 version spoken, ring seed check u64,
//	           largest value taken u32, cluster string8, node id string8, region string8
//	4 Fetch    hop u8, flags u8 (1 peek), time left µs u64 (0 no limit), group string8,
//	           n u16 (not 0), n × (floor stamp, key length u16, key);
//	           asks for n keys, of which key i has the number id+i
//	6 Cancel   any number of request numbers u64: nobody waits for these any more
//	7 Ping     view u64 (0 none, or to another region; all ones: the node leaves and holds no lease;
//	           one less: it is a guest of its region and holds none)
//	10 Call    method u8, time left µs u64 (0 no limit), instant u64, then the payload;
//	           instant is the server's, estimated from below, as the call is sent;
//	           one with the number of a call that has come already is a duplicate and ignored
//
// The server's:
//
//	2 Welcome  version u16, longest key u16, most keys in a fetch u16, node id string8, region string8,
//	           largest payload of a call taken u32, instant u64, epoch u64 (when the process started)
//	3 Refused  reason u8, text; then the connection is closed. At any time.
//	5 Answer   code u8, source u8, flags u8 (1 stale, 2 tagged, 4 unconfirmed, 8 since the Clear), stamp, age µs u64, life µs u64,
//	           held µs u64, then the value, or a text where the code is an error;
//	           id is that of the key or the call, and answers come in any order
//	8 Pong     lease µs u64, others µs u64, instant u64, flags u8 (1 counted, 2 uncounted: what
//	           the server takes the client for; 4: the server is a guest; 8: it sees no majority of its
//	           region); id is that of the ping;
//	           others is for how long a lease granted under another view than the ping's may still run.
//	           Id 0 is for no ping: it says that the client's frame, a large one, is arriving
//	9 Goodbye  empty: send no more requests, and close when you have your answers
//
// The numbers of [Code], [Reason], [Hop] and [Source]:
//
//	Code    0 ok, 1 not found, 2 miss, 3 unknown group, 4 failed, 5 busy, 6 closing,
//	        7 timeout, 8 too large, 9 bad request, 10 uncertain, 11 unsettled
//	Reason  1 protocol, 2 version, 3 cluster, 4 seed, 5 clock, 6 identity, 7 tls,
//	        8 limit, 9 slow, 10 idle, 11 busy, 12 name, 13 unlisted, 14 taken, 15 expired
//	Hop     1 owner, 2 region, 3 update, 4 confirmed
//	Source  1 store, 2 region, 3 getter
//
// Freshness compares no clocks. An answer says how old the item is, as measured
// by the node that gives it, how long it lives in all, and for how long the
// request was held there. The asker measures the whole exchange, takes off the
// time held, and adds the rest to the age: it was under way no longer than
// that. That a key is not found is an answer like a value, with an age and a
// life.
//
// An instant is nanoseconds on a clock that only the node it is of can read. A
// call carries the server's instant back to it: what the server told last, and
// the time that has passed since that came. The call left no earlier than that,
// which is how the server knows how long at most it was under way.
//
// # Versions
//
// A connection begins with Hello and Welcome or Refused. Their layout and that
// of the frame header stay in every version; later ones may append to Hello and
// Welcome, and a receiver ignores what it finds appended. All other frames must
// be exactly as above in version 1, to the last byte and flag.
//
// The server chooses the highest version that both speak, and both keep to it:
// a newer node sends an older one only what that one knows. A frame of an
// unknown type is therefore a fault, and closes the connection. To ignore it
// would be to drop something that the sender relies on.
package peers
