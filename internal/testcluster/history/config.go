package history

import (
	"hash/fnv"
	"io"
	"math/rand/v2"
	"time"

	"github.com/geocache/geocache/internal/testcluster/network/mangle"
)

// Config is what a history is made of.
type Config struct {
	Seed     uint64
	Theme    Theme
	Regions  []string
	Nodes    int    // in each region, at the beginning
	Newcomer string // a region that is in Regions and that the others do not know of at the beginning
	TTL      time.Duration
	Length   time.Duration // of the time with faults

	Keys      int
	Callers   int           // on each node
	Think     time.Duration // between two calls of a caller, on average
	Writes    float64       // the share of calls that write
	Clears    float64       // the share of writes that are a Clear
	OriginLag time.Duration // the most that a load takes
	MaxOffset time.Duration // the most that a node's clock is off, either way
	Mangle    mangle.Rates

	// RefreshAhead and Revalidate are options of the group.
	RefreshAhead, Revalidate time.Duration

	// NodeFaults is the average time between two faults in a region, and
	// WorldFaults of those between regions and of the directory. 0 is never.
	NodeFaults, WorldFaults time.Duration

	// Home is the home region of the counters; if it is empty each has one of its own.
	// StableHome has no faults in it.
	Home       string
	StableHome bool
	// Counters is how many there are, and Counting the share of calls that are about them. With
	// LookAside the origin knows nothing of them.
	Counters  int
	Counting  float64
	LookAside bool
	// Removes is the share of writes that remove one key, and Updating of calls that update one, with
	// a function that takes up to UpdateTime.
	Removes, Updating float64
	UpdateTime        time.Duration
	// WorldAcks is the share of writes that wait for the world, and ReadBeforeSet that of the Sets
	// whose caller has read the key just before.
	WorldAcks, ReadBeforeSet float64
	Options
	// LoadTimeout is the group's; 0 is the default. Cut is for how long regions are cut off from
	// each other in a history about that.
	LoadTimeout, Cut time.Duration
	// Grace is that of a node that is not listed any more; 0 is the default.
	Grace time.Duration
	// Rash faults leave no time to recover from those before.
	Rash bool
	// Latency is how long data takes within a region; 0 is the network's default.
	Latency time.Duration
}

// ConfigOf returns the scenario of a seed. theme is its theme, if it is not empty.
func ConfigOf(seed uint64, theme Theme) Config {
	c := mixed(seed)
	if theme == "" {
		theme = themeOf(seed)
	}
	if c.Theme = theme; themes[theme].shape != nil {
		themes[theme].shape(&c, source(seed, "theme "+string(theme)))
	}
	return c
}

// mixed returns the scenario with a bit of everything.
func mixed(seed uint64) Config {
	random := source(seed, "config")
	some := func(choices ...time.Duration) time.Duration { return choices[random.IntN(len(choices))] }
	c := Config{
		Seed:      seed,
		Regions:   []string{"eu", "us", "ap"}[:1+random.IntN(3)],
		TTL:       some(10*time.Second, 30*time.Second, 10*time.Minute),
		Length:    18 * time.Second,
		Keys:      2 + random.IntN(4),
		Callers:   1 + random.IntN(2),
		Think:     some(100*time.Millisecond, 300*time.Millisecond),
		Writes:    []float64{0.05, 0.2, 0.5}[random.IntN(3)],
		Clears:    []float64{0, 0.02, 0.1}[random.IntN(3)],
		OriginLag: some(10*time.Millisecond, 300*time.Millisecond, 3*time.Second),
		MaxOffset: some(0, 50*time.Millisecond, 250*time.Millisecond),
		Counters:  2,
		Counting:  0.125,
		WorldAcks: 0.1,
		Removes:   0.25,
	}
	switch strategies := source(seed, "strategies"); strategies.IntN(4) {
	case 0:
		c.RefreshAhead = c.TTL - c.TTL/8 // nearly always
	case 1:
		c.Revalidate = c.TTL / 2
	case 2:
		c.RefreshAhead, c.Revalidate = c.TTL/2, c.TTL
	}
	// Many nodes ping each other a lot, which is what a run costs.
	c.Nodes = 2 + random.IntN(4-len(c.Regions)) + random.IntN(4)/3
	if random.IntN(2) == 0 {
		c.Mangle = mangle.Rates{Lose: 0.01, Duplicate: 0.02, Delay: 0.1}
	}
	if random.IntN(10) > 0 {
		c.NodeFaults = some(2*time.Second, 5*time.Second)
	}
	if random.IntN(3) > 0 {
		c.WorldFaults = some(3*time.Second, 8*time.Second)
	}
	c.Home = c.Regions[random.IntN(len(c.Regions))]
	c.Rash = source(seed, "rash").IntN(2) == 0
	c.StableHome = c.NodeFaults == 0 || random.IntN(3) == 0
	if c.StableHome {
		// To a node whose request is lost the owner is gone: it loads by itself, and
		// the origin knows nothing of counters.
		c.Mangle.Lose = 0
	}
	return c
}

// source returns random numbers that depend on the seed and on what they are for,
// so that what one part draws does not change what others do.
func source(seed uint64, what string) *rand.Rand {
	h := fnv.New64a()
	io.WriteString(h, what)
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}
