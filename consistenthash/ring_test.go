package consistenthash

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"
	"pgregory.net/rapid"
)

// equal returns n members of weight 1.
func equal(n int) []Member {
	members := make([]Member, n)
	for i := range members {
		members[i] = Member{ID: fmt.Sprintf("node-%04d", i), Weight: 1}
	}
	return members
}

func newRing(t require.TestingT, seed uint64, members ...Member) *Ring {
	r, err := New(seed, members...)
	require.NoError(t, err)
	return r
}

func owner(t require.TestingT, r *Ring, key string) string {
	id, ok := r.Owner(key)
	require.True(t, ok)
	return id
}

func weight(t *rapid.T) float64 {
	return rapid.OneOf(rapid.Just(0.0), rapid.Float64Range(MinWeight, 2)).Draw(t, "weight")
}

// draw draws a seed, members with distinct IDs, and keys.
func draw(t *rapid.T, minMembers int) (seed uint64, members []Member, keys []string) {
	ids := rapid.SliceOfNDistinct(rapid.StringN(1, 12, -1), minMembers, 6, rapid.ID).Draw(t, "ids")
	for _, id := range ids {
		members = append(members, Member{ID: id, Weight: weight(t)})
	}
	keys = append(rapid.SliceOfN(rapid.String(), 1, 10).Draw(t, "keys"), sample[:50]...)
	return rapid.Uint64().Draw(t, "seed"), members, keys
}

var sample = func() []string {
	keys := make([]string, 10_000)
	for i := range keys {
		keys[i] = fmt.Sprintf("key-%d", i)
	}
	return keys
}()

// referenceOwners is a naive implementation of Owners for all members: it sorts all points and walks them
// from the start of the key's slot.
func referenceOwners(seed uint64, members []Member, keys []string) [][]string {
	type point struct {
		position uint32
		id       string
	}
	var points []point
	for _, m := range members {
		if m.Weight == 0 {
			m.Weight = 1
		}
		for position := range m.positions(seed) {
			points = append(points, point{position, m.ID})
		}
	}
	slices.SortFunc(points, func(a, b point) int {
		return cmp.Or(cmp.Compare(a.position, b.position), cmp.Compare(a.id, b.id))
	})
	owners := make([][]string, len(keys))
	for k, key := range keys {
		position := uint32(xxh3.HashStringSeed(key, seed)>>(64-slotBits)) << (32 - slotBits)
		i, _ := slices.BinarySearchFunc(points, position, func(p point, position uint32) int {
			return cmp.Compare(p.position, position)
		})
		for i > 0 && points[i-1].position == position {
			i--
		}
		for ; len(owners[k]) < len(members); i++ {
			if id := points[i%len(points)].id; !slices.Contains(owners[k], id) {
				owners[k] = append(owners[k], id)
			}
		}
	}
	return owners
}

// requireReferenceOwners checks the ring of members against referenceOwners.
func requireReferenceOwners(t require.TestingT, seed uint64, members []Member, keys []string) {
	r := newRing(t, seed, members...)
	for i, want := range referenceOwners(seed, members, keys) {
		require.Equal(t, want[0], owner(t, r, keys[i]))
		require.Equal(t, want, r.Owners(keys[i], len(members)))
	}
}

func TestOwnersMatchReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed, members, keys := draw(t, 1)
		requireReferenceOwners(t, seed, members, keys)
	})
}

// A ring this large has a table of owners.
func TestLargeRingMatchesReference(t *testing.T) {
	members := equal(150)
	members[70].Weight = 0.01
	members[80].Weight = MaxWeight
	requireReferenceOwners(t, 3, members, sample[:500])
}

func TestOrderOfMembersDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed, members, keys := draw(t, 2)
		a := newRing(t, seed, members...)
		b := newRing(t, seed, rapid.Permutation(members).Draw(t, "permutation")...)
		require.Equal(t, a.members, b.members)
		for _, key := range keys {
			require.Equal(t, a.Owners(key, len(members)), b.Owners(key, len(members)))
		}
	})
}

func TestOwnersAreDistinctAndComplete(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed, members, keys := draw(t, 0)
		r := newRing(t, seed, members...)
		n := rapid.IntRange(-1, len(members)+2).Draw(t, "n")
		for _, key := range keys {
			all := r.Owners(key, len(members))
			require.Len(t, all, len(members))
			for _, m := range members {
				require.Contains(t, all, m.ID)
			}
			some := r.Owners(key, n)
			require.Len(t, some, max(0, min(n, len(all))))
			want := append([]string{"before"}, all[:len(some)]...)
			require.Equal(t, want, append([]string{"before"}, some...))
			require.Equal(t, want, r.appendOwners([]string{"before"}, key, n))
		}
	})
}

func TestSuccessorOwnsKeyOnceOwnerIsGone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed, members, keys := draw(t, 2)
		r := newRing(t, seed, members...)
		without := make(map[string]*Ring)
		for i, m := range members {
			without[m.ID] = newRing(t, seed, slices.Delete(slices.Clone(members), i, i+1)...)
		}
		for _, key := range keys {
			owners := r.Owners(key, len(members))
			require.Equal(t, owners[1:], without[owners[0]].Owners(key, len(members)))
		}
	})
}

