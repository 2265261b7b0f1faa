package regions

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestStaticReportsEveryMistake(t *testing.T) {
	validate := func(nodes ...Node) error { return Static(nodes...).(static).Validate() }
	require.NoError(t, validate())
	require.NoError(t, validate(node("eu-1"), node("us-1"), Node{Region: "us", Address: "us:1"}))
	err := validate(node("eu-1"), node("eu-1"), Node{Address: "us", Weight: -1})
	for _, mistake := range []string{
		`node 1 of the list, "eu-1": another node has the same ID`,
		`node 1 of the list, "eu-1": another node has the same address ` + node("eu-1").Address,
		`node 2 of the list, "us": its region: the name is empty`,
		`node 2 of the list, "us": address us: missing port in address`,
		`node 2 of the list, "us": weight is -1, must be from 0.01 to 100`,
	} {
		require.ErrorContains(t, err, mistake)
	}
}

func TestStaticUsesTheAddressAsDefaultID(t *testing.T) {
	want := static{{ID: "us:1", Region: "us", Address: "us:1"}}
	require.Equal(t, want, Static(Node{Region: "us", Address: "us:1"}))
}

func TestStatic(t *testing.T) {
	self := node("eu-1")
	listed := self
	listed.Address = "listed:7946"
	for name, test := range map[string]struct{ list, want []Node }{
		"self listed":     {[]Node{node("us-1"), listed, node("eu-2")}, []Node{self, node("us-1"), node("eu-2")}},
		"self not listed": {[]Node{node("us-1")}, []Node{self, node("us-1")}},
		"empty list":      {nil, []Node{self}},
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
				require.Equal(t, []View{{Nodes: test.want}}, views, "one call, with self as it describes itself")
				cancel()
				require.NoError(t, <-done)
			})
		})
	}
}
