package history

import (
	"hash/fnv"
	"io"
	"math/rand/v2"
	"time"

	"github.com/geocache/geocache/internal/testcluster/network/mangle"
)

// Config describes a history.
type Config struct {
	Seed     uint64
	Theme    Theme
	Regions  []string
	Nodes    int    // in each region, at first
	Newcomer string // a region in Regions that the others do not know of at first
	TTL      time.Duration
	Length   time.Duration // how long there are faults

	Keys      int
	Callers   int           // on each node
	Think     time.Duration // mean pause between two calls of a caller
	Writes    float64       // share of the calls
	Clears    float64       // share of the writes
	OriginLag time.Duration // the longest that a load takes
	MaxOffset time.Duration // the most that a node's clock is off, in either direction
	Mangle    mangle.Rates

	// RefreshAhead and Revalidate are options of the group.
	RefreshAhead, Revalidate time.Duration

	// NodeFaults is the mean time between two faults in a region, and WorldFaults that between two
	// faults of the links between regions or of the directory. 0 means never.
	NodeFaults, WorldFaults time.Duration

	// Home is the home region of the counters; if it is empty, each has one of its own. With
	// StableHome there are no faults in it.
	Home       string
	StableHome bool
	// Counters is the number of counters, and Counting the share of the calls that use them. With
	// LookAside the origin does not have them.
	Counters  int
	Counting  float64
	LookAside bool
	// Removes is the share of the writes that remove one key. Updating is the share of the calls
	// that update one, with a function that takes up to UpdateTime.
	Removes, Updating float64
	UpdateTime        time.Duration
	// WorldAcks is the share of the writes that wait for all regions, and ReadBeforeSet that of the
	// Sets whose caller has read the key just before.
	WorldAcks, ReadBeforeSet float64
	Options
	// LoadTimeout is the group's; 0 is the default. Cut is how long regions are cut off from each
	// other, in histories about that.
	LoadTimeout, Cut time.Duration
	// Grace is the grace period of nodes that are no longer listed; 0 is the default.
	Grace time.Duration
	// Rash faults leave no time to recover from earlier ones.
	Rash bool
	// Latency is the latency within a region; 0 is the network's default.
	Latency time.Duration
	// Watched is how many nodes of each other region a node is connected to; 0 is the default.
	Watched int
}

// ConfigOf returns the scenario of a seed, with this theme if it is not empty.
func ConfigOf(seed uint64, theme Theme) Config {
	c := mixed(seed)
	if theme == "" {
		theme = themeOf(seed)
	}
	if c.Theme = theme; themes[theme].shape != nil {
		themes[theme].shape(&c, source(seed, "theme "+string(theme)))
	}
	if watched := source(seed, "watched"); watched.IntN(2) == 0 {
		c.Watched = 1 + watched.IntN(2) // then the node that another region asks is rarely the key's owner
	}
	return c
}

// mixed returns the scenario of a mixed history.
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
		c.RefreshAhead = c.TTL - c.TTL/8 // nearly all the time
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
		// A node whose request is lost takes the owner for dead and loads by itself, and the origin
		// does not have the counters' values.
		c.Mangle.Lose = 0
	}
	return c
}

// source returns random numbers that depend on the seed and on what they are for, so that draws for
// one purpose do not change those for others.
func source(seed uint64, what string) *rand.Rand {
	h := fnv.New64a()
	io.WriteString(h, what)
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}
