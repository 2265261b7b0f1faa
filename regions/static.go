package regions

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/geocache/geocache/consistenthash"
	"github.com/geocache/geocache/internal/valid"
)

// Static returns a Discovery over a fixed list of nodes. The list never changes, so nodes come and go only
// by answering or not.
//
// Every process can be given the same list: a process recognises its own entry by ID or address. That entry,
// if there is one, must have the ID, region, address and weight that the process itself uses (WithNodeID,
// WithRegion, WithAdvertise and WithWeight of the cache); otherwise the others would look for a different
// node. A node without an ID gets its address as ID, which is also the default of a cache.
//
// geocache.Open fails if the process differs from its entry or if the list is invalid, for example because
// an address cannot be dialled.
func Static(nodes ...Node) Discovery {
	s := static(slices.Clone(nodes))
	for i := range s {
		if s[i].ID == "" {
			s[i].ID = s[i].Address
		}
	}
	return s
}

type static []Node

// Validate reports every mistake in the list.
func (s static) Validate() error {
	var errs []error
	ids, addresses := make(map[string]bool), make(map[string]bool)
	for i, n := range s {
		bad := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("node %d of the list, %q: %w", i, n.ID, fmt.Errorf(format, args...)))
		}
		if err := valid.Name(n.ID); err != nil && n.ID != n.Address {
			bad("its ID: %w", err)
		}
		if err := valid.Name(n.Region); err != nil {
			bad("its region: %w", err)
		}
		if err := valid.Address(n.Address); err != nil {
			bad("%w", err)
		}
		if !validWeight(n) {
			bad("weight is %v, must be from %v to %v", n.Weight, consistenthash.MinWeight, consistenthash.MaxWeight)
		}
		if ids[n.ID] {
			bad("another node has the same ID")
		}
		if addresses[n.Address] {
			bad("another node has the same address %s", n.Address)
		}
		ids[n.ID], addresses[n.Address] = true, true
	}
	return errors.Join(errs...)
}

// Fits returns an error if the list has an entry for self that differs from it. The weight of self must not
// be 0.
func (s static) Fits(self Node) error {
	for _, n := range s {
		if n.Weight == 0 {
			n.Weight = 1
		}
		if n == self || n.ID != self.ID && n.Address != self.Address {
			continue
		}
		return fmt.Errorf("the list has this process as node %q in region %q at %s with weight %v, "+
			"but it is %q in region %q at %s with weight %v: "+
			"see WithNodeID, WithRegion, WithAdvertise and WithWeight",
			n.ID, n.Region, n.Address, n.Weight, self.ID, self.Region, self.Address, self.Weight)
	}
	return nil
}

// Region always returns "": the list does not say which entry is this process.
func (static) Region(context.Context) (string, error) { return "", nil }

func (s static) Run(ctx context.Context, self Node, _ func() error, found func(View)) error {
	nodes := []Node{self}
	for _, n := range s {
		if n.ID != self.ID {
			nodes = append(nodes, n)
		}
	}
	found(View{Nodes: nodes})
	<-ctx.Done()
	return nil
}
