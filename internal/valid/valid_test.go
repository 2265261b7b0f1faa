package valid

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestName(t *testing.T) {
	for _, good := range []string{
		"a", "ä€😀", strings.Repeat("x", 255), strings.Repeat("ä", 127), "a b\n\x00", "\uFFFD",
	} {
		require.NoError(t, Name(good), "%q", good)
	}
	for bad, why := range map[string]string{
		"":                                "the name is empty",
		strings.Repeat("x", 256):          "the name is 256 bytes long, the limit is 255",
		strings.Repeat("ä", 128):          "the name is 256 bytes long",
		"a\xff":                           `the name "a\xff" is not UTF-8`,
		"\xc0\x80":                        "is not UTF-8", // overlong
		"\xed\xa0\x80":                    "is not UTF-8", // half a surrogate pair
		strings.Repeat("x", 254) + "\xc3": "is not UTF-8", // cut in the middle
	} {
		require.ErrorContains(t, Name(bad), why, "%q", bad)
	}
}

func TestAddress(t *testing.T) {
	for _, good := range []string{
		"10.0.3.7:7946", "10.0.3.7:1", "10.0.3.7:65535", "[2001:db8::1]:7946", "[::1]:1", "127.0.0.1:1",
		"localhost:1", "a:1", "cache-1.profile_api.internal:7946", "host.example.:1", "1a:1",
		"xn--bcher-kva.example:1", strings.Repeat("a", 253) + ":1",
	} {
		require.NoError(t, Address(good), good)
	}
	const (
		wildcard = "other nodes cannot dial a wildcard address"
		port     = "port must be a number from 1 to 65535"
	)
	for bad, why := range map[string]string{
		"":                              "missing port in address",
		"host":                          "address host: missing port in address",
		"10.0.0.1":                      "missing port in address",
		"::1":                           "too many colons in address",
		"2001:db8::1:7946":              "too many colons in address",
		"[::1]":                         "missing port in address",
		"a:b:1":                         "too many colons in address",
		":7946":                         "address :7946: " + wildcard,
		"0.0.0.0:7946":                  wildcard,
		"[::]:7946":                     wildcard,
		"[::ffff:0.0.0.0]:7946":         wildcard,
		"[::%eth0]:7946":                wildcard,
		":0":                            wildcard + ", and " + port,
		"host:":                         port,
		"host:0":                        port,
		"host:00":                       port,
		"host:65536":                    port,
		"host:99999":                    port,
		"host:-1":                       port,
		"host:+1":                       port,
		"host: 1":                       port,
		"host:http":                     port,
		"host:18446744073709551617":     port,
		"[fe80::1%eth0]:7946":           "has a zone",
		"224.0.0.1:7946":                "is a multicast or broadcast address",
		"[ff02::1]:7946":                "is a multicast or broadcast address",
		"[::ffff:224.0.0.1]:1":          "is a multicast or broadcast address",
		"255.255.255.255:1":             "is a multicast or broadcast address",
		"10.0.0.256:1":                  "neither an IP address nor a host name",
		"1:1":                           "neither",
		"a..b:1":                        "neither",
		".a:1":                          "neither",
		"a b:1":                         "neither",
		"a/b:1":                         "neither",
		"http://host:1":                 "too many colons",
		"a\x00:1":                       "neither",
		"a\xff:1":                       "neither",
		"ä:1":                           "neither", // Go's resolver does not convert it to Punycode
		strings.Repeat("a", 254) + ":1": "neither",
	} {
		require.ErrorContains(t, Address(bad), why, "%q", bad)
	}
	require.NoError(t, Unbound("host:0"))
	require.NoError(t, Unbound("host:1"))
	require.ErrorContains(t, Unbound(":0"), wildcard)
	require.ErrorContains(t, Unbound("host:65536"), "port must be a number from 0 to 65535")
}

// An address that Address accepts can be split into host and port, and denotes a single place.
func FuzzAddress(f *testing.F) {
	for _, seed := range []string{"10.0.3.7:7946", "[::1]:1", "host:0", ":1", "[fe80::1%eth0]:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		_ = Name(address)
		if Address(address) != nil {
			return
		}
		require.NoError(t, Unbound(address))
		host, port, err := net.SplitHostPort(address)
		require.NoError(t, err)
		n, err := strconv.Atoi(port)
		require.NoError(t, err)
		require.True(t, n >= 1 && n <= 65535)
		require.True(t, host != "" && utf8.ValidString(host))
		if ip, err := netip.ParseAddr(host); err == nil {
			require.False(t, ip.IsUnspecified() || ip.IsMulticast())
		}
	})
}
