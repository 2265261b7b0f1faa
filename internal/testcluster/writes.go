package testcluster

import (
	"context"
	"time"

	"github.com/geocache/geocache"
)

// writeTimeout is the deadline of a Node's writes.
const writeTimeout = 30 * time.Second

// Set sets key to a value that says what, with a deadline of 30 s. The value also says when the Set
// began, so that Get can check its age.
func (n *Node) Set(key, what string, opts ...geocache.WriteOption) (geocache.Receipt, error) {
	return n.write(opts, func(ctx context.Context, opts []geocache.WriteOption) error {
		return n.Group.Set(ctx, key, Value{key, n.c.Now(), what}.String(), opts...)
	})
}

// Remove removes key, with a deadline of 30 s.
func (n *Node) Remove(key string, opts ...geocache.WriteOption) (geocache.Receipt, error) {
	return n.write(opts, func(ctx context.Context, opts []geocache.WriteOption) error {
		return n.Group.Remove(ctx, key, opts...)
	})
}

// Clear clears the group, with a deadline of 30 s.
func (n *Node) Clear(opts ...geocache.WriteOption) (geocache.Receipt, error) {
	return n.write(opts, func(ctx context.Context, opts []geocache.WriteOption) error {
		return n.Group.Clear(ctx, opts...)
	})
}

// Update replaces what key's value says by what f returns, with a deadline of 30 s. If the value
// was loaded from the origin, or there is none, f gets "" and false.
func (n *Node) Update(
	key string, f func(what string, written bool) (string, error), opts ...geocache.WriteOption,
) (what string, w geocache.Receipt, err error) {
	w, err = n.write(opts, func(ctx context.Context, opts []geocache.WriteOption) error {
		v, err := n.Group.Update(ctx, key, func(old string, ok bool) (string, error) {
			was, _ := ParseValue(old)
			written := ok && !was.Loaded()
			if !written {
				was.By = ""
			}
			by, err := f(was.By, written)
			return Value{key, n.c.Now(), by}.String(), err
		}, opts...)
		now, _ := ParseValue(v)
		what = now.By
		return err
	})
	return what, w, err
}

func (n *Node) write(
	opts []geocache.WriteOption, do func(context.Context, []geocache.WriteOption) error,
) (w geocache.Receipt, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	err = do(ctx, append(opts[:len(opts):len(opts)], geocache.WithReceipt(&w)))
	return w, err
}
