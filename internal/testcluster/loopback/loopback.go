// Package loopback finds addresses for clusters of real processes on this machine.
package loopback

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// FreeAddresses returns n loopback addresses that nobody listens on. They are from below the range that
// systems take the ports of outgoing connections from: a port from there could be taken by a connection,
// even one to itself, while the process that it belongs to is down.
func FreeAddresses(n int) ([]string, error) {
	const low, high = 20000, 32000
	var addresses []string
	for range 100 * n {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(low+rand.IntN(high-low)))
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		defer l.Close() // only now, so that no address is returned twice
		if addresses = append(addresses, address); len(addresses) == n {
			return addresses, nil
		}
	}
	return nil, errors.New("no free ports")
}
