package geocache

import (
	"fmt"
	"net"
	"reflect"

	"github.com/geocache/geocache/internal/valid"
)

// This file is about where a node listens, and where others are told that it does.

// checkListen returns what is wrong with the address that option listens on.
func (c *config) checkListen(option, address string) (errs []error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return []error{fmt.Errorf("%s(%q): %w", option, address, err)}
	}
	if _, err := net.LookupPort("tcp", port); err != nil { // it may be the name of one
		errs = append(errs, fmt.Errorf("%s(%q): %w", option, address, err))
	}
	if err := valid.Host(host); err != nil && c.Advertise == "" {
		errs = append(errs, fmt.Errorf("%s(%q): %w; name one by WithAdvertise", option, address, err))
	}
	ip := net.ParseIP(host)
	if c.TLS == nil && !c.plaintext && host != "localhost" && !ip.IsLoopback() {
		errs = append(errs, fmt.Errorf("%s(%q): beyond loopback use WithTLS, or say WithPlaintext", option, address))
	}
	return errs
}

// isNil reports whether v has a type and is nil all the same, which is a mistake, most likely. (A list or a
// map that is nil is empty, which may be meant.)
func isNil(v any) bool {
	r := reflect.ValueOf(v)
	return (r.Kind() == reflect.Func || r.Kind() == reflect.Pointer) && r.IsNil()
}
