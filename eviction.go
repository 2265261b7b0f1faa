package geocache

import (
	"fmt"
	"reflect"

	"github.com/geocache/geocache/internal/store"
)

// A Policy says which entry leaves a process's memory first when there is no more
// room. See WithPolicy.
type Policy uint8

// The policies.
const (
	// S3FIFO keeps what is read again: a new entry has to be read, or to come
	// back soon after it was evicted, before it can cost an older one its place. How
	// long it has time for that follows the workload. It keeps more of nearly
	// every workload than the others, and scans do it no harm.
	S3FIFO Policy = iota

	// LRU evicts the entry whose last read or write by this process is longest ago.
	LRU

	// LFU evicts the entry that has been read least often since its key came in,
	// and of those read equally often the one whose last read or write is
	// longest ago. Reads beyond the first 1,048,575 are not told apart.
	LFU

	// FIFO evicts the entry whose key came in first. An entry that replaces
	// another of its key, when it is loaded anew or written, takes its place.
	FIFO
)

// String returns "S3-FIFO", "LRU", "LFU" or "FIFO".
func (p Policy) String() string { return store.Policy(p).String() }

// WithPolicy sets the order of eviction in this process: S3FIFO, LRU, LFU or FIFO.
// Copies of other nodes' entries and the entries that this process has as an owner
// are ordered apart, each by this policy. Default S3FIFO. The exact orders of LRU
// and LFU cost more: their hits write to memory that all cores share, they need 14
// bytes more for each entry, and a write that finds no room after many reads may
// take long to find what to evict.
func WithPolicy(p Policy) GroupOption { return groupOption(func(c *groupConfig) { c.policy = p }) }

// WithMaxEntries bounds the number of entries of this group in this process, beside
// the bound in bytes; absences that WithNegativeTTL keeps count too. Default 0: not
// bounded by number.
func WithMaxEntries(n int) GroupOption { return groupOption(func(c *groupConfig) { c.MaxEntries = n }) }

// Resize replaces the bounds of WithMaxBytes and WithMaxEntries: maxBytes must be
// positive, maxEntries may be 0 for no bound. What is more than they allow has been
// evicted when it returns; readers and writers go on meanwhile. The error reports every
// mistake, and then nothing has changed.
func (g *Group[V]) Resize(maxBytes int64, maxEntries int) error {
	config := defaultGroupConfig()
	config.MaxBytes, config.MaxEntries = maxBytes, maxEntries
	if err := config.check(); err != nil {
		return fmt.Errorf("geocache: group %q: resize: %w", g.Name(), err)
	}
	g.core.Resize(maxBytes, maxEntries)
	return nil
}

// An EvictReason says why an entry has left this process's memory.
type EvictReason uint8

// The reasons.
const (
	// EvictedCapacity: to make room for others.
	EvictedCapacity EvictReason = iota
	// EvictedExpired: its time to live was over, and what WithStaleIfError or WithStaleWhileRevalidate adds.
	EvictedExpired
	// EvictedRemoved: it was removed or cleared, or may no longer be served here,
	// because another process has written its key or because this one may not have been
	// told of all writes.
	EvictedRemoved
	// EvictedReplaced: its key was written or loaded anew here.
	EvictedReplaced
)

// String returns "capacity", "expired", "removed" or "replaced".
func (r EvictReason) String() string { return store.Reason(r).String() }

// WithOnEvict has f called once for each value of this group that leaves this
// process's memory, copies of other nodes' entries included, after it has left.
// What is in memory when the Cache is closed has not left it. f may use the Group.
//
// The calls are made one after the other, in the order in which entries left, on a
// goroutine that does nothing else. Nobody waits for it, so entries that f has not
// been called for yet are in memory beyond WithMaxBytes: as much again, at most. What leaves
// while so much waits f is not called for. That is counted (GroupStats.Untold) and
// logged; f should be quick. If it panics, that is logged, and the next call is made. Absent keys, which have no
// value, and values that do not decode are left out. Default: none, at no cost.
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
