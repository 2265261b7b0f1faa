package testcluster

import (
	"context"
	"slices"
	"time"

	"github.com/geocache/geocache"
)

// This file makes an Origin writable. The versions of a key are numbered: 0 is what the origin had
// at first, and a loaded value says which version it is.

// A Version is what the origin has of a key from a certain time on.
type Version struct {
	By   string // what was written; empty if it was removed
	From time.Time
}

// Put sets what the origin has of a key from now on, without telling anybody, and returns the
// number of this version. By is empty if the key is removed.
func (o *Origin) Put(key, by string) int {
	now := o.now()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.truth[key] = append(o.truth[key], Version{by, now})
	return len(o.truth[key])
}

// Truth returns the versions of each key, from number 1 on.
func (o *Origin) Truth() map[string][]Version {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := make(map[string][]Version)
	for key, versions := range o.truth {
		all[key] = slices.Clone(versions)
	}
	return all
}

// Lag makes the origins of all regions but primary replicas that lag by this much.
func (o *Origin) Lag(primary string, by time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.primary, o.lag = primary, by
}

// Absent sets which keys the origin does not have at first.
func (o *Origin) Absent(is func(key string) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.absent = is
}

// visible returns which version of a key a region's origin has, and whether there is a value.
func (o *Origin) visible(region, key string, now time.Time) (version int, exists bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if region != o.primary {
		now = now.Add(-o.lag)
	}
	versions := o.truth[key]
	for i, v := range slices.Backward(versions) {
		if !v.From.After(now) {
			return i + 1, v.By != ""
		}
	}
	return 0, o.absent == nil || !o.absent(key)
}

// options returns the options of a group that writes to the origin.
func (o *Origin) options() []geocache.GroupOption {
	return []geocache.GroupOption{
		geocache.WithSetter(func(ctx context.Context, key, value string) error {
			v, _ := ParseValue(value)
			return o.put(ctx, key, v.By)
		}),
		geocache.WithRemover(func(ctx context.Context, key string) error { return o.put(ctx, key, "") }),
	}
}

// putTakes is how long a write to the origin takes.
const putTakes = 5 * time.Millisecond

func (o *Origin) put(ctx context.Context, key, by string) error {
	if err := After(putTakes)(ctx, key); err != nil {
		return err
	}
	o.Put(key, by)
	return nil
}
