package regions

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/geocache/geocache/consistenthash"
	"github.com/geocache/geocache/internal/valid"
)

// Static returns a Discovery of nodes that are known beforehand. It never
// reports another list, so nodes come and go only by answering or not.
//
// Every process can be given the same list: the entry of the process itself is
// recognised by its ID or its address. If there is one, its ID, region, address and
// weight must be those that the process has itself (WithNodeID, WithRegion,
// WithAdvertise, WithWeight of the cache), or the others would look for somebody else;
// geocache.Open fails if they are not, or if others could not dial an address. A node without an ID has its address for one, as a cache has by default.
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

// Validate returns an error that names every mistake in the list, or nil.
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
		if !weighs(n) {
			bad("a weight of %v, must be from %v to %v", n.Weight, consistenthash.MinWeight, consistenthash.MaxWeight)
		}
		if ids[n.ID] {
			bad("another one has that ID")
		}
		if addresses[n.Address] {
			bad("another one has the address %s", n.Address)
		}
		ids[n.ID], addresses[n.Address] = true, true
	}
	return errors.Join(errs...)
}

// Fits returns an error if self, whose weight is not 0, is in the list, but otherwise than
// it is.
func (s static) Fits(self Node) error {
	for _, n := range s {
		if n.Weight == 0 {
			n.Weight = 1
		}
		if n == self || n.ID != self.ID && n.Address != self.Address {
			continue
		}
		return fmt.Errorf("the list has this process as node %q in region %q at %s of weight %v, but it is %q in region %q at %s of weight %v: see WithNodeID, WithRegion, WithAdvertise and WithWeight",
			n.ID, n.Region, n.Address, n.Weight, self.ID, self.Region, self.Address, self.Weight)
	}
	return nil
}

// Region finds no region: a list does not tell which entry is this process.
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
