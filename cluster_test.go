package geocache_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

func TestLocate(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us", "ap"}}, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "us", 80*time.Millisecond)
		time.Sleep(time.Minute) // round trips are measured anew
		want := c.Node("eu-1").Group.Locate("ada")
		require.Len(t, want, 3)
		for i, region := range []string{"eu", "ap", "us"} {
			l := want[i]
			require.Equal(t, region, l.Region, "home first, then the nearest")
			require.Equal(t, region, l.Owner.Region)
			require.Equal(t, region, l.Successor.Region)
			require.NotEqual(t, l.Owner, l.Successor)
		}
		require.InDelta(t, 80*time.Millisecond, want[1].Distance, float64(time.Millisecond))
		require.InDelta(t, 160*time.Millisecond, want[2].Distance, float64(time.Millisecond))
		for _, n := range c.Nodes() {
			for _, l := range n.Group.Locate("ada") {
				for _, w := range want {
					if w.Region == l.Region {
						require.Equal(t, w.Owner, l.Owner, "as seen by %s", n.Name)
						require.Equal(t, w.Successor, l.Successor, "as seen by %s", n.Name)
					}
				}
			}
		}

		c.Node(want[0].Owner.ID).Close()
		c.Settle()
		for _, n := range c.Nodes("eu") {
			require.Equal(t, want[0].Successor, n.Group.Locate("ada")[0].Owner)
		}
	})
	alone(t, ada, nil, func(t *testing.T, g *geocache.Group[string]) {
		locations := g.Locate("ada")
		require.Len(t, locations, 1)
		require.Equal(t, "alone", locations[0].Owner.ID)
		require.Zero(t, locations[0].Successor)
	})
}

func TestCopies(t *testing.T) {
	for share, want := range map[float64]geocache.Source{0: geocache.SourceOwner, 0.5: geocache.SourceStore} {
		t.Run(fmt.Sprint(share), func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{Group: []geocache.GroupOption{geocache.WithCopyShare(share)}}, func(c *testcluster.Cluster) {
				key := c.KeyOf("eu-2")
				require.Equal(t, geocache.SourceGetter, c.Node("eu-1").MustGet(key).Source)
				require.Equal(t, want, c.Node("eu-1").MustGet(key).Source)
				require.Equal(t, geocache.SourceStore, c.Node("eu-2").MustGet(key).Source)
				require.Equal(t, geocache.SourceOwner, c.Node("eu-3").MustGet(key).Source)
				require.Equal(t, want, c.Node("eu-3").MustGet(key).Source)
				require.Equal(t, 1, c.Origin.Loads(key))

				s := c.Node("eu-1").Group.Stats()
				require.Equal(t, share > 0, s.Copies == 1 && s.Entries == 1 && s.CopyBytes > 0 && s.CopyBytes == s.Bytes)
				require.Zero(t, c.Node("eu-2").Group.Stats().Copies)
			})
		})
	}
}

func TestCopiesKeepToTheirShare(t *testing.T) {
	const most = 64 << 10
	testcluster.Run(t, testcluster.Config{
		Group: []geocache.GroupOption{geocache.WithMaxBytes(most), geocache.WithCopyShare(0.25)},
	}, func(c *testcluster.Cluster) {
		for _, key := range keys(1000) {
			c.Node("eu-1").MustGet(key)
			s := c.Node("eu-1").Group.Stats()
			require.LessOrEqual(t, s.Bytes, int64(most))
			require.LessOrEqual(t, s.CopyBytes, int64(most/4))
		}
		require.Positive(t, c.Node("eu-1").Group.Stats().Evicted)
	})
}

// An item lives no longer where it is a copy, and is not younger there.
func TestCopiesExpireWithTheirOwners(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "eu", 100*time.Millisecond)
		key := c.KeyOf("eu-2")
		owner := c.Node("eu-2").MustGet(key)
		time.Sleep(10 * time.Second)
		item := c.Node("eu-1").MustGet(key)
		require.Equal(t, owner.Generation, item.Generation)
		require.GreaterOrEqual(t, item.Age, 10*time.Second+200*time.Millisecond)
		require.Less(t, item.Age, 10*time.Second+301*time.Millisecond, "the way back counts, at most twice")
		require.False(t, item.Expires.After(owner.Expires))
	})
}

func TestEveryReadIsCountedOnce(t *testing.T) {
	testcluster.Run(t, testcluster.Config{
		Regions: []string{"eu", "us"},
		TTL:     2 * time.Second,
		Group:   []geocache.GroupOption{geocache.WithStaleIfError(3 * time.Second)},
	}, func(c *testcluster.Cluster) {
		random := rand.New(rand.NewPCG(1, 2))
		want := map[string]*geocache.GroupStats{}
		for _, n := range c.Nodes() {
			want[n.Name] = &geocache.GroupStats{}
		}
		count := func(s *geocache.GroupStats, item geocache.Item[string], err error) {
			switch {
			case errors.Is(err, geocache.ErrNotFound):
				s.NotFound++
			case err != nil:
				s.Errors++
			default:
				*map[geocache.Source]*uint64{
					geocache.SourceStore: &s.Store, geocache.SourceOwner: &s.Owner, geocache.SourceRegion: &s.Region,
					geocache.SourceGetter: &s.Getter, geocache.SourceStale: &s.Stale,
				}[item.Source]++
			}
		}
		for i := range 3000 {
			switch i {
			case 1000:
				c.Origin.Behave(testcluster.Failing(errors.New("down")), "eu")
			case 1500:
				c.Origin.Behave(testcluster.Failing(errors.New("down")))
			case 2500:
				c.Origin.Behave(testcluster.Failing(geocache.ErrNotFound))
			}
			n := c.Nodes()[random.IntN(6)]
			item, err := n.Get(fmt.Sprintf("key-%d", random.IntN(20)))
			count(want[n.Name], item, err)
			time.Sleep(5 * time.Millisecond)
		}
		var all geocache.GroupStats
		for _, n := range c.Nodes() {
			s, w := n.Group.Stats(), want[n.Name]
			require.Equal(t, s, n.Cache.Stats().Groups["test"])
			require.Equal(t, [...]uint64{w.Store, w.Owner, w.Region, w.Getter, w.Stale, w.NotFound, w.Errors},
				[...]uint64{s.Store, s.Owner, s.Region, s.Getter, s.Stale, s.NotFound, s.Errors}, n.Name)
			require.Equal(t, w.Reads(), s.Reads())
			require.InDelta(t, float64(s.Store+s.Owner)/float64(w.Reads()), s.HitRatio(), 1e-9)
			require.LessOrEqual(t, s.LoadErrors, s.Loads)
			all.Store += s.Store
			all.Owner += s.Owner
			all.Region += s.Region
			all.Getter += s.Getter
			all.Stale += s.Stale
			all.NotFound += s.NotFound
			all.Errors += s.Errors
			all.Loads += s.Loads
		}
		require.EqualValues(t, 3000, all.Reads())
		require.EqualValues(t, c.Origin.Total(), all.Loads)
		for _, n := range []uint64{all.Store, all.Owner, all.Region, all.Getter, all.Stale, all.NotFound, all.Errors} {
			require.Positive(t, n, "the test has seen everything: %+v", all)
		}
	})
}

func TestSourcesHaveNames(t *testing.T) {
	for s, want := range map[geocache.Source]string{
		geocache.SourceStore: "store", geocache.SourceOwner: "owner", geocache.SourceRegion: "region",
		geocache.SourceGetter: "getter", geocache.SourceStale: "stale", 0: "unknown", 99: "unknown",
	} {
		require.Equal(t, want, s.String())
	}
}
