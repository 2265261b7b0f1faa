package engine

import (
	"net"
	"strconv"
)

// dialable returns the address that other nodes connect to. named is the address that the user gave: the
// one to advertise, else the one to listen on. Its host stays as written, since a list of nodes may name
// this one the same way. Its port is replaced by that of bound if named is the address to listen on
// (listens), or if it is 0. Otherwise it stays too, since a port to advertise may be forwarded to the bound
// one.
func dialable(named string, bound net.Addr, listens bool) string {
	host, port, _ := net.SplitHostPort(named)
	if n, err := strconv.Atoi(port); listens || err == nil && n == 0 {
		_, port, _ = net.SplitHostPort(bound.String())
	}
	return net.JoinHostPort(host, port)
}
