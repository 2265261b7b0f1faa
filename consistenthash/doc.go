// Package consistenthash assigns keys to members. All nodes that know the same members agree on the owner
// of every key, and few keys change owner when a member joins, leaves, or changes its weight.
//
// Create a Ring with New and look keys up with Owner; Owners also returns the members that would own the
// key next. A Ring is immutable: when the members change, create another one.
//
// The package is at the top level for historical reasons. It is outside the compatibility promise of this
// module: its API may change in any release. The placement of keys may not, see below.
//
// # What it promises
//
//   - The owners of a key are a function of the seed, the set of members, and the key. They are the same
//     on every machine, in every process, and in every release of the same major version.
//   - Members that stay never exchange keys. A join or a raised weight moves keys only to that member; a
//     leave or a lowered weight moves only that member's keys away.
//   - The successor of a key, the second of its Owners, is exactly its owner in the ring without the
//     first; likewise for the third, and so on.
//   - Shares are even. Of 100 members of equal weight the busiest has about 1.045 times the mean, of
//     1,000 members about 1.085 times, and slightly more with an unlucky seed. Shares are proportional
//     to weights.
//   - Going from 9 to 10 members, from 100 to 110, or from 1,000 to 1,010 moves the new members' shares,
//     within 1.05 times the minimum possible.
//   - A lookup takes 7 to 15 ns from any number of goroutines, takes no lock, and does not allocate.
//
// A ring of 10 members takes 0.4 MB, of 100 members 7.5 MB, and of 1,000 members 19 MB: about 12 KiB for
// each member of weight 1, plus a part that grows to 6 MB over the first hundred members. Building these
// rings takes 0.4, 15 and 80 ms. Beyond a few thousand members shares get less even: of 10,000 members
// the busiest has 1.4 times the mean.
//
// # What it does not promise
//
// It balances keys, not requests. A key that gets more requests than all others together still has a
// single owner.
//
// # The seed
//
// Anyone who knows the seed and the members can choose keys that all belong to one member. All nodes that
// share keys must use the same seed. If outsiders can choose keys, make it a random number and keep it
// from them. The hash (XXH3) is not cryptographic, so a secret seed is an obstacle, not a guarantee.
//
// # How it works, and the alternatives
//
// It is the ring of Karger et al. ("Consistent Hashing and Random Trees", STOC 1997): each member has
// points on a circle, in proportion to its weight, and a key belongs to the member whose point comes next.
// Unlike most such rings it has many points, and a table that finds the next one. The alternatives, with
// the standard deviation of a share at 100 members (here 1.9%):
//
//   - A ring with 50 points a member and CRC-32, as in groupcache: the busiest of 100 members has 1.6 to
//     1.7 times the mean, and more points do not make up for CRC-32.
//   - A ring with 160 points a member: 8.4%.
//   - Multi-probe hashing: 14% at 14 to 21 probes, each of which is a lookup.
//   - Maglev hashing: 3.6%, with a single read per lookup. But going from 1,000 to 1,010 members moves
//     3.4 times the minimum, also between members that stay.
//   - Jump hash: 2.5%, and no memory. But members are numbers, and only the last one can leave.
//   - Rendezvous hashing: the minimum movement. But a lookup examines every member, which takes a
//     microsecond or more at 1,000. Precomputing a million slots takes many times as long as building
//     this ring at the small sizes that most clusters have.
//   - Bounded loads: the owner depends on earlier requests, so nodes would have to communicate to agree.
package consistenthash
