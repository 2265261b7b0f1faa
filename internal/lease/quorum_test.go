package lease

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// sees sets the view of a table to one of others.
func (t *Table) sees(others ...string) {
	v := View{Hash: HashOf(uint64(len(others) + 1)), Others: others}
	t.Prepare(v)
	t.SetView(v.Hash)
}

func TestAMajorityOfWhatWasSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := table(7)
		table.sees("b", "c", "d", "e")
		require.False(t, table.Unconfirmed())
		table.sees("b", "c")
		require.False(t, table.Unconfirmed(), "three of five")
		table.sees("b")
		require.True(t, table.Unconfirmed(), "two of five")
		table.Ended("c")
		require.True(t, table.Unconfirmed(), "two of four are no majority")
		table.Pinged("d", 1, gone)
		require.False(t, table.Unconfirmed(), "d has left")
		table.sees("b", "d")
		table.sees()
		require.True(t, table.Unconfirmed(), "one of four")
	})
}

func TestWhatIsListedCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := table(7)
		table.sees()
		require.False(t, table.Unconfirmed(), "nobody else is listed")
		table.Listed([]string{"b", "c"})
		require.True(t, table.Unconfirmed(), "it has not reached them yet")
		table.sees("b")
		require.False(t, table.Unconfirmed())
		table.sees()
		table.Listed([]string{"b"})
		time.Sleep(9 * time.Second)
		table.Listed(nil)
		require.True(t, table.Unconfirmed(), "the discovery may have lost its data")
		time.Sleep(9 * time.Second)
		table.Listed([]string{"b"})
		time.Sleep(time.Hour)
		table.Listed([]string{"b"})
		require.True(t, table.Unconfirmed(), "it is listed again")
		table.Listed(nil)
		time.Sleep(10 * time.Second)
		table.Listed(nil)
		require.False(t, table.Unconfirmed(), "the grace period is over")

		table.Listed([]string{"b"})
		table.Ended("b")
		table.Listed([]string{"b"})
		require.False(t, table.Unconfirmed(), "it is still listed, and has ended all the same")
		table.sees("b")
		table.sees()
		require.True(t, table.Unconfirmed(), "it had come back")
	})
}

func TestBeforeTheDiscoveryHasSaidWhoIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := New(Config{Length: length, Discovers: true})
		table.sees()
		require.True(t, table.Unconfirmed())
		require.False(t, table.LacksMajority(), "which says nothing of others")
		table.Found()
		require.False(t, table.Unconfirmed())
	})
}

// A node that has just come goes by what the others say.
func TestANewcomerInAPartWithoutAMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHolder("a")
		h.Prepare(h.view)
		h.peers["a"].Ponged(h.Ping(), Answer{NoMajority: true})
		h.Renew(h.view)
		require.True(t, h.Unconfirmed())
		h.peers["a"].Ponged(h.Ping(), Answer{Lease: length})
		h.Renew(h.view)
		require.False(t, h.Unconfirmed(), "it has a majority now")
		h.peers["a"].Ponged(h.Ping(), Answer{NoMajority: true})
		h.Renew(h.view)
		require.False(t, h.Unconfirmed(), "by now this node knows as much")
	})
}

// However the network divides a region while nodes come, and in whatever order they notice, no two nodes that
// do not see each other's parts both see a majority. The discovery lists those that come to all.
func TestTwoPartsAreNeverBothConfirmed(t *testing.T) {
	divided, confirmed := 0, 0
	for seed := range uint64(3000) {
		random := rand.New(rand.NewPCG(seed, 1))
		type member struct {
			*Table
			id   string
			part int      // of the network
			view []string // what it sees
		}
		var all []*member
		join := func() {
			m := &member{Table: table(7), id: fmt.Sprint(len(all)), part: random.IntN(2)}
			for _, other := range all {
				if other.part == m.part {
					m.view = append(m.view, other.id)
				}
			}
			all = append(all, m)
			for _, other := range all {
				var listed []string
				for _, n := range all {
					if n != other {
						listed = append(listed, n.id)
					}
				}
				other.Listed(listed)
			}
			m.sees(m.view...)
		}
		for range 1 + random.IntN(4) {
			join()
		}
		for range 60 {
			switch m := all[random.IntN(len(all))]; random.IntN(6) {
			case 0:
				if len(all) < 8 {
					join()
				}
			case 1: // the network divides, or heals
				whole := random.IntN(2) == 0
				for _, m := range all {
					if m.part = random.IntN(2); whole {
						m.part = 0
					}
				}
			case 2: // all of its part hold the same view
				same := true
				for _, other := range all {
					if other != m && slices.Contains(m.view, other.id) {
						same = same && len(other.view) == len(m.view) && slices.Contains(other.view, m.id) &&
							!slices.ContainsFunc(other.view, func(id string) bool { return id != m.id && !slices.Contains(m.view, id) })
					}
				}
				m.quorum.ponged(same, false)
			default: // it notices who is there
				m.view = nil
				for _, other := range all {
					if other != m && other.part == m.part {
						m.view = append(m.view, other.id)
					}
				}
				m.sees(m.view...)
			}
			for i, a := range all {
				for _, b := range all[:i] {
					apart := a.part != b.part && !slices.ContainsFunc(append(b.view, b.id), func(id string) bool {
						return id == a.id || slices.Contains(a.view, id)
					})
					if !apart {
						continue
					}
					divided++
					if !a.Unconfirmed() {
						confirmed++
						require.True(t, b.Unconfirmed(), "seed %d: %s sees %v, %s sees %v", seed, a.id, a.view, b.id, b.view)
					}
				}
			}
		}
	}
	t.Logf("%d times two nodes were apart, %d times the first one saw a majority", divided, confirmed)
	require.Greater(t, confirmed, 1000)
}
