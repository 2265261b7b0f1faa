package regions

import "github.com/geocache/geocache/expiry"

// Counts reports whether this node counts another one among the nodes of its region: it answers, and is
// listed or vouched for. known is false if it does not count it, but the discovery is not trusted about
// that.
func (m *Members) Counts(id string) (counts, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mb := m.nodes[id]; mb != nil && mb.Region == m.self.Region && m.countsLocked(mb) {
		return true, true
	}
	return false, m.trusted[m.self.Region]
}

func (m *Members) countsLocked(mb *member) bool {
	return mb.Up && (mb.listed || m.now < mb.vouched)
}

// Unwanted reports whether this node must become a guest of its region, because more nodes there do not
// count it than do. The caller then hands over what the node owns and calls StepAside. The node stops being
// a guest on its own as soon as the majority against it is gone.
//
// Of two nodes that do not count each other, the one with the lower ID ignores the other's verdict. So at
// least one node always stays, whatever the discoveries say.
func (m *Members) Unwanted() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.guest && m.unwantedLocked()
}

func (m *Members) unwantedLocked() bool {
	against := 0
	for id, mb := range m.nodes {
		if id == m.self.ID || mb.Region != m.self.Region || !mb.Up || mb.Guest {
			continue
		}
		switch {
		case mb.Counted:
			against--
		case mb.Uncounted && (id < m.self.ID || m.countsLocked(mb)):
			against++
		}
	}
	return against > 0
}

// StepAside makes this node a guest of its region if it is still unwanted.
func (m *Members) StepAside(now expiry.Instant) Change {
	return m.step(now, func() Change {
		m.guest = true // step clears it unless the node is still unwanted
		return Change{}
	})
}
