package writebehind

import "time"

// Stats describes a Queue: what it has now, and what it has counted since it was made.
type Stats struct {
	Queued      int // writes that this node stores, one for each key
	QueuedBytes int64
	Held        int // writes that other nodes store, one for each key
	HeldBytes   int64
	Waiting     int // calls of Put that wait for room

	// Oldest is the longest time for which the origin has lacked a queued write.
	Oldest time.Duration

	Coalesced uint64 // writes never stored because a newer one replaced them
	Refused   uint64 // writes for which there was no room

	stored  uint64 // calls of Store that succeeded
	failed  uint64 // calls of Store that failed
	overdue int    // calls of Store that still run although they have timed out; their keys wait for them
}

// Stats returns the present statistics. It visits every write, so it is for metrics, not for each request.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Stats{
		Queued: q.queued.writes, QueuedBytes: q.queued.bytes,
		Held: q.held.writes, HeldBytes: q.held.bytes,
		Waiting:   len(q.waiting),
		Coalesced: q.coalesced, Refused: q.refused,
		stored: q.stored, failed: q.failed,
		overdue: -len(q.active), // of those running, added below
	}
	now := q.config.Now()
	for _, it := range q.items {
		if it.running != nil {
			s.overdue++
			s.Oldest = max(s.Oldest, now.Sub(it.running.since))
		}
		if !it.held {
			s.Oldest = max(s.Oldest, now.Sub(it.since))
		}
	}
	return s
}
