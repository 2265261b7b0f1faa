package store

import (
	"fmt"
	"hash/maphash"
)

// A Policy is an eviction policy: it determines which entry is evicted first when there is no room.
type Policy uint8

const (
	S3FIFO   Policy = iota // the default; see type s3fifo
	LRU                    // the least recently read or written entry
	LFU                    // the least frequently read entry; among equals, as LRU
	FIFO                   // the entry whose key was added first
	policies               // the number of policies
)

// Valid reports whether p is one of the constants.
func (p Policy) Valid() bool { return p < policies }

// ordered reports whether p is implemented by type ordered, which needs extended entries.
func (p Policy) ordered() bool { return p == LRU || p == LFU }

func (p Policy) String() string {
	if p.Valid() {
		return [...]string{"S3-FIFO", "LRU", "LFU", "FIFO"}[p]
	}
	return fmt.Sprintf("Policy(%d)", uint8(p))
}

// new returns an empty policy. seed is the seed for hashing keys.
func (p Policy) new(seed maphash.Seed) policy {
	switch p {
	case LRU:
		return &ordered{}
	case LFU:
		return &ordered{lfu: true}
	case FIFO:
		return &fifo{queue{id: onlyQueue}}
	}
	return newS3FIFO(seed)
}

// A policy orders the entries of one class. The Store decides how much room there is, and asks for one
// victim at a time until there is enough.
//
// All methods except touch are called with Store.mu held.
//
// Readers call touch without a lock, concurrently with everything else, and possibly for an entry that has
// just left the policy. It may only write the entry's policyWord or its extended priority, atomically.
// Taking the lock and reordering at once would be simpler, but would make every read a write.
type policy interface {
	// touch records a read of e.
	touch(e *Entry)

	// add adds e, which is in no policy. It ignores the previous policyWord of e.
	add(e *Entry)

	// replace puts e in the place of old, an entry of the same key, and removes old. e inherits the reads
	// of old.
	replace(old, e *Entry)

	// remove removes e, which is in the policy, for a reason other than capacity.
	remove(e *Entry)

	// evict chooses a victim, removes it and returns it. It returns nil if the policy is empty.
	evict() *Entry
}

// fifo evicts in the order in which keys were added. An entry that replaces another one keeps its place.
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
