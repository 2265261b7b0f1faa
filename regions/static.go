package regions

import "context"

// Static returns a Discovery of nodes that are known beforehand. It never
// reports another list, so nodes come and go only by answering or not.
// The list may include the node that uses it.
func Static(nodes ...Node) Discovery { return static(nodes) }

type static []Node

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
