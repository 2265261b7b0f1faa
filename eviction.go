package geocache

import (
	"fmt"
	"reflect"

	"github.com/geocache/geocache/internal/store"
)

// A Policy says which entry a process evicts first when there is no more room. See WithPolicy.
type Policy uint8

// The policies.
const (
	// S3FIFO keeps what is read again. A new entry has to be read, or to come back soon after it was
	// evicted, before it can displace an older one; how soon adapts to the workload. It hits more often than
	// the others on nearly every workload, and scans do it no harm.
	// Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023.
	S3FIFO Policy = iota

	// LRU evicts the entry that this process has not read or written for longest.
	LRU

	// LFU evicts the entry read least often since its key came in, and among equals the one that this process
	// has not read or written for longest. It counts up to 1,048,575 reads.
	LFU

	// FIFO evicts the entry whose key came in first. An entry that replaces another of its key takes its
	// place.
	FIFO
)

// String returns "S3-FIFO", "LRU", "LFU" or "FIFO".
func (p Policy) String() string { return store.Policy(p).String() }

// WithPolicy sets the order of eviction in this process. Entries that this process owns and copies of other nodes'
// entries are ordered separately, each by this policy. Default S3FIFO. The exact orders of LRU and LFU
// cost more: their hits write to memory that all cores share, they need 14 bytes more for each entry, and a
// write that finds no room after many reads may take long to find a victim.
func WithPolicy(p Policy) GroupOption { return groupOption(func(c *groupConfig) { c.policy = p }) }

// WithMaxEntries bounds the number of entries of this group in this process, in addition to the bound in bytes.
// Absences that WithNegativeTTL keeps count too. Default 0: no bound by number.
func WithMaxEntries(n int) GroupOption { return groupOption(func(c *groupConfig) { c.MaxEntries = n }) }

// Resize replaces the bounds of WithMaxBytes and WithMaxEntries. maxBytes must be positive; a maxEntries of 0
// means no bound. When it returns, what exceeds the bounds has been evicted; readers and writers go on
// meanwhile. The error reports every mistake, and then nothing has changed.
func (g *Group[V]) Resize(maxBytes int64, maxEntries int) error {
	config := defaultGroupConfig()
	config.MaxBytes, config.MaxEntries = maxBytes, maxEntries
	if err := config.check(); err != nil {
		return fmt.Errorf("geocache: group %q: resize: %w", g.Name(), err)
	}
	g.core.Resize(maxBytes, maxEntries)
	return nil
}

// An EvictReason says why an entry left this process's memory.
type EvictReason uint8

// The reasons.
const (
	// EvictedCapacity: to make room for others.
	EvictedCapacity EvictReason = iota
	// EvictedExpired: its time to live, and what WithStaleIfError or WithStaleWhileRevalidate adds, was over.
	EvictedExpired
	// EvictedRemoved: it was removed or cleared, or this process may no longer serve it, because another process
	// wrote its key or because this process may not have been told of all writes.
	EvictedRemoved
	// EvictedReplaced: its key was written or loaded again here.
	EvictedReplaced
)

// String returns "capacity", "expired", "removed" or "replaced".
func (r EvictReason) String() string { return store.Reason(r).String() }

// WithOnEvict has f called once for each value of this group after it has left this process's memory, including
// copies of other nodes' entries. What is in memory when the Cache is closed has not left it. f may use the
// Group.
//
// The calls are made one after the other, in the order in which entries left, on a goroutine of their own. Nobody
// waits for it, so entries that f has still to be called for take memory beyond WithMaxBytes: as much again, at
// most. While that is full, f is not called for further entries. This is counted (GroupStats.EvictDropped) and
// logged; f should be quick. A panic of f is logged, and the next call is made. Absent keys, which have no value,
// and values that do not decode are left out. Default: none, at no cost.
func WithOnEvict[V any](f func(key string, v V, reason EvictReason)) GroupOption {
	return groupOption(func(c *groupConfig) {
		if c.onEvict = nil; f != nil { // no typed nil
			c.onEvict = f
		}
	})
}

// onEvict returns the function of WithOnEvict, or nil.
func onEvict[V any](option any) (func(string, V, EvictReason), error) {
	if option == nil {
		return nil, nil
	}
	f, ok := option.(func(string, V, EvictReason))
	if !ok {
		return nil, fmt.Errorf("WithOnEvict: %T does not take a %v", option, reflect.TypeFor[V]())
	}
	return f, nil
}
