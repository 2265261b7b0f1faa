// Package regions tracks the nodes of a cluster: which ones exist, which region each is in, and which of
// them owns a key.
//
// A [Topology] is an immutable snapshot: the regions, nearest first, each with a consistent-hashing ring
// of the nodes that answer. [Members] builds these snapshots from three inputs: what a [Discovery]
// reports, which peers answer, and their round-trip times. [Static] is a Discovery over a fixed list of
// nodes; package regions/consul has one for Consul.
//
// Promised:
//
//   - Readers of a Topology never take a lock.
//   - The same nodes, weights and seed give the same owners on every node.
//   - A discovery that fails, returns nothing or has lost its data never removes a node that answers.
//
// Not promised: that two nodes hold the same snapshot at the same time. A caller that asks another node to
// act as owner must handle that node disagreeing.
package regions
