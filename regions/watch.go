package regions

import (
	"cmp"
	"slices"
	"strings"

	"github.com/zeebo/xxh3"
)

// How many nodes of other regions a node watches: a dozen, shared among the regions, but no fewer than three
// of each, so that it takes more than one failure to lose sight of a region. While some of these do not
// answer, or cannot stand for their region, it tries up to four times as many.
const (
	watchedInAll = 12
	watchedLeast = 3
	triedTimes   = 4
)

// Watched returns the members that this node connects to, by ascending ID: all others of its own region, and
// a few of each other one. What it has to say to another region, it says to one of those. So the cost of
// being connected does not grow with the size of the other regions.
//
// Each node has its own few: those that come first in an order that depends on both. This is rendezvous
// hashing (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998). The nodes of a
// region are thus watched by about as many others each, and a change of the members changes few choices.
func (m *Members) Watched() []Node { return m.nodesThat(func(mb *member) bool { return mb.watched }) }

// WatchAtMost sets how many nodes of each other region are watched as long as they answer. Call it before any
// other method, or not at all.
func (m *Members) WatchAtMost(n int) { m.watchMost = n }

// MayStand reports whether a watched node of another region stands for it, or has yet to be tried. Otherwise
// those that answer are all there is: they are guests, or see no majority of their region.
func (m *Members) MayStand(region string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, mb := range m.nodes {
		if mb.Region == region && mb.watched && mb.mayStand() {
			return true
		}
	}
	return false
}

// watchLocked chooses the watched members and reports whether that changed the choice. What a member has said
// does not count once it is no longer watched.
func (m *Members) watchLocked() (changed bool) {
	others := map[string][]*member{}
	for id, mb := range m.nodes {
		switch {
		case id == m.self.ID:
		case mb.Region == m.self.Region:
			changed = changed || !mb.watched
			mb.watched = true
		default:
			others[mb.Region] = append(others[mb.Region], mb)
		}
	}
	if len(others) == 0 {
		return changed
	}
	wanted := max(watchedLeast, watchedInAll/len(others))
	if m.watchMost > 0 {
		wanted = m.watchMost
	}
	for _, members := range others {
		slices.SortFunc(members, func(a, b *member) int {
			return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.ID, b.ID))
		})
		useful := 0
		for i, mb := range members {
			watched := useful < wanted && i < triedTimes*wanted
			if watched && mb.mayStand() {
				useful++
			}
			if watched != mb.watched {
				mb.watched, changed = watched, true
				mb.State = State{}
			}
		}
	}
	return changed
}

// mayStand reports whether the member can stand for its region, as far as this node knows.
func (mb *member) mayStand() bool { return !mb.Tried || mb.Up && !mb.Guest && !mb.Minority }

// rankOf returns the place of a node in the order in which another one watches it.
func rankOf(watcher, node string) uint64 { return xxh3.HashStringSeed(node, xxh3.HashString(watcher)) }
