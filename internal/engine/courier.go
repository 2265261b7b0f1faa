package engine

import (
	"runtime"
	"sync"
	"time"

	"github.com/geocache/geocache/internal/message"
)

// A dispatcher sends broadcasts to the other nodes of the region, in rounds. A round has one message for
// each node, with one acknowledgement for all that is in it. While a round is under way, broadcasts gather,
// of whichever keys and groups, and the next round takes all of them. A broadcast that finds no round under
// way is sent at once, by whoever has it.
//
// A write is complete when all nodes have it, so waiting for the slowest of a round costs it little: it
// would have to wait for that node itself. It makes messages larger, and so fewer, than if each node got
// the next one as soon as it has acknowledged the last. A node that takes very long is left behind: the
// next rounds go without it.
//
// What would hold up the others travels in a message of its own, and at once: what is large, and what the
// receiver is slow to apply.
type dispatcher struct {
	self  uint64        // this process, see message.Broadcast
	lease time.Duration // Config.Lease
	spawn func(func()) bool

	// post sends a node a Broadcast. It calls done with the outcome, which must not block, unless it returns
	// an error.
	post func(node string, payload []byte, done func(reply []byte, err error)) error

	mu       sync.Mutex // guards the following, and what courier says it guards; never held across I/O
	round    uint64     // the number of the last round
	left     int        // messages that it still waits for
	starting bool       // somebody is about to start the next round
	company  bool       // a message of the last round had several broadcasts
	waiting  []*courier // those with deliveries for the next round

	patience *time.Timer // runs out when this round has waited for long enough
	patient  uint64      // the number of the round that patience is for
}

// A courier brings the broadcasts to one other node of the region.
type courier struct {
	node string // its ID

	waiting  []*delivery // for the next message; guarded by dispatcher.mu
	underWay bool        // a message is, of this round or of an earlier one; guarded by dispatcher.mu
	round    uint64      // of the last message; guarded by dispatcher.mu

	// Of the message that is under way. Until its outcome is known they belong to it.
	sent   []*delivery
	buffer []byte
	done   func(reply []byte, err error) // its outcome; made once
}

const (
	// sharedBytes and sharedWrites bound a message that broadcasts share. The receiver applies it on the
	// goroutine that reads the connection, which has other requests to read.
	sharedBytes  = 256 << 10
	sharedWrites = 512

	// largeBroadcast is the size in bytes above which a broadcast does not share a message: it would save
	// next to nothing, and the others would wait while it is under way.
	largeBroadcast = 16 << 10

	// keptBuffer is the size of the largest buffer that a courier keeps for the next message.
	keptBuffer = 32 << 10
)

// couriers returns the couriers of v, which follows the view was. Those to nodes of both are kept: they may
// have a message under way.
func couriers(was, v *view) []*courier {
	known := map[string]*courier{}
	if was != nil {
		for _, q := range was.couriers {
			known[q.node] = q
		}
	}
	all := make([]*courier, len(v.Others))
	for i, id := range v.Others {
		if all[i] = known[id]; all[i] == nil {
			all[i] = &courier{node: id}
		}
	}
	return all
}

// A delivery is a broadcast to one node.
type delivery struct {
	*broadcast
	to     *courier
	due    bool // the last attempt has it
	keeper bool // the node gets the values of some keys
	told   bool // the node has applied the writes; not to be read before the attempt has ended
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
	return d.clears || len(d.writes) > sharedWrites || d.size() > largeBroadcast
}

// tell has those deliveries sent that are due. Each hears of its outcome by end.
func (x *dispatcher) tell(deliveries []delivery) {
	alone := 0
	x.mu.Lock()
	for i := range deliveries {
		switch d := &deliveries[i]; {
		case !d.due:
		case d.alone():
			alone++
		default:
			if len(d.to.waiting) == 0 {
				x.waiting = append(x.waiting, d.to)
			}
			d.to.waiting = append(d.to.waiting, d)
		}
	}
	start, company := x.claimLocked(), x.company
	if x.left > 0 {
		x.limitLocked()
	}
	x.mu.Unlock()
	if start {
		if company {
			runtime.Gosched() // others are likely to have something to tell right now
		}
		x.startRound()
	}
	// While one of these has not been sent, the attempt has not ended, and the deliveries stay as they are.
	for i := 0; alone > 0; i++ {
		if d := &deliveries[i]; d.due && d.alone() {
			alone--
			x.sendAlone(d)
		}
	}
}

