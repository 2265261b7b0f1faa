package peers

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// This file is names: which there are in a certificate, and whether one of them is accepted.

// spiffeScheme begins a name that is a SPIFFE ID, and everyPath ends one that is a prefix.
const (
	spiffeScheme = "spiffe://"
	everyPath    = "/*"
)

// maxSPIFFE is the longest SPIFFE ID that its standard allows, in bytes.
const maxSPIFFE = 2048

// CheckName returns what is wrong with a name for Config.PeerNames, or nil.
func CheckName(name string) error {
	if id, ok := strings.CutPrefix(name, spiffeScheme); ok {
		domain, path, rooted := strings.Cut(strings.TrimSuffix(id, everyPath), "/")
		switch {
		case len(name) > maxSPIFFE:
			return fmt.Errorf("a SPIFFE ID of %d bytes, at most %d are allowed", len(name), maxSPIFFE)
		case !isTrustDomain(domain):
			return fmt.Errorf("%q: a trust domain has lower-case letters, digits, dots, dashes and underscores", name)
		case rooted && !isSPIFFEPath(path):
			return fmt.Errorf("%q: a path has segments of letters, digits, dots, dashes and underscores; "+
				"%s at its end stands for all below", name, everyPath)
		case !rooted && !strings.HasSuffix(id, everyPath):
			return fmt.Errorf("%q: no path; %q is the whole trust domain", name, spiffeScheme+domain+everyPath)
		}
		return nil
	}
	switch {
	case name == "":
		return errors.New("an empty name")
	case strings.Contains(name, "://"):
		return fmt.Errorf("%q: of URIs only SPIFFE IDs are names, which begin with %s", name, spiffeScheme)
	case net.ParseIP(name) != nil:
		return nil
	case strings.Contains(name, "*"):
		return fmt.Errorf("%q: a wildcard belongs into a certificate, a name is what it has to be valid for", name)
	case len(name) > 253 || !consistsOf(name, isHostByte) || strings.Contains("."+name, ".."):
		return fmt.Errorf("%q is neither a DNS name nor a SPIFFE ID", name)
	}
	return nil
}

// validFor reports whether a certificate is valid for one of the names.
func validFor(leaf *x509.Certificate, names []string) bool {
	id, isSPIFFE := spiffeID(leaf)
	return slices.ContainsFunc(names, func(name string) bool {
		if !strings.HasPrefix(name, spiffeScheme) {
			return leaf.VerifyHostname(name) == nil
		}
		if prefix, ok := strings.CutSuffix(name, "*"); ok {
			return isSPIFFE && strings.HasPrefix(id, prefix)
		}
		return isSPIFFE && id == name
	})
}

// spiffeID returns the SPIFFE ID of a certificate. As the standard of X.509-SVIDs demands, it is none
// if there is another URI, or if the certificate is an authority's. Only the one way of writing an ID
// counts, so that an ID is what its bytes are.
func spiffeID(leaf *x509.Certificate) (id string, ok bool) {
	const signs = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	if len(leaf.URIs) != 1 || leaf.IsCA || leaf.KeyUsage&signs != 0 {
		return "", false
	}
	u := leaf.URIs[0]
	path, rooted := strings.CutPrefix(u.Path, "/")
	if *u != (url.URL{Scheme: "spiffe", Host: u.Host, Path: u.Path}) || !isTrustDomain(u.Host) || !rooted || !isSPIFFEPath(path) {
		return "", false
	}
	id = spiffeScheme + u.Host + u.Path
	return id, len(id) <= maxSPIFFE
}

func isTrustDomain(s string) bool {
	return s != "" && len(s) <= 255 && consistsOf(s, func(b byte) bool { return isHostByte(b) && !isUpper(b) })
}

// isSPIFFEPath says whether s, without the slash before it, is a path of one segment at least.
func isSPIFFEPath(s string) bool {
	for segment := range strings.SplitSeq(s, "/") {
		if segment == "" || segment == "." || segment == ".." || !consistsOf(segment, isHostByte) {
			return false
		}
	}
	return true
}

func isHostByte(b byte) bool {
	return isUpper(b) || b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || strings.IndexByte("-_.", b) >= 0
}

func isUpper(b byte) bool { return b >= 'A' && b <= 'Z' }

func consistsOf(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return true
}

// namesOf returns the names in a certificate, each once and in order: two certificates with the same are for
// the same party.
func namesOf(leaf *x509.Certificate) []string {
	var names []string
	for _, name := range leaf.DNSNames {
		names = append(names, "DNS "+strings.ToLower(name))
	}
	for _, ip := range leaf.IPAddresses {
		names = append(names, "IP "+ip.String())
	}
	for _, uri := range leaf.URIs {
		names = append(names, "URI "+uri.String())
	}
	for _, address := range leaf.EmailAddresses {
		names = append(names, "email "+address)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// listed is names as a message has them: what is not plain in them is a question mark, since they are
// another's, and not all are there if they are many or long.
func listed(names []string) string {
	const most, longest = 8, 256
	if len(names) == 0 {
		return "no name"
	}
	var plain []string
	for _, name := range names[:min(len(names), most)] {
		if len(name) > longest {
			name = name[:longest] + "..."
		}
		plain = append(plain, strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' || r == '"' || r == '\\' {
				return '?'
			}
			return r
		}, name))
	}
	if more := len(names) - most; more > 0 {
		plain = append(plain, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(plain, ", ")
}
