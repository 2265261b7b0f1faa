package testcluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/geocache/geocache"
)

// An Origin is what the nodes' getters load from. By default it has every key and answers at once.
// Its values say when their load began. Its methods are safe for concurrent use.
type Origin struct {
	now func() time.Time // see Cluster.Now

	mu      sync.Mutex // guards the following
	loads   map[string]int
	region  map[string]int // loads by region
	running int
	behave  map[string]Getter // by region
	log     []*Load
	truth   map[string][]Version // by key: all versions from 1 on; see truth.go
	absent  func(key string) bool
	primary string        // the region whose origin does not lag
	lag     time.Duration // of all other origins
	blocked chan struct{} // closed by Unblock
}

// A Getter is how the origin behaves towards a region. If it returns an error or panics, so does
// the load; otherwise the load returns the key's value.
type Getter func(ctx context.Context, key string) error

func newOrigin(now func() time.Time) *Origin {
	return &Origin{
		now:     now,
		loads:   make(map[string]int),
		region:  make(map[string]int),
		behave:  make(map[string]Getter),
		truth:   make(map[string][]Version),
		blocked: make(chan struct{}),
	}
}

// Behave sets how the origin behaves from now on towards the named regions, or towards all if none
// is named. With nil it answers at once.
func (o *Origin) Behave(g Getter, regions ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(regions) == 0 {
		clear(o.behave)
		regions = []string{""}
	}
	for _, r := range regions {
		o.behave[r] = g
	}
}

// After returns a Getter that answers after d, unless its context ends first.
func After(d time.Duration) Getter {
	return func(ctx context.Context, key string) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Failing returns a Getter that fails with err.
func Failing(err error) Getter { return func(context.Context, string) error { return err } }

// Block returns a Getter that answers only after Unblock, and ignores its context.
func (o *Origin) Block() Getter {
	return func(context.Context, string) error {
		<-o.blocked
		return fmt.Errorf("the test is over")
	}
}

// Unblock ends everything that Block holds, now and in future. Run calls it at the end of a test.
func (o *Origin) Unblock() {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-o.blocked:
	default:
		close(o.blocked)
	}
}

// Loads returns how often key was loaded, in all regions together.
func (o *Origin) Loads(key string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.loads[key]
}

// Total returns the number of loads from the named regions, or from all if none is named.
func (o *Origin) Total(regions ...string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for r, k := range o.region {
		if len(regions) == 0 {
			n += k
		}
		for _, want := range regions {
			if r == want {
				n += k
			}
		}
	}
	return n
}

// Running returns the number of loads in progress.
func (o *Origin) Running() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.running
}

// A Load is one call of a getter.
type Load struct {
	Key, Region  string
	Begun, Ended time.Time // Ended is zero while it runs
	OK           bool      // it returned a value
}

// Log returns all loads so far, in the order in which they began.
func (o *Origin) Log() (all []Load) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, l := range o.log {
		all = append(all, *l)
	}
	return all
}

// TagsOf returns the tags of all values of key: one that only this key has, and one that all keys
// have.
func TagsOf(key string) []string { return []string{"tag of " + key[:min(len(key), 200)], "origin"} }

// getter returns the getter of the nodes in region.
func (o *Origin) getter(region string) geocache.Getter[string] {
	return geocache.ItemGetterFunc[string](func(
		ctx context.Context, key string,
	) (loaded geocache.Loaded[string], err error) {
		begun := o.now()
		o.mu.Lock()
		o.loads[key]++
		o.region[region]++
		by := fmt.Sprintf("%s%d in %s", loadedBy, o.loads[key], region)
		o.running++
		load := &Load{Key: key, Region: region, Begun: begun}
		o.log = append(o.log, load)
		behave, ok := o.behave[region]
		if !ok {
			behave = o.behave[""]
		}
		o.mu.Unlock()
		defer func() {
			now := o.now()
			o.mu.Lock()
			defer o.mu.Unlock()
			o.running--
			load.Ended, load.OK = now, err == nil
		}()
		version, exists := o.visible(region, key, begun) // the origin is read first, and slow afterwards
		if behave != nil {
			if err := behave(ctx, key); err != nil {
				return loaded, err
			}
		}
		if !exists {
			return loaded, geocache.ErrNotFound
		}
		if version > 0 {
			by += fmt.Sprint(ofVersion, version)
		}
		return geocache.Loaded[string]{Value: Value{key, begun, by}.String(), Tags: TagsOf(key)}, nil
	})
}
