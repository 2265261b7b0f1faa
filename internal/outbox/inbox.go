package outbox

import (
	"sync"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

// maxAhead is how far above what it has all of an Inbox remembers numbers. What it
// does not remember is sent again, or given up when it was answered.
const maxAhead = 4096

// An Inbox knows what has arrived of the numbered pushes that come to a node. It
// says nothing about their notes: those are taken in whatever the number.
//
// Its zero value is ready for use, and its methods are safe for concurrent use.
type Inbox struct {
	mu      sync.Mutex // guards the following
	origins map[string]*origin
	gaps    uint64
}

// An origin is the node that a stream comes from.
type origin struct {
	epoch   expiry.Generation
	have    uint64              // every number up to this one has arrived, or was given up
	ahead   map[uint64]struct{} // those above that have arrived
	highest uint64              // that is known to have been sent
	heard   expiry.Instant
}

// Receive notes that p has come from a node, and returns up to which number
// everything has arrived: what message.Pushed has to say. It is 0 for a stream that has
// ended because its node was restarted.
func (b *Inbox) Receive(from string, p message.Push, now expiry.Instant) (have uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.origins[from]
	if o == nil || o.epoch < p.Epoch {
		o = &origin{epoch: p.Epoch, ahead: make(map[uint64]struct{})}
		if b.origins == nil {
			b.origins = make(map[string]*origin)
		}
		b.origins[from] = o
	}
	if o.epoch > p.Epoch {
		return 0
	}
	o.heard = now
	if p.Low > o.have+1 {
		o.have = p.Low - 1
		for n := range o.ahead {
			if n <= o.have {
				delete(o.ahead, n)
			}
		}
	}
	o.highest = max(o.highest, o.have)
	asked := len(p.Writes) == 0 // its number is the highest that was sent, not its own
	if p.Number > o.highest+1 || asked && p.Number > o.highest {
		b.gaps++
	}
	o.highest = max(o.highest, p.Number)
	if !asked && p.Number > o.have && p.Number-o.have <= maxAhead {
		o.ahead[p.Number] = struct{}{}
	}
	for {
		if _, ok := o.ahead[o.have+1]; !ok {
			return o.have
		}
		o.have++
		delete(o.ahead, o.have)
	}
}

// Gaps returns how often a push showed that one before it had not arrived.
func (b *Inbox) Lost() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gaps
}

// Forget drops the streams of nodes that have not been heard of since before, and
// returns how many it dropped. A node that does come back after that makes itself
// understood with Push.Low.
func (b *Inbox) Forget(before expiry.Instant) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.origins)
	for name, o := range b.origins {
		if o.heard < before {
			delete(b.origins, name)
		}
	}
	return n - len(b.origins)
}
