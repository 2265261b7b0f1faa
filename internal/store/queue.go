package store

// A place identifies the queue or heap that holds an entry.
type place uint8

const (
	nowhere    place = iota // in no policy
	smallQueue              // S3-FIFO's small queue
	mainQueue               // S3-FIFO's main queue
	onlyQueue               // FIFO's queue
	inHeap                  // the heap of LRU or LFU
)

// A queue is an intrusive doubly linked list of entries. An entry can be unlinked from the middle at once,
// which frees its memory. A ring buffer with tombstones would retain it.
//
// Invariant: e.place == q.id if and only if e is linked in q. bytes is the sum of the sizes of the linked
// entries, and length their number.
type queue struct {
	id          place
	front, back *Entry // newest, oldest
	length      int
	bytes       int64
}

// pushFront links e, which must be in no queue, as the newest entry.
func (q *queue) pushFront(e *Entry) {
	e.place = q.id
	e.next = q.front
	q.front = e
	if e.next != nil {
		e.next.prev = e
	} else {
		q.back = e
	}
	q.length++
	q.bytes += e.size()
}

// remove unlinks e, which must be in q.
func (q *queue) remove(e *Entry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		q.front = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		q.back = e.prev
	}
	e.place, e.prev, e.next = nowhere, nil, nil
	q.length--
	q.bytes -= e.size()
}

// replace links e, which must be in no queue, in the place of old, and unlinks old.
func (q *queue) replace(old, e *Entry) {
	e.place, e.prev, e.next = old.place, old.prev, old.next
	if e.prev != nil {
		e.prev.next = e
	} else {
		q.front = e
	}
	if e.next != nil {
		e.next.prev = e
	} else {
		q.back = e
	}
	old.place, old.prev, old.next = nowhere, nil, nil
	q.bytes += e.size() - old.size()
}
