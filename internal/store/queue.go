package store

// A place is which part of its policy an entry is in.
type place uint8

const (
	nowhere    place = iota // in no policy
	smallQueue              // of S3-FIFO
	mainQueue               // the same
	onlyQueue               // of FIFO
	inHeap                  // of LRU or LFU
)

// A queue is a doubly linked list of entries through their own links, so that
// an entry in the middle leaves it at once and frees its memory, which a ring
// buffer with tombstones would keep.
//
// Invariant: e.place == q.id exactly if e is linked in q; bytes is the sum of
// the sizes and length the number of the entries linked.
type queue struct {
	id          place
	front, back *Entry // newest, oldest
	length      int
	bytes       int64
}

// pushFront links e, which is in no queue, as the newest.
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
	e.place, e.prev, e.next = nowhere, nil, nil
	q.length--
	q.bytes -= e.size()
}

// replace links e, which is in no queue, in the place of old and unlinks old.
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
