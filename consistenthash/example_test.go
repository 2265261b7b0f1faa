package consistenthash_test

import (
	"fmt"
	"log"

	"github.com/geocache/geocache/consistenthash"
)

func Example() {
	const seed = 0x5eed // the same for all who share keys
	ring, err := consistenthash.New(seed,
		consistenthash.Member{ID: "node-a"},
		consistenthash.Member{ID: "node-b"},
		consistenthash.Member{ID: "node-c", Weight: 2}, // twice the keys of another
	)
	if err != nil {
		log.Fatal(err)
	}

	owner, _ := ring.Owner("ada")
	fmt.Println("owner:", owner)
	fmt.Println("owner and successor:", ring.Owners("ada", 2))
	for i, share := range ring.Shares() {
		fmt.Printf("%s owns %.0f%%\n", ring.Members()[i].ID, 100*share)
	}
	// Output:
	// owner: node-b
	// owner and successor: [node-b node-c]
	// node-a owns 25%
	// node-b owns 25%
	// node-c owns 50%
}
