package lease

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// holder is a node that sees others, which answer its pings as a test says.
type holder struct {
	*Table
	view  View
	peers map[string]*Peer
}

func newHolder(others ...string) *holder {
	h := &holder{Table: table(7), view: View{Hash: 7, Others: others}, peers: map[string]*Peer{}}
	for _, id := range others {
		h.peers[id] = h.Register(id)
	}
	return h
}

// granted has others grant a lease, and returns what comes of renewing.
func (h *holder) grantedBy(ids ...string) Renewal {
	for _, id := range ids {
		h.peers[id].Ponged(h.Ping(), Answer{Lease: length})
	}
	return h.Renew(h.view)
}

func (h *holder) holds() bool { return h.Held(h.config.Clock.Instant()) }

// resume is what a caller does whose journals are there at once.
func (h *holder) resume() bool {
	epoch := h.BeginResume()
	h.NextEpoch()
	return h.FinishResume(epoch, true)
}

// Whoever has granted nothing yet does not wait for this node, wherever it stands in the list.
func TestALeaseNeedsAllOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, missing := range []string{"a", "b", "c"} {
			h := newHolder("a", "b", "c")
			for id := range h.peers {
				if id != missing {
					require.Equal(t, Unchanged, h.grantedBy(id))
				}
			}
			require.Equal(t, Resume, h.grantedBy(missing))
			require.False(t, h.holds(), "it has no journals yet")
			require.True(t, h.resume())
			require.True(t, h.holds())
		}
		require.Equal(t, Unchanged, newHolder().Renew(View{Hash: 7}), "it is not prepared to be alone")
	})
}

func TestALeaseIsRenewedAndLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHolder("a", "b")
		require.Equal(t, Resume, h.grantedBy("a", "b"))
		require.True(t, h.resume())
		require.EqualValues(t, 1, h.Epoch())
		time.Sleep(length / 2)
		require.Equal(t, Extended, h.grantedBy("a"))
		time.Sleep(length/2 - length/100)
		require.False(t, h.holds(), "b's has ended, 1% early")
		require.Equal(t, Resume, h.grantedBy("b"))
		require.Equal(t, Unchanged, h.grantedBy("b"), "a resume is under way")
		require.True(t, h.resume())
		require.EqualValues(t, 2, h.Epoch())
	})
}

// A resume takes the leases that were held without a break since it began. If they break it has to begin again.
func TestALeaseThatBreaksWhileItIsResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHolder("a")
		require.Equal(t, Resume, h.grantedBy("a"))
		epoch := h.BeginResume()
		time.Sleep(length / 2)
		require.Equal(t, Unchanged, h.grantedBy("a"))
		time.Sleep(length / 2)
		require.True(t, h.FinishResume(epoch, true), "it was renewed in time")
		time.Sleep(length)
		require.Equal(t, Resume, h.grantedBy("a"))
		epoch = h.BeginResume()
		time.Sleep(length)
		require.Equal(t, Unchanged, h.grantedBy("a"))
		require.False(t, h.FinishResume(epoch, true), "it was not")
		require.Equal(t, Resume, h.grantedBy("a"))
		require.False(t, h.FinishResume(h.BeginResume(), false), "a journal is missing")
		require.False(t, h.holds())
	})
}

// The lease counts from when the ping was sent, however late the pong is.
func TestALeaseCountsFromThePing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHolder("a")
		ping := h.Ping()
		time.Sleep(length)
		h.peers["a"].Ponged(ping, Answer{Lease: length})
		require.Equal(t, Unchanged, h.Renew(h.view))
	})
}

func TestAGuestHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHolder("a", "b")
		require.Equal(t, Resume, h.grantedBy("a", "b"))
		epoch := h.BeginResume()
		h.BecomeGuest()
		h.SetView(Guest)
		require.False(t, h.FinishResume(epoch, true))
		require.Equal(t, Unchanged, h.Renew(h.view))
		_, known := h.SettledAt(View{Hash: Guest, Guest: true})
		require.False(t, known)
		require.True(t, h.DefersWrites(View{Hash: Guest, Guest: true}))

		h.BeginReturn()
		h.SetView(7)
		require.Zero(t, h.peers["a"].End(), "the old leases have ended")
		require.Equal(t, Unchanged, h.grantedBy("a", "b"), "it has not returned yet")
		h.EndReturn()
		require.Equal(t, Resume, h.Renew(h.view))
		require.False(t, h.FinishResume(epoch, true), "an earlier resume is not this one")
		require.True(t, h.resume())
		at, known := h.SettledAt(View{Hash: 7})
		require.True(t, known)
		require.Equal(t, length, time.Until(at), "alone, it allows for others that return")
	})
}

func TestALeaseThatIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHolder("a")
		require.Equal(t, Resume, h.grantedBy("a"))
		require.True(t, h.resume())
		h.Close()
		require.False(t, h.holds())
		require.Equal(t, Unchanged, h.grantedBy("a"))
		h.Leave()
		require.False(t, h.SetView(8), "it has left")
		require.True(t, IsLeaving(h.Hash()))
	})
}

// A view is settled when all others have answered it, and what they and this node granted under others has ended.
func TestAViewThatSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHolder("a", "b")
		require.Equal(t, length, h.pinged("c", 7))
		h.SetView(8)
		h.view.Hash = 8
		_, known := h.SettledAt(h.view)
		require.False(t, known)
		h.peers["a"].Ponged(h.Ping(), Answer{Others: length / 2})
		_, known = h.SettledAt(h.view)
		require.False(t, known, "b has not answered")
		h.peers["b"].Ponged(h.Ping(), Answer{})
		at, known := h.SettledAt(h.view)
		require.True(t, known)
		require.Equal(t, length, time.Until(at), "this node's own grant")
		time.Sleep(length)
		require.False(t, h.InTerm(h.view), "nobody has granted a lease for this view")
		require.Equal(t, Resume, h.grantedBy("a", "b"))
		require.True(t, h.resume())
		require.False(t, h.InTerm(h.view), "c still has another view")
		time.Sleep(length + 1)
		require.Equal(t, Resume, h.grantedBy("a", "b"))
		require.True(t, h.resume())
		require.True(t, h.InTerm(h.view))
		h.peers["a"].Reset()
		_, known = h.SettledAt(h.view)
		require.False(t, known, "another process may be behind a by now")
	})
}

// A node that has never held a lease reckons with nodes that it does not see.
func TestUnknownPeersOfANewNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHolder("a")
		h.pinged("x", 9)
		require.True(t, h.IsUnknownPeer(h.view, "x"))
		require.False(t, h.IsUnknownPeer(h.view, "a"))
		require.True(t, h.DefersWrites(h.view))
		lone := View{Hash: 7}
		h.Prepare(lone)
		require.Equal(t, Unchanged, h.Renew(lone), "alone, except for x")
		h.Prepare(h.view)
		require.Equal(t, Resume, h.grantedBy("a"))
		require.True(t, h.resume())
		require.False(t, h.IsUnknownPeer(h.view, "x"))
		require.False(t, h.DefersWrites(h.view))
	})
}

// What another node has said of a view counts until it forgets this node's pings, and until the view changes.
func TestASettledViewIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHolder("a")
		h.peers["a"].Ponged(h.Ping(), Answer{})
		settled := func() bool { _, known := h.SettledAt(h.view); return known }
		require.True(t, settled())
		time.Sleep(2*length - 2*length/100)
		require.False(t, settled(), "two leases, 1% early")
		h.peers["a"].Ponged(h.Ping(), Answer{})
		require.True(t, settled())
		ping := h.Ping()
		h.SetView(8)
		h.SetView(7)
		require.False(t, settled(), "in between, a may have granted leases under the other view")
		h.peers["a"].Ponged(ping, Answer{})
		require.False(t, settled(), "a ping of before says nothing of now")
		h.peers["a"].Ponged(h.Ping(), Answer{})
		require.True(t, settled())
	})
}

// Leases that go on while a resume is under way are those that the resume ends with: the longest of each.
func TestAResumeEndsWithTheLastLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHolder("a")
		require.Equal(t, Resume, h.grantedBy("a"))
		epoch := h.BeginResume()
		late := h.Ping()
		time.Sleep(length / 2)
		require.Equal(t, Unchanged, h.grantedBy("a"))
		h.peers["a"].Ponged(late, Answer{Lease: length}) // a pong that was overtaken
		require.Equal(t, Unchanged, h.Renew(h.view))
		require.True(t, h.FinishResume(epoch, true))
		time.Sleep(length/2 + length/4)
		require.True(t, h.holds())
	})
}
