package geocache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/engine"
	"github.com/geocache/geocache/internal/origin"
	"github.com/geocache/geocache/internal/store"
)

// An AckLevel says how far a write must have come before the call returns. It sets how long the caller
// waits, not how far the write goes: what it has not reached when the call returns it reaches afterwards.
type AckLevel uint8

// The levels.
const (
	// AckRegion is the default: no node of this process's region serves an older value.
	AckRegion AckLevel = iota
	// AckOwner waits until the key's owner in this region has the write.
	AckOwner
	// AckWorld is AckRegion for every region.
	AckWorld
)

// A WriteOption changes one write: a Set, Update, Increment, Remove, Clear or one of their kin. If one
// is given twice, the last wins.
type WriteOption interface{ applyWrite(*writeConfig) }

type writeOption func(*writeConfig)

func (o writeOption) applyWrite(c *writeConfig) { o(c) }

type writeConfig struct {
	engine.WriteOptions
	receipt *Receipt
}

// writeOptions returns what options say, and what is wrong with them. Without any it allocates nothing.
func writeOptions(opts []WriteOption) *writeConfig {
	if len(opts) == 0 {
		return &noWriteOptions
	}
	c := new(writeConfig)
	var errs []error
	for i, o := range opts {
		if o == nil {
			errs = append(errs, errNilOption(i))
			continue
		}
		o.applyWrite(c)
	}
	if c.TTL < 0 {
		errs = append(errs, fmt.Errorf("WithItemTTL(%v): must not be negative", c.TTL))
	}
	if c.Ack > engine.AckWorld {
		errs = append(errs, fmt.Errorf("WithAck(%d): there is no such level", c.Ack))
	}
	errs = append(errs, checkTags(c.Tags))
	c.Invalid = errors.Join(errs...)
	if c.receipt != nil {
		c.Receipt = new(engine.Receipt)
	}
	return c
}

var noWriteOptions writeConfig

// done fills in the caller's receipt.
func (c *writeConfig) done() {
	if c.receipt != nil {
		r := c.Receipt
		*c.receipt = Receipt{Generation: Generation(r.Generation), Confirmed: r.Confirmed, Pending: r.Pending}
	}
}

// doneWith is done for a write that a Written can name.
func (c *writeConfig) doneWith(g *engine.Group, kind engine.AfterKind, of string) {
	c.done()
	if c.receipt != nil && c.Receipt.Generation != 0 {
		c.receipt.Written = Written{[]engine.After{engine.NewAfter(g, kind, of, c.Receipt.Generation)}}
	}
}

// errNilOption says that an option of a list is nil.
func errNilOption(i int) error { return fmt.Errorf("option %d is nil", i) }

// checkTags returns what is wrong with the tags.
func checkTags(tags []string) error {
	if len(tags) > store.MaxTags {
		return fmt.Errorf("%d tags, at most %d are allowed", len(tags), store.MaxTags)
	}
	for _, tag := range tags {
		if tag == "" || len(tag) > store.MaxTag {
			return fmt.Errorf("a tag of %d bytes, it must have 1 to %d", len(tag), store.MaxTag)
		}
	}
	return nil
}

// WithAck sets how far the write must have come before the call returns. Default AckRegion.
func WithAck(level AckLevel) WriteOption {
	return writeOption(func(c *writeConfig) { c.Ack = engine.Ack(level) })
}

// WithItemTTL gives the value its own time to live, shorter than the group's. Default, and at most: the
// group's.
func WithItemTTL(d time.Duration) WriteOption { return writeOption(func(c *writeConfig) { c.TTL = d }) }

// WithTags attaches tags to the value that a Set or an Update writes. RemoveTag removes it by any of them.
// There are at most 255 tags of 1 to 255 bytes each. Default: none. Writing a value again without tags
// removes them.
func WithTags(tags ...string) WriteOption { return writeOption(func(c *writeConfig) { c.Tags = tags }) }

// WithReceipt reports what became of the write in r, whether the call returns an error or not.
func WithReceipt(r *Receipt) WriteOption { return writeOption(func(c *writeConfig) { c.receipt = r }) }

// A Receipt says what became of a write.
type Receipt struct {
	// Generation is the write's place in the order of all writes; 0 if it is not known to have happened.
	Generation Generation

	// Confirmed are the regions in which no node serves an older value, this process's own first. With a level
	// below AckWorld the call waits for that region only.
	Confirmed []string

	// Pending are the regions that the call waited for and that have not confirmed. The write is on its way to
	// them.
	Pending []string

	// Written names the write for reads that are to come After it, in whatever region. It names nothing if
	// Generation is 0, and after SetMany and RemoveMany.
	Written Written
}

