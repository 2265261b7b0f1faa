package writebehind

import "time"

// Stats is what a Queue has and has done.
type Stats struct {
	Queued      int // writes that this node stores, each of another key
	QueuedBytes int64
	Held        int // writes that other nodes store
	HeldBytes   int64
	Waiting     int // calls of Put that wait for room

	// Oldest is for how long the origin has lacked a write that is queued.
	Oldest time.Duration

	// Overdue is how many calls of Store go on although their time is up. Their
	// keys wait for them.
	Overdue int

	Stored    uint64 // successful calls of Store
	Failed    uint64 // others
	Coalesced uint64 // writes that were never stored because a newer one came
	Refused   uint64 // writes for which there was no room
}

// Stats looks at every write: it is for metrics, not for each request.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Stats{
		Queued: q.queued.writes, QueuedBytes: q.queued.bytes,
		Held: q.held.writes, HeldBytes: q.held.bytes,
		Waiting: len(q.line),
		Overdue: -len(q.active),
		Stored:  q.stored, Failed: q.failed, Coalesced: q.coalesced, Refused: q.refused,
	}
	now := q.config.Now()
	for _, it := range q.items {
		if it.running != nil {
			s.Overdue++
			s.Oldest = max(s.Oldest, now.Sub(it.running.since))
		}
		if !it.held {
			s.Oldest = max(s.Oldest, now.Sub(it.since))
		}
	}
	return s
}
