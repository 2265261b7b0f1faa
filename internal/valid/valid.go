// Package valid validates names and addresses. Options, static node lists, discoveries and messages from
// peers all go through it, so a name or an address that one node accepts is accepted by every other node.
//
// It looks at the text alone: it does not resolve host names or check that anything listens at an address.
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

// MaxName is the maximum length of a name in bytes. The wire format has one byte for the length.
const MaxName = 255

// Name returns an error if name cannot be the name of a cluster, node, region or group: if it is empty,
// longer than MaxName, or not UTF-8.
//
// Names end up in metric labels and in JSON, which only have UTF-8 strings. Two names that differ only in
// invalid bytes would become the same name there.
func Name(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > MaxName:
		return fmt.Errorf("the name is %d bytes long, the limit is %d", len(name), MaxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("the name %q is not UTF-8, so metrics and discovery could confuse it with another", name)
	}
	return nil
}

// Address returns an error if other nodes cannot dial address. It must be host:port, with a host that Host
// accepts and a port from 1 to 65535. The error names every mistake.
func Address(address string) error { return checkAddress(address, 1) }

// Unbound is Address, but also accepts port 0, which stands for a port that is not known yet.
func Unbound(address string) error { return checkAddress(address, 0) }

func checkAddress(address string, minPort uint64) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err // it names the address
	}
	var mistakes []string
	if err := Host(host); err != nil {
		mistakes = append(mistakes, err.Error())
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n < minPort {
		mistakes = append(mistakes, fmt.Sprintf("port must be a number from %d to 65535", minPort))
	}
	if len(mistakes) > 0 {
		return fmt.Errorf("address %s: %s", address, strings.Join(mistakes, ", and "))
	}
	return nil
}

// maxHost is the maximum length of a DNS name in bytes.
const maxHost = 253

// Host returns an error if other nodes cannot dial host, an IP address or a host name. It rejects
// wildcards, addresses with a zone, and multicast and broadcast addresses. It does not resolve the name.
func Host(host string) error {
	ip, err := netip.ParseAddr(host)
	ip = ip.Unmap()
	switch {
	case host == "" || ip.WithZone("").IsUnspecified():
		return errors.New("other nodes cannot dial a wildcard address")
	case ip.Zone() != "":
		return fmt.Errorf("%s has a zone, which means something on one machine only", host)
	case ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s is a multicast or broadcast address, which cannot be dialed", host)
	case err != nil && !isHostName(host):
		return fmt.Errorf("%q is neither an IP address nor a host name", host)
	}
	return nil
}

// isHostName reports whether Go's resolver would look host up.
func isHostName(host string) bool {
	hasLetter, last := false, '.' // '_' and '-' count as letters
	for _, c := range host {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_', c == '-':
			hasLetter = true // without one it is a malformed IP address, such as 10.0.0.256
		case '0' <= c && c <= '9':
		case c == '.' && last != '.':
		default:
			return false
		}
		last = c
	}
	return hasLetter && len(host) <= maxHost
}