// claimLocked reports whether the caller is to call startRound: something waits that can be sent now, and
// nobody else sees to it.
func (x *dispatcher) claimLocked() bool {
	if x.left > 0 || x.starting {
		return false
	}
	for _, q := range x.waiting {
		x.starting = x.starting || !q.underWay
	}
	return x.starting
}

// startRound sends what has gathered. claimLocked has said so.
func (x *dispatcher) startRound() {
	x.mu.Lock()
	x.round++
	x.starting, x.company = false, false
	due := make([]*courier, 0, len(x.waiting))
	rest := x.waiting[:0]
	for _, q := range x.waiting {
		if !q.underWay {
			q.takeLocked()
			q.underWay, q.round = true, x.round
			x.company = x.company || len(q.sent) > 1
			due = append(due, q)
		}
		if len(q.waiting) > 0 {
			rest = append(rest, q)
		}
	}
	clear(x.waiting[len(rest):])
	x.waiting, x.left = rest, len(due)
	x.mu.Unlock()
	for _, q := range due {
		x.send(q)
	}
}

// takeLocked moves as much of what has gathered to q.sent as a message may have.
func (q *courier) takeLocked() {
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
}

// send sends q.sent, as its part of the round.
func (x *dispatcher) send(q *courier) {
	if q.done == nil {
		q.done = func(reply []byte, err error) { x.sent(q, reply, err) }
	}
	q.buffer = x.encode(q.buffer[:0], q.sent)
	if err := x.post(q.node, q.buffer, q.done); err != nil {
		q.done(nil, err)
	}
}

// sent takes in the outcome of what send has sent. It must not block.
func (x *dispatcher) sent(q *courier, reply []byte, err error) {
	conclude(q.sent, reply, err)
	clear(q.sent) // so that it does not keep the writes in memory
	q.sent = q.sent[:0]
	if err != nil || cap(q.buffer) > keptBuffer {
		q.buffer = nil // without an answer, the transport may still have it
	}
	x.mu.Lock()
	q.underWay = false
	if q.round == x.round && x.left > 0 {
		x.left--
	}
	start := x.claimLocked()
	x.mu.Unlock()
	if start {
		x.startSoon()
	}
}

// startSoon is startRound for those who must not block. Writers that have been told of the end of the last
// round run first: they may have more to tell.
func (x *dispatcher) startSoon() {
	if !x.spawn(func() { runtime.Gosched(); x.startRound() }) {
		x.abandon()
	}
}

// limitLocked bounds the time that the present round waits for its nodes, because something waits for its
// end.
func (x *dispatcher) limitLocked() {
	if x.patient == x.round {
		return
	}
	x.patient = x.round
	limit := x.lease / 8
	if x.patience == nil {
		x.patience = time.AfterFunc(limit, x.leaveBehind)
	} else {
		x.patience.Reset(limit)
	}
}

// leaveBehind ends the round without the nodes that have not answered. They get what gathers for them once
// they have.
func (x *dispatcher) leaveBehind() {
	start := false
	x.mu.Lock()
	if x.patient == x.round {
		x.left = 0
		start = x.claimLocked()
	}
	x.mu.Unlock()
	if start {
		x.startSoon()
	}
}

// abandon ends what has gathered, because this node is closing.
func (x *dispatcher) abandon() {
	var all []*delivery
	x.mu.Lock()
	for _, q := range x.waiting {
		all = append(all, q.waiting...)
		q.waiting = nil
	}
	x.waiting, x.starting = nil, false
	x.mu.Unlock()
	for _, d := range all {
		d.end(false)
	}
}

// sendAlone sends d in a message of its own.
func (x *dispatcher) sendAlone(d *delivery) {
	batch := []*delivery{d}
	done := func(reply []byte, err error) { conclude(batch, reply, err) }
	if err := x.post(d.to.node, x.encode(nil, batch), done); err != nil {
		done(nil, err)
	}
}

// encode appends a message with the deliveries.
func (x *dispatcher) encode(b []byte, batch []*delivery) []byte {
	writes := 0
	for _, d := range batch {
		writes += len(d.writes)
	}
	b = message.BeginBroadcast(b, x.self, writes)
	for _, d := range batch {
		b = d.append(b)
	}
	return b
}

// conclude ends the deliveries of a message. Those with a write that the node has refused have to be sent
// again.
func conclude(batch []*delivery, reply []byte, err error) {
	var m message.BroadcastReply
	if err == nil {
		m, err = message.DecodeBroadcastReply(reply)
	}
	first := 0
	for _, d := range batch {
		told, after := err == nil, first+len(d.writes)
		for _, i := range m.Refused {
			told = told && (int(i) < first || int(i) >= after)
		}
		first = after
		d.end(told)
	}
}
