package regions

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

// regionOf returns the IDs of n nodes of a region.
func regionOf(region string, n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprintf("%s-%03d", region, i+1))
	}
	return ids
}

// A node watches all of its own region, and a dozen of all others, but three of each at least.
func TestWatchedAreFew(t *testing.T) {
	for _, test := range []struct{ regions, nodes, wanted int }{
		{1, 5, 5}, {1, 12, 12}, {1, 100, 12}, {2, 6, 6}, {2, 40, 6}, {4, 3, 3}, {4, 200, 3}, {9, 20, 3},
	} {
		w := newWorld(t)
		all := append(regionOf("eu", 30), "eu-1")
		for i := range test.regions {
			all = append(all, regionOf(fmt.Sprintf("r%d", i), test.nodes)...)
		}
		require.True(t, w.found(view(all...)).Rewatched)
		watched := ids(w.Watched())
		w.up(all...)
		require.Equal(t, watched, ids(w.Watched()), "all of them answer")
		require.Len(t, w.members(), len(all)-1)
		require.Len(t, watched, 30+test.regions*test.wanted, "%v", test)
		require.Len(t, w.home(), 31)
		for i := range test.regions {
			r := w.Topology().Region(fmt.Sprintf("r%d", i))
			require.Len(t, r.Nodes, test.wanted)
			require.Subset(t, watched, ids(r.Nodes))
		}
		require.False(t, w.found(view(all...)).Rewatched)
	}
}

// The nodes of a region choose apart from each other, so each node elsewhere is watched by some of them.
func TestWatchersAreSpread(t *testing.T) {
	const nodes = 200
	theirs := view(slices.Concat(
		regionOf("r1", nodes), regionOf("r2", nodes), regionOf("r3", nodes), regionOf("r4", nodes))...)
	watchers := map[string]int{}
	for _, self := range regionOf("eu", nodes) {
		m, err := NewMembers(node(self), 7, grace, 0)
		require.NoError(t, err)
		m.Found(0, theirs)
		for _, n := range m.Watched() {
			watchers[n.ID]++
		}
	}
	alone := 0
	for _, n := range theirs.Nodes {
		require.LessOrEqual(t, watchers[n.ID], 12, "a mean of 3")
		if watchers[n.ID] == 0 {
			alone++
		}
	}
	require.Less(t, alone, len(theirs.Nodes)/10)
}

// While those that are watched are of no use, others are watched as well, but not all.
func TestWatchedAreReplaced(t *testing.T) {
	us := regionOf("us", 100)
	w := newWorld(t)
	w.WatchAtMost(3)
	w.found(view(append(us, "eu-1")...))
	watched := func() []string { return ids(w.Watched()) }
	remote := func() []string { return ids(w.Topology().Region("us").Nodes) }
	first := watched()
	require.Len(t, first, 3)
	for _, useless := range []State{
		{Tried: true},
		{Tried: true, Up: true, Guest: true},
		{Tried: true, Up: true, Minority: true},
	} {
		w.up(watched()...)
		require.Equal(t, first, remote())

		change := w.Health(w.now, first[0], useless)
		require.True(t, change.Rewatched)
		require.Len(t, watched(), 4)
		require.Subset(t, watched(), first)
		w.up(slices.DeleteFunc(watched(), func(id string) bool { return id == first[0] })...)
		require.True(t, w.Health(w.now, first[0], State{Up: true, Tried: true}).Rewatched, "it answers again")
		require.Equal(t, first, watched())
		require.Equal(t, first, remote(), "what the other one said does not count any more")
	}

	require.True(t, w.MayStand("us"))
	down := func(string) State { return State{Tried: true} }
	for range 10 {
		w.Tick(w.now, down)
	}
	require.Len(t, watched(), 12, "the whole region is away")
	require.Nil(t, w.Topology().Region("us"))
	require.False(t, w.MayStand("us"))
	w.up(us...)
	require.Equal(t, first, remote())
	require.Equal(t, first, watched())
}

// A node that the discovery no longer lists is forgotten at once if it is not watched, and a watched one that
// leaves is replaced.
func TestUnlistedAreNotWatched(t *testing.T) {
	us := regionOf("us", 20)
	w := newWorld(t)
	w.WatchAtMost(2)
	w.found(view(append(us, "eu-1")...))
	watched := ids(w.Watched())
	w.up(watched...)
	require.False(t, w.found(view(append(watched, "eu-1")...)).Rewatched)
	require.Equal(t, watched, w.members())

	w.found(view(append(us, "eu-1")...))
	rest := slices.DeleteFunc(slices.Clone(us), func(id string) bool { return id == watched[0] })
	w.found(view(append(rest, "eu-1")...))
	require.Equal(t, watched, ids(w.Watched()), "it answers, and may be listed again")
	w.now = w.now.Add(grace)
	change := w.Tick(w.now, func(string) State { return State{Up: true, Tried: true} })
	require.Equal(t, watched[:1], ids(change.Left))
	require.True(t, change.Rewatched)
	require.Len(t, w.Watched(), 2)
	require.Contains(t, ids(w.Watched()), watched[1])
}

// A choice does not depend on what else there is: nodes that come replace few.
func TestWatchedStay(t *testing.T) {
	m, err := NewMembers(node("eu-1"), 7, grace, 0)
	require.NoError(t, err)
	all := append(regionOf("us", 100), "eu-1")
	m.Found(expiry.Instant(0), view(all[1:]...))
	before := ids(m.Watched())
	m.Found(expiry.Instant(0), view(all...))
	stay := slices.DeleteFunc(ids(m.Watched()), func(id string) bool { return !slices.Contains(before, id) })
	require.GreaterOrEqual(t, len(stay), len(before)-1)
}
