package geocache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/note"
)

// An AckLevel says how far a write must have come before the call returns.
type AckLevel uint8

// The levels. What a write has not reached when the call returns it reaches
// afterwards: a level is how long the caller waits, not how far the write goes.
const (
	// Region is the default: no node of this process's region serves what is
	// older.
	Region AckLevel = iota
	// Owner is when the key's owner in this region has it.
	Owner
	// World is Region, in every region.
	World
)

// A WriteOption changes one Set, Update or Increment, or one Remove or Clear of whichever
// kind. If one is given twice, the last wins.
type WriteOption interface{ applyWrite(*writeConfig) }

type writeOption func(*writeConfig)

func (o writeOption) applyWrite(c *writeConfig) { o(c) }

type writeConfig struct {
	ack  AckLevel
	ttl  time.Duration
	tags []string
	into *Written
	err  error // an option is nil
}

// configOf returns what options say. Without any it allocates nothing.
func configOf(opts []WriteOption) writeConfig {
	if len(opts) == 0 {
		return writeConfig{}
	}
	c := new(writeConfig)
	for i, o := range opts {
		if o == nil {
			c.err = errors.Join(c.err, errNilOption(i))
			continue
		}
		o.applyWrite(c)
	}
	return *c
}

// errNilOption says that an option of a list is nil.
func errNilOption(i int) error { return fmt.Errorf("option %d is nil", i) }

// Ack sets how far the write must have come before the call returns. Default
// Region.
func Ack(level AckLevel) WriteOption { return writeOption(func(c *writeConfig) { c.ack = level }) }

// ItemTTL gives the value a time to live of its own, shorter than the group's.
// Default, and at most: the group's.
func ItemTTL(d time.Duration) WriteOption { return writeOption(func(c *writeConfig) { c.ttl = d }) }

// Tags has the value that a Set or an Update writes bear tags, by which RemoveTag removes
// it. Each has 1 to 255 bytes, and there are at most 255. Default none: a value that is written
// anew without tags has none.
func Tags(tags ...string) WriteOption { return writeOption(func(c *writeConfig) { c.tags = tags }) }

// Into has the call report what became of the write in w, whether it returns an
// error or not.
func Into(w *Written) WriteOption { return writeOption(func(c *writeConfig) { c.into = w }) }

// Written is what became of a write.
type Written struct {
	// Generation is the write's place in the order of all writes; 0 if it is
	// not known to have happened.
	Generation expiry.Generation

	// Confirmed are the regions in which no node serves what is older, this
	// process's own first. With a level below World only that is waited for.
	Confirmed []string

	// Pending are the regions that were waited for and have not confirmed. The
	// write is on its way to them.
	Pending []string
}

var (
	// ErrUncertain says that a write may or may not have happened: the node
	// that was to carry it out could not be reached any more, or the caller's time
	// was up. A Set or a Remove can be done again without harm.
	ErrUncertain = errors.New("geocache: the write may or may not have happened")

	// ErrUnconfirmed says that a write has happened, and that the caller's time
	// was up before it had come as far as was asked. It goes on.
	ErrUnconfirmed = errors.New("geocache: the write has happened and is not confirmed everywhere it should be")
)

// Set makes v the value of key. When it returns nil, every read in this
// region that begins afterwards gets v, or what was written or loaded later; every other
// region has it one trip later. A load that was under way does not bring an
// older value back. See Ack.
//
// v lives as long as a loaded value would (see ItemTTL). It is kept by the key's owner and
// its successor in each region, and like every value it may be evicted: what must
// not be lost belongs into an origin, see WithSetter and WithWriteBehind.
//
// If several Sets of a key run at the same time, all happen, one after the other, in
// the order of their generations; in all regions the last one stays.
//
// A Set whose first owner dies, or cannot be reached, is carried out by the next one, and has its place
// where it began: what has been loaded or written since then stays.
//
// Errors are of type *Error. If the write may have happened ErrUncertain is found in
// it, and if it has but was not confirmed in time, ErrUnconfirmed. Otherwise the cache has not
// got it; what a setter that failed has done to the origin only the origin knows.
func (g *Group[V]) Set(ctx context.Context, key string, v V, opts ...WriteOption) error {
	value, err := call(&g.guard, "codec", key, func() ([]byte, error) { return g.codec.Encode(v) })
	if err != nil {
		err = fmt.Errorf("the value cannot be encoded: %w", err)
	} else {
		err = g.mutate(ctx, &note.Write{Op: note.Set, Key: key, Value: value}, opts)
	}
	return inWrite("Set", g.name, key, err)
}

// Remove makes every value of key that was loaded or set before it dead. The next
// Get loads it. Its promises and errors are those of Set.
func (g *Group[V]) Remove(ctx context.Context, key string, opts ...WriteOption) error {
	return inWrite("Remove", g.name, key, g.mutate(ctx, &note.Write{Op: note.Remove, Key: key}, opts))
}

// Clear is Remove for every key of the group, at the cost of one.
func (g *Group[V]) Clear(ctx context.Context, opts ...WriteOption) error {
	return inWrite("Clear", g.name, "", g.mutate(ctx, &note.Write{Op: note.Clear}, opts))
}

// inWrite is inCall for what may be nil.
func inWrite(op, group, key string, err error) error {
	if err == nil {
		return nil
	}
	return inCall(op, group, key, err)
}
