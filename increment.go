package geocache

import (
	"context"
	"fmt"
)

// Integer is the types that Increment counts in.
type Integer interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr
}

// Increment adds delta to the value of key, from 0 if there is none, and returns the sum.
// It is an Update: of any number of Increments, from whichever region, none is lost, and the
// errors are its. Like every write it begins the value's life anew: a counter that is
// incremented within its time to live does not expire. A sum that N cannot hold is an error and changes nothing.
func Increment[N Integer](ctx context.Context, g *Group[N], key string, delta N, opts ...WriteOption) (N, error) {
	return g.Update(ctx, key, func(old N, ok bool) (N, error) {
		if !ok {
			old = 0
		}
		sum := old + delta
		if (sum < old) != (delta < 0) {
			return old, fmt.Errorf("%d and %d are more than a %T holds", old, delta, old)
		}
		return sum, nil
	}, opts...)
}
