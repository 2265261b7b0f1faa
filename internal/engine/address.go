package engine

import (
	"net"
	"strconv"
)

// dialable returns the address that others are told, which is what the user has named: that to
// advertise, else that to listen on, with the port that it came to. The host is left
// as the user has written it: a list of nodes may have it like that too. So is a port to advertise,
// which may lead to this one from elsewhere, unless it is 0.
func dialable(named string, bound net.Addr, listens bool) string {
	host, port, _ := net.SplitHostPort(named)
	if n, err := strconv.Atoi(port); listens || err == nil && n == 0 {
		_, port, _ = net.SplitHostPort(bound.String())
	}
	return net.JoinHostPort(host, port)
}
