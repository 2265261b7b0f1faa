package engine

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

// This file has the writes that callers can ask for.

// An Ack says how far a write must have come before the call returns. It sets how long the caller waits,
// not how far the write goes.
type Ack uint8

// The levels of acknowledgement.
const (
	AckRegion Ack = iota // no node of this process's region serves anything older
	AckOwner             // the key's owner in this region has it
	AckWorld             // AckRegion, in every region
)

// WriteOptions change how one write is carried out.
type WriteOptions struct {
	Ack     Ack
	TTL     time.Duration // the value's own time to live; 0 means the group's
	Tags    []string
	Receipt *Receipt          // filled in unless nil
	After   expiry.Generation // the write's is to be higher
	Invalid error             // why the write is refused; nil if it is not
}

// A Receipt says what became of a write.
type Receipt struct {
	Generation expiry.Generation // 0 if the write is not known to have happened
	Confirmed  []string          // regions in which no node serves anything older, this process's own first
	Pending    []string          // regions that the call waited for and that have not confirmed
}

// Set sets the value of key.
func (g *Group) Set(ctx context.Context, key string, value []byte, o *WriteOptions) error {
	return g.router.mutate(ctx, &message.WriteRequest{Op: message.Set, Key: key, Value: value}, o)
}

// Remove invalidates every value of key that was loaded or set before.
func (g *Group) Remove(ctx context.Context, key string, o *WriteOptions) error {
	return g.router.mutate(ctx, &message.WriteRequest{Op: message.Remove, Key: key}, o)
}

// Clear is Remove for every key.
func (g *Group) Clear(ctx context.Context, o *WriteOptions) error {
	return g.router.mutate(ctx, &message.WriteRequest{Op: message.Clear}, o)
}

// RemoveScope is Remove for every key of a scope.
func (g *Group) RemoveScope(ctx context.Context, scope expiry.Subject, o *WriteOptions) error {
	return g.router.mutate(ctx, &message.WriteRequest{Op: message.RemoveScope, Key: string(scope)}, o)
}

// manyParallel bounds the requests of one SetMany or RemoveMany that are under way at a time.
const manyParallel = 64

// SetMany sets the values of several keys.
func (g *Group) SetMany(ctx context.Context, values map[string][]byte, o *WriteOptions) KeyErrors {
	var writes []*message.WriteRequest
	for key, value := range values {
		writes = append(writes, &message.WriteRequest{Op: message.Set, Key: key, Value: value})
	}
	return g.router.mutateMany(ctx, writes, o)
}

// RemoveMany is Remove for several keys, in one request to each owner.
func (g *Group) RemoveMany(ctx context.Context, keys []string, o *WriteOptions) KeyErrors {
	return g.router.mutateMany(ctx, g.router.removals(keys), o)
}

// mutateMany carries out writes, up to manyParallel at a time.
func (rt *router) mutateMany(
	ctx context.Context, writes []*message.WriteRequest, o *WriteOptions,
) KeyErrors {
	var all manyReceipts
	parallel := make(chan struct{}, manyParallel)
	var writing sync.WaitGroup
	for _, req := range writes {
		parallel <- struct{}{}
		writing.Go(func() {
			defer func() { <-parallel }()
			each, receipt := *o, Receipt{}
			each.Receipt = &receipt
			key := req.Key
			err := rt.mutate(ctx, req, &each)
			all.add(key, receipt, err)
		})
	}
	writing.Wait()
	if o.Receipt != nil {
		*o.Receipt = all.receipt
	}
	return all.errs
}

const (
	// removeKeys and removeBytes bound the keys in one request.
	removeKeys  = 1024
	removeBytes = 256 << 10
)

// removals returns the requests that remove the keys, grouped by owner.
func (rt *router) removals(keys []string) (writes []*message.WriteRequest) {
	home := rt.g.cache.topology().Home
	type batch struct {
		*message.WriteRequest
		bytes int
	}
	open := map[string]*batch{} // by owner
	for _, key := range slices.Compact(slices.Sorted(slices.Values(keys))) {
		if rt.g.origin.remove != nil || len(key) > MaxKey { // a key that is too long is refused alone
			writes = append(writes, &message.WriteRequest{Op: message.Remove, Key: key})
			continue
		}
		owner := home.Owner(key).ID
		b := open[owner]
		if b == nil || len(b.Keys) == removeKeys-1 || b.bytes+len(key) > removeBytes {
			b = &batch{WriteRequest: &message.WriteRequest{Op: message.RemoveKeys, Key: key}}
			open[owner] = b
			writes = append(writes, b.WriteRequest)
		} else {
			b.Keys = append(b.Keys, strings.Clone(key))
		}
		b.bytes += len(key)
	}
	return writes
}

// manyReceipts combines the results of several writes.
type manyReceipts struct {
	mu      sync.Mutex // guards the following
	begun   bool
	receipt Receipt
	errs    KeyErrors
}

// add adds the result of one write. A region has confirmed if it has confirmed all writes.
func (m *manyReceipts) add(key string, r Receipt, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := &m.receipt
	all.Generation = max(all.Generation, r.Generation)
	for _, region := range r.Pending {
		if !slices.Contains(all.Pending, region) {
			all.Pending = append(all.Pending, region)
		}
	}
	if !m.begun {
		all.Confirmed = r.Confirmed
	} else {
		all.Confirmed = slices.DeleteFunc(all.Confirmed, func(region string) bool {
			return !slices.Contains(r.Confirmed, region)
		})
	}
	m.begun = true
	if err != nil {
		m.errs.Add(key, err)
	}
}
