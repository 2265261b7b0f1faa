package geocache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/note"
	"github.com/geocache/geocache/internal/store"
)

// RemoveTag is Remove for every value that bears the tag (see Tags and Loaded), on
// whichever node it is, and for those that are being loaded: what they bear is looked at
// when they are there. It costs one message to each node, as a Remove does, however many
// values there are. A value is dropped when it is read next, or swept within a minute.
//
// It leaves the origin alone. Its promises and errors are those of Remove.
func (g *Group[V]) RemoveTag(ctx context.Context, tag string, opts ...WriteOption) error {
	err := checkTags([]string{tag})
	if err == nil {
		err = g.mutate(ctx, &note.Write{Op: note.RemoveScope, Key: string(expiry.Tag(tag))}, opts)
	}
	return inWrite("RemoveTag", g.name, tag, err)
}

// RemovePrefix is Remove for every key that begins with the prefix, at the cost of one. The
// prefix must not be empty; Clear removes everything. It may be as long as a key.
//
// It leaves the origin alone. Its promises and errors are those of Remove.
func (g *Group[V]) RemovePrefix(ctx context.Context, prefix string, opts ...WriteOption) error {
	err := errors.New("the prefix is empty; Clear removes everything")
	if prefix != "" {
		err = g.mutate(ctx, &note.Write{Op: note.RemoveScope, Key: string(expiry.Prefix(prefix))}, opts)
	}
	return inWrite("RemovePrefix", g.name, prefix, err)
}

// RemoveMany is Remove for many keys, with one request to each owner, and from there one message
// to each node. With WithRemover it is as many Removes, some at a time.
//
// The error joins those of the owners' keys, or with a remover those of many keys some. What
// Into reports is of all keys together: Generation is the highest, Confirmed are the regions
// that have confirmed every key.
func (g *Group[V]) RemoveMany(ctx context.Context, keys []string, opts ...WriteOption) error {
	config := configOf(opts)
	if config.err != nil {
		return inWrite("RemoveMany", g.name, "", config.err)
	}
	var all manyWritten
	parallel := make(chan struct{}, removeParallel)
	var removing sync.WaitGroup
	for _, w := range g.removals(keys) {
		parallel <- struct{}{}
		removing.Go(func() {
			defer func() { <-parallel }()
			var written Written
			err := g.mutate(ctx, w, append(slices.Clip(opts), Into(&written)))
			all.add(written, inWrite("RemoveMany", g.name, w.Key, err))
		})
	}
	removing.Wait()
	if config.into != nil {
		*config.into = all.written
	}
	if all.more > 0 {
		all.errs = append(all.errs, fmt.Errorf("geocache: removemany %s: %d more failed", g.name, all.more))
	}
	return errors.Join(all.errs...)
}

const (
	// removeParallel is how many requests of one RemoveMany are under way at a time;
	// removeKeys and removeBytes bound the keys in one.
	removeParallel = 64
	removeKeys     = 1024
	removeBytes    = 256 << 10
)

// removals returns the writes that remove the keys.
func (g *group) removals(keys []string) (writes []*note.Write) {
	home := g.cache.topology().Home
	type batch struct {
		*note.Write
		bytes int
	}
	open := map[string]*batch{} // by owner
	for _, key := range slices.Compact(slices.Sorted(slices.Values(keys))) {
		if g.backing.remove != nil || len(key) > maxKey { // which is refused, alone
			writes = append(writes, &note.Write{Op: note.Remove, Key: key})
			continue
		}
		owner := home.Owner(key).ID
		b := open[owner]
		if b == nil || len(b.Keys) == removeKeys-1 || b.bytes+len(key) > removeBytes {
			b = &batch{Write: &note.Write{Op: note.RemoveKeys, Key: key}}
			open[owner] = b
			writes = append(writes, b.Write)
		} else {
			b.Keys = append(b.Keys, strings.Clone(key))
		}
		b.bytes += len(key)
	}
	return writes
}

// manyWritten is what has become of several writes.
type manyWritten struct {
	mu      sync.Mutex // guards the following
	begun   bool
	written Written
	errs    []error
	more    int // errors beyond maxErrors
}

func (m *manyWritten) add(w Written, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := &m.written
	all.Generation = max(all.Generation, w.Generation)
	for _, region := range w.Pending {
		if !slices.Contains(all.Pending, region) {
			all.Pending = append(all.Pending, region)
		}
	}
	if !m.begun {
		all.Confirmed = w.Confirmed
	} else {
		all.Confirmed = slices.DeleteFunc(all.Confirmed, func(region string) bool { return !slices.Contains(w.Confirmed, region) })
	}
	m.begun = true
	switch {
	case err == nil:
	case len(m.errs) < maxErrors:
		m.errs = append(m.errs, err)
	default:
		m.more++
	}
}

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

// withTags returns value with the tags before it, which have been checked, or as it is if
// there are none.
func withTags(tags []string, value []byte) []byte {
	if len(tags) == 0 {
		return value
	}
	size := 1
	for _, tag := range tags {
		size += 1 + len(tag)
	}
	return append(store.AppendTags(make([]byte, 0, size+len(value)), tags), value...)
}
