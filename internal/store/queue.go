package store

// queueID names the queue of its policy that an entry is in.
type queueID uint8

const (
	noQueue queueID = iota // in no queue, and so not in the store
	smallQueue
	mainQueue
)

// A queue is a doubly linked list of entries through their own links, so that
// an entry in the middle leaves it at once and frees its memory, which a ring
// buffer with tombstones would keep.
//
// Invariant: e.queue == q.id exactly if e is linked in q; bytes is the sum of
// the charges and length the number of the entries linked.
type queue struct {
	id          queueID
	front, back *Entry // newest, oldest
	length      int
	bytes       int64
}

// pushFront links e, which is in no queue, as the newest.
func (q *queue) pushFront(e *Entry) {
	e.queue = q.id
	e.next = q.front
	q.front = e
	if e.next != nil {
		e.next.prev = e
	} else {
		q.back = e
	}
	q.length++
	q.bytes += e.charge
}

// remove unlinks e, which is in q.
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
	e.queue, e.prev, e.next = noQueue, nil, nil
	q.length--
	q.bytes -= e.charge
}

// replace links e, which is in no queue, in the place of old and unlinks old.
func (q *queue) replace(old, e *Entry) {
	e.queue, e.prev, e.next = old.queue, old.prev, old.next
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
	old.queue, old.prev, old.next = noQueue, nil, nil
	q.bytes += e.charge - old.charge
}
