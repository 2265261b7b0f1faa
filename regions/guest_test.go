package regions

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestANodeThatMoreNodesOfItsRegionRejectThanCountStepsAside(t *testing.T) {
	says := func(w *world, id string, s State) {
		s.Up, s.Heard = true, true
		w.Health(w.now, id, s)
	}
	in, out := State{Counted: true}, State{Uncounted: true}

	w := newWorld(t, "eu-2", "eu-3", "us-1")
	says(w, "eu-2", out)
	require.True(t, w.Unwanted())
	says(w, "eu-3", in)
	require.False(t, w.Unwanted(), "one against, one for")
	says(w, "us-1", out)
	require.False(t, w.Unwanted(), "a node of another region has no say")
	w.StepAside(w.now)
	require.False(t, w.Topology().Guest)
	says(w, "eu-3", out)
	require.True(t, w.Unwanted())
	w.StepAside(w.now)
	require.False(t, w.Unwanted(), "already a guest")
	require.True(t, w.Topology().Guest)
	require.Equal(t, []string{"eu-2", "eu-3"}, w.home())

	says(w, "eu-2", in)
	require.False(t, w.Topology().Guest, "by itself")
	require.Equal(t, []string{"eu-1", "eu-2", "eu-3"}, w.home())

	says(w, "eu-2", out)
	w.StepAside(w.now)
	w.down("eu-2", "eu-3")
	require.False(t, w.Topology().Guest, "nobody is left who does not count it")
	require.Equal(t, []string{"eu-1"}, w.home())
}

func TestAGuestIsInNoTopologyAndStaysAMember(t *testing.T) {
	w := newWorld(t, "eu-2", "eu-3")
	w.Health(w.now, "eu-3", State{Up: true, Guest: true, Heard: true})
	require.Equal(t, []string{"eu-1", "eu-2"}, w.home())
	w.found(view("eu-1", "eu-2"))
	w.now = w.now.Add(2 * grace)
	require.Empty(t, w.Health(w.now, "eu-3", State{Up: true, Guest: true, Heard: true}).Left)
	require.Contains(t, w.members(), "eu-3")
	require.Equal(t, []string{"eu-3"}, w.down("eu-3"))
}

// Of nodes that do not count each other, exactly one does not leave.
func TestOneOfSeveralNodesThatDoNotCountEachOtherStays(t *testing.T) {
	all := []string{"eu-1", "eu-2", "eu-3"}
	for _, self := range all {
		m, err := NewMembers(node(self), 7, grace, 0)
		require.NoError(t, err)
		m.Found(0, view(all...))
		for _, id := range all {
			m.Health(0, id, State{Up: true, Heard: true, Uncounted: true})
		}
		m.Found(0, view(self)) // each lists only itself, and the others answer
		m.StepAside(0)
		require.Equal(t, self != "eu-1", m.Topology().Guest, self)
	}
}
