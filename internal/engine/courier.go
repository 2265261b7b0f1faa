package engine

import (
	"errors"
	"sync"

	"github.com/geocache/geocache/internal/message"
)

// A courier brings one node of the region the broadcasts of this one. One message is under way at a time; the
// next takes all that has gathered meanwhile, of whichever keys and groups, and has one acknowledgement. A
// broadcast that finds nothing under way is sent at once, by whoever has it.
//
// What would hold up the others travels in a message of its own, and at once: what is large, and what the
// receiver is slow to apply.
type courier struct {
	c    *Cache
	node string // its ID

	mu       sync.Mutex  // guards underWay and waiting; never held across I/O
	underWay bool        // a message is, or is about to be
	waiting  []*delivery // for the next message; empty unless one is under way

	// Of the message that is under way, and only its sender's:
	sent   []*delivery
	buffer []byte
}

const (
	// sharedBytes and sharedWrites bound a message that broadcasts share. The receiver applies it on the
	// goroutine that reads the connection, which has answers to read, too.
	sharedBytes  = 64 << 10
	sharedWrites = 256
)

// couriers returns the couriers of v, which follows the view was. Those to nodes of both are kept: they may have
// a message under way. What the others still have to bring fails, or arrives, and does no harm.
func (c *Cache) couriers(was, v *view) []*courier {
	known := map[string]*courier{}
	if was != nil {
		for _, q := range was.couriers {
			known[q.node] = q
		}
	}
	all := make([]*courier, len(v.Others))
	for i, id := range v.Others {
		if all[i] = known[id]; all[i] == nil {
			all[i] = &courier{c: c, node: id}
		}
	}
	return all
}

// A delivery is a broadcast to one node.
type delivery struct {
	*broadcast
	to     *courier
	due    bool // the last round has it
	keeper bool // the node gets the values of some keys
	told   bool // the node has applied the writes; not to be read before the round has ended
}

// append appends the encoding of d's writes.
func (d *delivery) append(to []byte) []byte {
	if d.keeper {
		return d.appendTo(to, d.to.node)
	}
	return append(to, d.floors...)
}

// size returns the most bytes that append appends.
func (d *delivery) size() int {
	if d.keeper {
		return d.bytes
	}
	return len(d.floors)
}

// alone reports whether d must not share a message.
func (d *delivery) alone() bool {
	return d.clears || len(d.writes) > sharedWrites || d.size() > sharedBytes
}

// tell sends d, or has it sent with the next message. d hears of the outcome by end.
func (q *courier) tell(d *delivery) {
	if d.alone() {
		batch := []*delivery{d}
		q.post(batch, encodeBroadcasts(nil, q.c.self, batch), func(error) {})
		return
	}
	q.mu.Lock()
	if q.underWay {
		q.waiting = append(q.waiting, d)
		q.mu.Unlock()
		return
	}
	q.underWay = true
	q.mu.Unlock()
	q.sent = append(q.sent, d)
	q.send()
}

// send sends what is in q.sent.
func (q *courier) send() {
	q.buffer = encodeBroadcasts(q.buffer[:0], q.c.self, q.sent)
	q.post(q.sent, q.buffer, func(err error) {
		if err != nil {
			q.buffer = nil // the transport may still hold it
		}
		q.next()
	})
}

// next sends what has gathered while a message was under way. It does not block: it is called by whoever reads the
// connection.
func (q *courier) next() {
	clear(q.sent) // it must not keep the writes in memory
	q.sent = q.sent[:0]
	q.mu.Lock()
	q.underWay = len(q.waiting) > 0
	more := q.underWay
	q.mu.Unlock()
	if more && !q.c.spawn(q.sendWaiting) {
		q.abandon()
	}
}

// sendWaiting sends as much of what has gathered as a message may have.
func (q *courier) sendWaiting() {
	q.mu.Lock()
	n, writes, bytes := 0, 0, 0
	for _, d := range q.waiting {
		writes, bytes = writes+len(d.writes), bytes+d.size()
		if n > 0 && (writes > sharedWrites || bytes > sharedBytes) {
			break
		}
		n++
	}
	q.sent = append(q.sent, q.waiting[:n]...)
	left := copy(q.waiting, q.waiting[n:])
	clear(q.waiting[left:])
	q.waiting = q.waiting[:left]
	q.mu.Unlock()
	q.send()
}

// abandon ends what has gathered, because this node is closing.
func (q *courier) abandon() {
	q.mu.Lock()
	waiting := q.waiting
	q.waiting, q.underWay = nil, false
	q.mu.Unlock()
	for _, d := range waiting {
		d.end(false)
	}
}

// post sends a message, and ends the deliveries in it when the outcome is known, and then calls then, which must not
// block. A node that is up and does not answer within half a lease has lost the message.
func (q *courier) post(batch []*delivery, payload []byte, then func(error)) {
	done := func(reply []byte, err error) {
		var m message.BroadcastReply
		if err == nil {
			m, err = message.DecodeBroadcastReply(reply)
		}
		conclude(batch, m.Refused, err)
		then(err)
	}
	err := errNoPeer
	if peer := q.c.transport.Peer(q.node); peer != nil {
		err = peer.Post(q.c.config.Lease/2, message.MethodBroadcast, payload, done)
	}
	if err != nil {
		done(nil, err)
	}
}

// errNoPeer means that the transport does not know a node, or not any more.
var errNoPeer = errors.New("no such peer")

// encodeBroadcasts appends a message with the deliveries.
func encodeBroadcasts(b []byte, sender uint64, batch []*delivery) []byte {
	writes := 0
	for _, d := range batch {
		writes += len(d.writes)
	}
	b = message.BeginBroadcast(b, sender, writes)
	for _, d := range batch {
		b = d.append(b)
	}
	return b
}

// conclude ends the deliveries of a message. Those with a write that the node has refused have to be sent again.
func conclude(batch []*delivery, refused []uint32, err error) {
	first := 0
	for _, d := range batch {
		told, after := err == nil, first+len(d.writes)
		for _, i := range refused {
			told = told && (int(i) < first || int(i) >= after)
		}
		first = after
		d.end(told)
	}
}
