package regions_test

import (
	"fmt"
	"time"

	"github.com/geocache/geocache/regions"
)

// Members works without a network: here is who is up and who owns a key.
func ExampleMembers() {
	self := regions.Node{ID: "eu-1", Region: "eu", Address: "10.0.0.1:7946"}
	members, err := regions.NewMembers(self, 0, time.Minute, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	members.Found(0, regions.View{
		Nodes: []regions.Node{
			self,
			{ID: "eu-2", Region: "eu", Address: "10.0.0.2:7946"},
			{ID: "us-1", Region: "us", Address: "10.1.0.1:7946"},
		},
		Distances: map[string]time.Duration{"us": 80 * time.Millisecond},
	})
	members.Health(0, "eu-2", regions.State{Up: true})
	members.Health(0, "us-1", regions.State{Up: true})

	top := members.Topology()
	for _, n := range top.Home.Owners("ada", 2) {
		fmt.Println(n.ID)
	}
	for _, r := range top.Remote {
		fmt.Println(r.Name, r.Distance)
	}
	// Output:
	// eu-1
	// eu-2
	// us 80ms
}

// Every process can be given the same list. geocache.Open reports mistakes in it.
func ExampleStatic() {
	discovery := regions.Static(
		regions.Node{Region: "eu", Address: "10.0.3.7:7946"},
		regions.Node{Region: "us", Address: "10.9.1.2:7946", Weight: 2},
	)
	fmt.Println(discovery.(interface{ Validate() error }).Validate())
	// Output: <nil>
}
