package expiry

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// drawName draws names of keys, tags and prefixes, mostly of bytes that subjects begin with.
func drawName() *rapid.Generator[string] {
	special := rapid.SampledFrom([]byte{0xff, 't', 'p', 'k', 'a'})
	few := rapid.SliceOfN(special, 0, 5)
	bytes := rapid.OneOf(few, few, rapid.SliceOf(rapid.Byte()))
	return rapid.Map(bytes, func(b []byte) string { return string(b) })
}

// Different keys, tags and prefixes are different subjects, whatever bytes they consist of.
func TestSubjectsAreDistinct(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawName().Draw(t, "a"), drawName().Draw(t, "b")
		require.Equal(t, a, Key(a).Key())
		require.False(t, Key(a).IsScope())
		require.True(t, Tag(a).IsScope())
		require.True(t, Prefix(a).IsScope())
		require.Equal(t, a == b, Key(a) == Key(b))
		require.Equal(t, a == b, Tag(a) == Tag(b))
		require.Equal(t, a == b, Prefix(a) == Prefix(b))
		require.NotEqual(t, Key(a), Tag(b))
		require.NotEqual(t, Key(a), Prefix(b))
		require.NotEqual(t, Tag(a), Prefix(b))
	})
	key := strings.Repeat("ada", 20)
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = len(Key(key)) }))
}

// A floor applies to its key, to the values with its tag, or to the keys with its prefix, and to nothing
// else, however similar the names are.
func TestFloorAppliesToItsSubjectOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := NewFloors(1000)
		keys, tags, prefixes := map[string]Stamp{}, map[string]Stamp{}, map[string]Stamp{}
		for g := range Generation(rapid.IntRange(1, 20).Draw(t, "writes")) {
			name, s := drawName().Draw(t, "name"), Removal(g+1)
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				f.Raise(Key(name), s, 0, 0)
				keys[name] = s
			case 1:
				f.Raise(Tag(name), s, 0, 0)
				tags[name] = s
			default:
				f.Raise(Prefix(name), s, 0, 0)
				prefixes[name] = s
			}
		}
		names := rapid.SliceOf(drawName()).Draw(t, "names")
		for _, floors := range []map[string]Stamp{keys, tags, prefixes} {
			for name := range floors {
				names = append(names, name, string(Tag(name)), string(Prefix(name)), string(Key(name)))
			}
		}
		noFloor := Removal(0)
		for _, name := range names {
			want := noFloor.Max(keys[name])
			for prefix, s := range prefixes {
				if strings.HasPrefix(name, prefix) {
					want = want.Max(s)
				}
			}
			require.Equal(t, want, f.Floor(name), "%q", name)
			require.Equal(t, want, f.FloorOf(Key(name)), "%q", name)
			require.Equal(t, noFloor.Max(tags[name]), f.FloorOf(Tag(name)), "%q", name)
			require.Equal(t, noFloor.Max(prefixes[name]), f.FloorOf(Prefix(name)), "%q", name)
			tagged := noFloor
			f.Visit(name, names, func(r RaisedFloor) bool {
				tagged = tagged.Max(r.Floor)
				return true
			})
			for _, tag := range names {
				want = want.Max(tags[tag])
			}
			require.Equal(t, want, tagged, "%q with tags", name)
		}
		floors, _, _ := f.Journal(0, 1000)
		require.Len(t, floors, len(keys)+len(tags)+len(prefixes))

		// Raising a subject below its own floor is late, whatever the floors of other subjects.
		for _, w := range floors {
			require.Equal(t, f.FloorOf(w.Subject), f.Raise(w.Subject, Removal(0), 0, 0))
		}
		// A node that receives the floors has the same ones.
		other := NewFloors(1000)
		for _, w := range floors {
			other.Raise(w.Subject, w.Floor, 0, 0)
		}
		for _, name := range names {
			for _, s := range []Subject{Key(name), Tag(name), Prefix(name)} {
				require.Equal(t, f.FloorOf(s), other.FloorOf(s), "%q", s)
			}
		}
	})
}
