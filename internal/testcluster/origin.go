package testcluster

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/geocache/geocache"
)

// An Origin is what the nodes' getters load from. By default it has every key
// and answers at once, with a value that tells when the load began.
type Origin struct {
	mu      sync.Mutex // guards the following
	loads   map[string]int
	region  map[string]int // loads by region
	running int
	behave  map[string]Getter // by region
	blocked chan struct{}     // what Block waits for; nil once unblocked
}

// A Getter is how the origin behaves towards a region. An error or a panic of it
// is the getter's; otherwise it answers with the key's value.
type Getter func(ctx context.Context, key string) error

func newOrigin() *Origin {
	return &Origin{
		loads:   make(map[string]int),
		region:  make(map[string]int),
		behave:  make(map[string]Getter),
		blocked: make(chan struct{}),
	}
}

// Behave sets how the origin behaves towards the named regions from now on, or
// towards all regions if none is named. nil answers at once.
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

// After answers after d.
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

// Failing fails with err.
func Failing(err error) Getter { return func(context.Context, string) error { return err } }

// Block never answers, and does not care for its context, until the test ends.
func (o *Origin) Block() Getter {
	return func(context.Context, string) error {
		<-o.blocked
		return fmt.Errorf("the test is over")
	}
}

// Unblock ends everything that Block holds, now and in future.
func (o *Origin) Unblock() {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-o.blocked:
	default:
		close(o.blocked)
	}
}

// Loads returns how often key was loaded, in all regions.
func (o *Origin) Loads(key string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.loads[key]
}

// Total returns how many loads there were from the named regions, or from all.
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

// Running returns how many loads run now.
func (o *Origin) Running() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.running
}

// getter returns the getter of the nodes in region.
func (o *Origin) getter(region string) geocache.Getter[string] {
	return geocache.GetterFunc[string](func(ctx context.Context, key string) (string, error) {
		begun := time.Now()
		o.mu.Lock()
		o.loads[key]++
		o.region[region]++
		o.running++
		behave, ok := o.behave[region]
		if !ok {
			behave = o.behave[""]
		}
		o.mu.Unlock()
		defer func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.running--
		}()
		if behave != nil {
			if err := behave(ctx, key); err != nil {
				return "", err
			}
		}
		return value(key, begun), nil
	})
}

// value is what the origin answers with: the key and the true time at which the
// load began.
func value(key string, loaded time.Time) string {
	return key + "|" + loaded.Format(time.RFC3339Nano)
}

func parse(v string) (key string, loaded time.Time) {
	key, at, _ := strings.Cut(v, "|")
	loaded, err := time.Parse(time.RFC3339Nano, at)
	if err != nil {
		return "no value of the origin: " + v, time.Time{}
	}
	return key, loaded
}
