package history

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// Options are the options of the group and of nodes that only histories about options set.
type Options struct {
	Writing      Writing
	StaleIfError time.Duration
	NegativeTTL  time.Duration // if it is not 0, some keys are absent at first
	OriginRegion string
	ReplicaLag   time.Duration // how far all origins but that of Home lag
	Policy       geocache.Policy
	MaxBytes     int64 // 0 is the default
	OddNames     bool  // keys and tags look like the cache's internal ones
	Snapshots    bool  // restarted nodes restore one
	Floors       int   // how many a node keeps of a group; 0 is the default
	Outbox       int64 // how many bytes may wait for a region; 0 is the default
	Outages      bool  // the origin is down now and then
}

// Writing is how writes get to the origin.
type Writing string

// The ways to write.
const (
	Never   Writing = ""        // only the cache has what is set
	Through Writing = "through" // before the cache has the write
	Behind  Writing = "behind"  // after the cache has the write
	Beside  Writing = "beside"  // callers write to the origin, and then remove the key from the cache
)

// shapeOptions draws the group's options.
func shapeOptions(c *Config, random *rand.Rand) {
	quiet(c, 12*time.Second)
	c.Regions = choose(random, []string{"eu"}, []string{"eu", "us"}, []string{"eu", "us"})
	c.Nodes = 2 + random.IntN(2)
	c.Home = "eu"
	c.TTL = choose(random, 4*time.Second, 10*time.Second, 10*time.Minute)
	c.Writes, c.Removes = 0.4, 0.4
	c.Think, c.OriginLag = 100*time.Millisecond, choose(random, 10*time.Millisecond, 500*time.Millisecond)
	c.RefreshAhead, c.Revalidate = min(c.RefreshAhead, c.TTL/2), min(c.Revalidate, c.TTL)
	maybe := func() bool { return random.IntN(3) == 0 }
	c.Writing = choose(random, Never, Through, Through, Behind, Beside, Beside)
	if maybe() {
		c.StaleIfError, c.Outages = c.TTL/2, true
	}
	if maybe() {
		c.NegativeTTL = c.TTL / 2
	}
	if maybe() {
		c.OriginRegion = choose(random, c.Regions...)
	}
	if len(c.Regions) > 1 && c.Writing != Never && c.Writing != Behind && random.IntN(2) == 0 {
		c.ReplicaLag, c.OriginRegion = choose(random, 200*time.Millisecond, 2*time.Second), ""
	}
	c.Policy = choose(random, geocache.S3FIFO, geocache.S3FIFO, geocache.LRU, geocache.LFU, geocache.FIFO)
	if maybe() {
		c.MaxBytes, c.Keys = 2000, 12
	}
	if maybe() {
		c.Floors = 1 + random.IntN(c.Keys)
	}
	if maybe() {
		c.Outbox = 50 + random.Int64N(500)
	}
	c.OddNames, c.Snapshots = maybe(), maybe()
	if c.Snapshots || maybe() {
		c.NodeFaults = 3 * time.Second
	}
	if maybe() {
		c.WorldFaults = 4 * time.Second
	}
}

// groupOptions returns the options of the group.
func groupOptions(c *Config) []geocache.GroupOption {
	opts := []geocache.GroupOption{
		geocache.WithRefreshAhead(c.RefreshAhead),
		geocache.WithStaleWhileRevalidate(c.Revalidate),
		geocache.WithStaleIfError(c.StaleIfError),
		geocache.WithNegativeTTL(c.NegativeTTL),
		geocache.WithOriginRegion(c.OriginRegion),
		geocache.WithHomeRegion(c.Home),
		geocache.WithOriginLag(c.ReplicaLag),
		geocache.WithPolicy(c.Policy),
	}
	if c.LoadTimeout > 0 {
		opts = append(opts, geocache.WithLoadTimeout(c.LoadTimeout))
	}
	if c.MaxBytes > 0 {
		opts = append(opts, geocache.WithMaxBytes(c.MaxBytes))
	}
	if c.Writing == Behind {
		opts = append(opts, geocache.WithWriteBehind(1<<20))
	}
	return opts
}

// WithLimits returns the option of nodes that remember little of writes, and know few nodes elsewhere. The tests
// of package geocache set it: the option is exported to them alone.
var WithLimits func(floors int, outbox int64, watched int) geocache.Option

// cacheOptions returns the options of the nodes.
func cacheOptions(c *Config) (opts []geocache.Option) {
	if WithLimits != nil {
		opts = append(opts, WithLimits(c.Floors, c.Outbox, c.Watched))
	}
	if c.Grace > 0 {
		opts = append(opts, geocache.WithGrace(c.Grace))
	}
	return opts
}

// keyOf returns the name of a key.
func (c *Config) keyOf(i int) string {
	if c.OddNames {
		return oddNames[i%len(oddNames)] + fmt.Sprint(i)
	}
	if i < 10 {
		return fmt.Sprintf("key-%d", i)
	}
	return fmt.Sprintf("key+%d", i) // no key is a prefix of another
}

// oddNames might be taken for something internal.
var oddNames = []string{"\xff", "\x00", "\xfft", "\xffp", "\xff\xff", "\x00\x00", "tag of ", "\xfftorigin"}

// isAbsent reports whether the origin has no value of the key at first.
func (c *Config) isAbsent(key string) bool { return c.NegativeTTL > 0 && len(key)%2 == 0 }

// optionFaults makes the origin fail for all, and removes things with odd names.
func (r *runner) optionFaults() {
	random := source(r.config.Seed, "options")
	for r.pauseFor(upTo(random, 3*time.Second)) {
		if r.config.OddNames {
			if g := pick(random, r.serving()); g != nil {
				r.oddRemoval(random, g)
			}
		}
		if r.config.Outages {
			r.c.Origin.Behave(testcluster.Failing(fmt.Errorf("the origin is down")))
			r.pauseFor(upTo(random, 3*time.Second))
			r.c.Origin.Behave(r.origin())
		}
	}
}