// A leave is the reverse of a join, and a lowered weight the reverse of a raised one, so this covers all
// four.
func TestMembersThatStayExchangeNoKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed, members, keys := draw(t, 1)
		before := newRing(t, seed, members...)

		gains := "the member that joins"
		if rapid.Bool().Draw(t, "join") {
			members = append(members, Member{ID: gains, Weight: weight(t)})
		} else {
			m := &members[rapid.IntRange(0, len(members)-1).Draw(t, "raised")]
			gains = m.ID
			m.Weight = rapid.Float64Range(max(m.Weight, 1), max(m.Weight, 4)).Draw(t, "raised weight")
		}
		after := newRing(t, seed, members...)

		for _, key := range keys {
			if was, is := owner(t, before, key), owner(t, after, key); was != is {
				require.Equal(t, gains, is)
			}
		}
	})
}

func TestSeedChangesPlacement(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seeds := rapid.SliceOfNDistinct(rapid.Uint64(), 2, 2, rapid.ID).Draw(t, "seeds")
		a, b := newRing(t, seeds[0], equal(10)...), newRing(t, seeds[1], equal(10)...)
		same := 0
		for _, key := range sample[:1000] {
			if owner(t, a, key) == owner(t, b, key) {
				same++
			}
		}
		require.InDelta(t, 100, same, 60, "keys of 1,000 that have the same owner of 10 by chance")
	})
}

// All nodes of a cluster must place keys alike, whether they run an old release or a new one. If this test
// fails, the change needs a new major version.
func TestPlacementIsStableAcrossReleases(t *testing.T) {
	weighted := []Member{{"a", 0.01}, {"b", 0.5}, {"c", 0}, {"d", 2.34}, {"ж", 7}}
	r := newRing(t, 42, weighted...)
	require.Equal(t, []string{"d", "ж", "c", "b", "a"}, r.Owners("", 5))
	require.Equal(t, []string{"ж", "d", "b", "c", "a"}, r.Owners("ada", 5))
	const long = "https://example.org/a/rather/long/key?of=more&than=sixteen#bytes"
	require.Equal(t, []string{"ж", "c", "d", "b", "a"}, r.Owners(long, 5))

	for _, test := range []struct {
		members []Member
		seed    uint64
		digest  uint64
	}{
		{weighted, 0, 0xb141b43da2ae76b4},
		{weighted, math.MaxUint64, 0x22f5e8caa220ac50},
		{equal(10), 42, 0xab8f0b35a9a969e9},
		{equal(100), 42, 0x182bae0a149869d0},
	} {
		r := newRing(t, test.seed, test.members...)
		h := xxh3.New()
		for _, key := range sample {
			for _, id := range r.Owners(key, 3) {
				_, _ = h.WriteString(id)
			}
		}
		require.Equal(t, test.digest, h.Sum64(), "%d members, seed %d", len(test.members), test.seed)
	}
}

func TestEmptyRing(t *testing.T) {
	for _, r := range []*Ring{new(Ring), newRing(t, 1)} {
		_, ok := r.Owner("key")
		require.False(t, ok)
		require.Empty(t, r.Owners("key", 3))
		require.Empty(t, r.members)
		require.Empty(t, r.Shares())
	}
}

func TestNewDoesNotRetainItsArguments(t *testing.T) {
	members := []Member{{ID: "b"}, {ID: "a", Weight: 2}}
	r := newRing(t, 1, members...)
	require.Equal(t, []Member{{"b", 0}, {"a", 2}}, members)
	members[0].ID = "x"
	require.Equal(t, []Member{{"a", 2}, {"b", 1}}, r.members)
}

func TestNewReportsEveryMistake(t *testing.T) {
	_, err := New(1,
		Member{ID: "twice"}, Member{ID: "fine"}, Member{ID: ""}, Member{ID: ""},
		Member{ID: "twice"},
		Member{ID: "nan", Weight: math.NaN()}, Member{ID: "negative", Weight: -1},
		Member{ID: "none", Weight: 0.001},
		Member{ID: "infinite", Weight: math.Inf(1)}, Member{ID: "heavy", Weight: 100.1})
	require.EqualError(t, err, `consistenthash: member 3 of 10 has an empty ID
consistenthash: member 4 of 10 has an empty ID
consistenthash: member "nan" has weight NaN, must be from 0.01 to 100
consistenthash: member "negative" has weight -1, must be from 0.01 to 100
consistenthash: member "none" has weight 0.001, must be from 0.01 to 100
consistenthash: member "infinite" has weight +Inf, must be from 0.01 to 100
consistenthash: member "heavy" has weight 100.1, must be from 0.01 to 100
consistenthash: member "twice" appears more than once`)

	_, err = New(1, equal(maxMembers+1)...)
	require.EqualError(t, err, `consistenthash: 65537 members, the limit is 65536
consistenthash: the weights add up to 65537, the limit is 10000`)
}

func TestLookupsDoNotAllocate(t *testing.T) {
	for _, n := range []int{10, 100} {
		r := newRing(t, 1, equal(n)...)
		dst := make([]string, 0, 3)
		require.Zero(t, testing.AllocsPerRun(100, func() {
			r.Owner("key")
			r.appendOwners(dst, "key", 3)
		}))
	}
}