// Set makes v the value of key. When it returns nil, every read in this region that begins afterwards returns v,
// or what was written or loaded later. Every other region has it one trip later. A load that was under way does
// not bring an older value back. See WithAck.
//
// v lives as long as a loaded value would (see WithItemTTL). The key's owner and its successor keep it in each
// region. Like every value it may be evicted: what must not be lost belongs in an origin, see WithSetter and
// WithWriteBehind.
//
// If several Sets of a key run at the same time, all of them happen, one after the other, in the order of their
// generations. The last one stays, the same in all regions.
//
// If the owner dies or becomes unreachable, the next owner carries out the Set. It then counts from when it
// began: what has been loaded or written since stays.
//
// Errors are of type *Error. errors.Is finds ErrUncertain in it if the write may have happened, and ErrUnconfirmed
// if it has happened but was not confirmed in time. With any other error the cache does not have it; what a failed
// setter did to the origin only the origin knows.
func (g *Group[V]) Set(ctx context.Context, key string, v V, opts ...WriteOption) error {
	value, err := g.encode(key, v)
	if err == nil {
		o := writeOptions(opts)
		err = g.core.Set(ctx, key, value, &o.WriteOptions)
		o.doneWith(g.core, engine.AfterSet, key)
	}
	return inCall("Set", g.Name(), key, err)
}

func (g *Group[V]) encode(key string, v V) ([]byte, error) {
	value, err := origin.Call(g.core.Guard(), "codec", key, func() ([]byte, error) { return g.codec.Encode(v) })
	if err != nil {
		err = fmt.Errorf("the value cannot be encoded: %w", err)
	}
	return value, err
}

// SetMany is Set for many keys, some at a time. The error joins the errors of the keys, or of many the first
// ones. WithReceipt reports on all keys together, as for RemoveMany. If a value cannot be encoded, nothing is
// set.
func (g *Group[V]) SetMany(ctx context.Context, values map[string]V, opts ...WriteOption) error {
	encoded := make(map[string][]byte, len(values))
	var failed engine.KeyErrors
	for key, v := range values {
		value, err := g.encode(key, v)
		if err != nil {
			failed.Add(key, err)
		}
		encoded[key] = value
	}
	if len(failed.First) == 0 {
		o := writeOptions(opts)
		if o.Invalid != nil {
			return inCall("SetMany", g.Name(), "", o.Invalid)
		}
		failed = g.core.SetMany(ctx, encoded, &o.WriteOptions)
		o.done()
	}
	return joined("SetMany", g.Name(), failed, "%d more keys could not be set")
}

// Remove removes every value of key that was loaded or set before it. The next Get loads the key. Its promises and
// errors are those of Set.
func (g *Group[V]) Remove(ctx context.Context, key string, opts ...WriteOption) error {
	o := writeOptions(opts)
	err := g.core.Remove(ctx, key, &o.WriteOptions)
	o.doneWith(g.core, engine.AfterRemove, key)
	return inCall("Remove", g.Name(), key, err)
}

// Clear is Remove for every key of the group, at the cost of one Remove.
func (g *Group[V]) Clear(ctx context.Context, opts ...WriteOption) error {
	o := writeOptions(opts)
	err := g.core.Clear(ctx, &o.WriteOptions)
	o.doneWith(g.core, engine.AfterClear, "")
	return inCall("Clear", g.Name(), "", err)
}

// RemoveTag is Remove for every value that bears the tag (see WithTags and Loaded), on every node. That includes
// values that are being loaded: their tags are checked when they arrive. It costs one message to each node, as a
// Remove does, however many values there are. A value is dropped when it is next read, or within a minute.
//
// It does not write to the origin. Its promises and errors are those of Remove.
func (g *Group[V]) RemoveTag(ctx context.Context, tag string, opts ...WriteOption) error {
	err := checkTags([]string{tag})
	if err == nil {
		err = g.removeScope(ctx, expiry.Tag(tag), engine.AfterRemoveTag, opts)
	}
	return inCall("RemoveTag", g.Name(), tag, err)
}

// RemovePrefix is Remove for every key that begins with the prefix, at the cost of one Remove. The prefix must not
// be empty (Clear removes everything), and may be as long as a key.
//
// It does not write to the origin. Its promises and errors are those of Remove.
func (g *Group[V]) RemovePrefix(ctx context.Context, prefix string, opts ...WriteOption) error {
	err := errors.New("the prefix is empty; Clear removes everything")
	if prefix != "" {
		err = g.removeScope(ctx, expiry.Prefix(prefix), engine.AfterRemovePrefix, opts)
	}
	return inCall("RemovePrefix", g.Name(), prefix, err)
}

func (g *Group[V]) removeScope(
	ctx context.Context, scope expiry.Subject, kind engine.AfterKind, opts []WriteOption,
) error {
	o := writeOptions(opts)
	defer o.doneWith(g.core, kind, scope.Name())
	return g.core.RemoveScope(ctx, scope, &o.WriteOptions)
}

// RemoveMany is Remove for many keys, with one request to each owner, and from there one message to each node.
// With WithRemover it is as many Removes, some at a time.
//
// The error joins the errors of the owners' keys, or of many the first ones. WithReceipt reports on all keys
// together: Generation is the highest, and Confirmed are the regions that have confirmed every key.
func (g *Group[V]) RemoveMany(ctx context.Context, keys []string, opts ...WriteOption) error {
	o := writeOptions(opts)
	if o.Invalid != nil {
		return inCall("RemoveMany", g.Name(), "", o.Invalid)
	}
	failed := g.core.RemoveMany(ctx, keys, &o.WriteOptions)
	o.done()
	return joined("RemoveMany", g.Name(), failed, "%d more failed")
}
