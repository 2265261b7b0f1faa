package regions

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestStatic(t *testing.T) {
	self := node("eu-1")
	listed := self
	listed.Address = "listed:7946"
	for name, test := range map[string]struct{ list, want []Node }{
		"this node among them":     {[]Node{node("us-1"), listed, node("eu-2")}, []Node{self, node("us-1"), node("eu-2")}},
		"this node not among them": {[]Node{node("us-1")}, []Node{self, node("us-1")}},
		"nobody":                   {nil, []Node{self}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := Static(test.list...)
				region, err := d.Region(t.Context())
				require.NoError(t, err)
				require.Empty(t, region)

				ctx, cancel := context.WithCancel(t.Context())
				var views []View
				done := make(chan error)
				go func() {
					done <- d.Run(ctx, self, nil, func(v View) { views = append(views, v) })
				}()
				synctest.Wait()
				require.Equal(t, []View{{Nodes: test.want}}, views, "once, and this node as it describes itself")
				cancel()
				require.NoError(t, <-done)
			})
		})
	}
}
