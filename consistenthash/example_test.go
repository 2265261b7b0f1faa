package consistenthash_test

import (
	"fmt"
	"log"

	"github.com/geocache/geocache/consistenthash"
)

func Example() {
	const seed = 0x5eed // the same on all nodes that share keys
	ring, err := consistenthash.New(seed,
		consistenthash.Member{ID: "node-a"},
		consistenthash.Member{ID: "node-b"},
		consistenthash.Member{ID: "node-c", Weight: 2}, // twice as many keys as each of the others
	)
	if err != nil {
		log.Fatal(err)
	}

	owner, _ := ring.Owner("ada")
	fmt.Println("owner:", owner)
	fmt.Println("owner and successor:", ring.Owners("ada", 2))
	for i, share := range ring.Shares() { // ascending by ID
		fmt.Printf("member %d owns %.0f%%\n", i, 100*share)
	}
	// Output:
	// owner: node-b
	// owner and successor: [node-b node-c]
	// member 0 owns 25%
	// member 1 owns 25%
	// member 2 owns 50%
}
