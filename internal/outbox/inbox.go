package outbox

import (
	"sync"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

// maxAhead is how far above the last number without a gap an Inbox remembers arrivals. A push further
// ahead counts as missing: the sender sends it again, or gives up its number once it has been answered.
const maxAhead = 4096

// An Inbox tracks which of the numbered pushes to this node have arrived. It does not decide whether their
// writes are applied: the caller applies them whatever the number, since they are idempotent.
//
// The zero value is ready to use, and the methods are safe for concurrent use.
type Inbox struct {
	mu      sync.Mutex         // guards the following
	sources map[string]*source // by node
	lost    uint64
}

// A source is a node that sends a stream of pushes.
type source struct {
	epoch   expiry.Generation
	have    uint64              // every number up to this one has arrived, or was given up
	ahead   map[uint64]struct{} // the numbers above have that have arrived
	highest uint64              // the highest number known to have been sent
	heard   expiry.Instant      // when a push last came
}

// Receive records that p has come from a node, and returns the number up to which every push has arrived
// or been given up: the Have of the message.PushReply. It returns 0 for a stream that has ended because
// its node was restarted.
func (b *Inbox) Receive(from string, p message.Push, now expiry.Instant) (have uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sources[from]
	if s == nil || s.epoch < p.Epoch {
		s = &source{epoch: p.Epoch, ahead: make(map[uint64]struct{})}
		if b.sources == nil {
			b.sources = make(map[string]*source)
		}
		b.sources[from] = s
	}
	if s.epoch > p.Epoch {
		return 0
	}
	s.heard = now
	if p.Low > s.have+1 {
		s.have = p.Low - 1
		for n := range s.ahead {
			if n <= s.have {
				delete(s.ahead, n)
			}
		}
	}
	s.highest = max(s.highest, s.have)
	probe := len(p.Writes) == 0 // its number is the highest sent, not its own
	if p.Number > s.highest+1 || probe && p.Number > s.highest {
		b.lost++
	}
	s.highest = max(s.highest, p.Number)
	if !probe && p.Number > s.have && p.Number-s.have <= maxAhead {
		s.ahead[p.Number] = struct{}{}
	}
	for {
		if _, ok := s.ahead[s.have+1]; !ok {
			return s.have
		}
		s.have++
		delete(s.ahead, s.have)
	}
}

// Lost returns how often a push showed that an earlier one had not arrived.
func (b *Inbox) Lost() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lost
}

// Forget drops the streams of nodes not heard from since before. If such a node comes back, the Low of
// its next push says where its stream stands.
func (b *Inbox) Forget(before expiry.Instant) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, s := range b.sources {
		if s.heard < before {
			delete(b.sources, name)
		}
	}
}
