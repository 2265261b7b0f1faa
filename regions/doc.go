// Package regions knows which nodes there are, where they are, and which of
// them owns a key.
//
// A [Topology] is an immutable snapshot of that: the regions nearest first,
// each with a consistent-hashing ring of the nodes that answer. [Members] turns
// what a [Discovery] reports, which peers answer and how long they take into
// such snapshots. [Static] is the Discovery for nodes that are known
// beforehand; package regions/consul has the one for Consul.
//
// Promised: readers of a Topology never lock; the same nodes, weights and seed
// give the same owners everywhere; a discovery that fails, answers nothing or
// has lost its memory removes no node that answers. Not promised: that two
// nodes hold the same snapshot at the same time. Whoever asks another node to
// act as owner must cope with its disagreeing.
package regions
