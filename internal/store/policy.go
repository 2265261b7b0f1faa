package store

import (
	"fmt"
	"hash/maphash"
)

// A Policy is an order of eviction: it says which entry goes first when there is
// no more room.
type Policy uint8

const (
	S3FIFO Policy = iota // see s3fifo.go
	LRU                  // the one whose last read or write is longest ago
	LFU                  // the one read least often, of these as LRU
	FIFO                 // the one whose key came in first
	policies
)

// Valid reports whether p is one of the constants.
func (p Policy) Valid() bool { return p < policies }

// exact reports whether p needs extended entries.
func (p Policy) exact() bool { return p == LRU || p == LFU }

func (p Policy) String() string {
	if p.Valid() {
		return [...]string{"S3-FIFO", "LRU", "LFU", "FIFO"}[p]
	}
	return fmt.Sprintf("Policy(%d)", uint8(p))
}

// new returns an empty order. seed is for what has to be hashed.
func (p Policy) new(seed maphash.Seed) policy {
	switch p {
	case LRU:
		return &ordered{}
	case LFU:
		return &ordered{frequency: true}
	case FIFO:
		return &fifo{queue{id: onlyQueue}}
	}
	return newS3FIFO(seed)
}

// A policy orders the entries of a class and nothing else: what there is room
// for is the Store's to decide, and it asks for one victim at a time until there
// is enough.
//
// Every method but touch is called with Store.mu held.
//
// touch is called by readers, without a lock and at the same time as anything
// else, also for an entry that has just left the policy. It may write the entry's mark,
// or what an extended one has used, atomically and nothing else. Letting it take the lock and reorder
// at once would be simpler, and make every read a write.
type policy interface {
	// touch notes a read of e.
	touch(e *Entry)

	// add takes in e, which is in no policy. The mark it brings means nothing.
	add(e *Entry)

	// replace puts e in the place of old: the same key's entry, which leaves.
	// e inherits what reads have earned old.
	replace(old, e *Entry)

	// remove lets go of e, which is in the policy, for another reason than
	// room.
	remove(e *Entry)

	// evict chooses an entry, lets go of it and returns it; nil if there is
	// none.
	evict() *Entry
}

// fifo evicts in the order in which keys came in. One that is replaced keeps its
// place.
type fifo struct{ queue }

func (p *fifo) touch(*Entry) {}

func (p *fifo) add(e *Entry) { p.pushFront(e) }

func (p *fifo) evict() *Entry {
	e := p.back
	if e != nil {
		p.remove(e)
	}
	return e
}
