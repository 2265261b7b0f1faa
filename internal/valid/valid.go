// Package valid says which names and addresses are good. Options, lists of nodes, what a discovery
// finds and what peers send are judged by the same rules: what one node takes, no other refuses.
package valid

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxName is how long a name may be, in bytes: on the wire one byte counts them.
const MaxName = 255

// Name returns what is wrong with the name of a cluster, node, region or group, or nil.
//
// It must be UTF-8. Names become labels of metrics and go through JSON, both of which have no
// other strings: two names that differ in bytes which are none would be one there.
func Name(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > MaxName:
		return fmt.Errorf("a name of %d bytes, at most %d are allowed", len(name), MaxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("the name %q is not UTF-8, so metrics and discoveries could not tell it from others", name)
	}
	return nil
}

// Address returns why other nodes cannot dial the address, or nil. It must be host:port, as Host and
// with a port from 1 to 65535.
func Address(address string) error { return check(address, 1) }

// Unbound is Address for one whose port may be 0, which stands for a port that is not known yet.
func Unbound(address string) error { return check(address, 0) }

func check(address string, least uint64) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err // which names the address
	}
	var wrong []string
	if err := Host(host); err != nil {
		wrong = append(wrong, err.Error())
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n < least {
		wrong = append(wrong, fmt.Sprintf("port must be a number from %d to 65535", least))
	}
	if len(wrong) > 0 {
		return fmt.Errorf("address %s: %s", address, strings.Join(wrong, ", and "))
	}
	return nil
}

// maxHost is how long a name may be in DNS, in bytes.
const maxHost = 253

// Host returns why other nodes cannot dial the host, an IP address or a name, or nil. Whether the
// name is known, and whether anybody listens there, is not looked at.
func Host(host string) error {
	ip, err := netip.ParseAddr(host)
	ip = ip.Unmap()
	switch {
	case host == "" || ip.WithZone("").IsUnspecified():
		return errors.New("a wildcard is no address that others can dial")
	case ip.Zone() != "":
		return fmt.Errorf("%s has a zone, which has a meaning on one machine only", host)
	case ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s is an address of many, which nobody can dial", host)
	case err != nil && !isName(host):
		return fmt.Errorf("%q is neither an IP address nor a host name", host)
	}
	return nil
}

// isName reports whether the resolver of Go would look a host up.
func isName(host string) bool {
	named, last := false, '.'
	for _, c := range host {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_', c == '-':
			named = true // else it is a number, such as 10.0.0.256
		case '0' <= c && c <= '9':
		case c == '.' && last != '.':
		default:
			return false
		}
		last = c
	}
	return named && len(host) <= maxHost
}
