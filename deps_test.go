package geocache_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/geocache/geocache"

// imports returns all packages that a package of this module depends on, without tests and the
// standard library.
func imports(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f",
		"{{if not .Standard}}{{.ImportPath}}{{end}}", pkg).Output()
	require.NoError(t, err)
	var all []string
	for path := range strings.Lines(string(out)) {
		if path = strings.TrimSpace(path); path != pkg {
			all = append(all, path)
		}
	}
	return all
}

// Imports run one way: the root (a face) → internal/engine → peers, regions, internal/store and the
// rest → consistenthash, expiry. groupcompat is on top, and it alone needs groupcache. A program
// that embeds the cache depends on what the cache needs and nothing else.
func TestImports(t *testing.T) {
	leaves := []string{"/internal/lease", "/internal/origin", "/internal/canonical", "/internal/lossless",
		"/internal/keylock", "/internal/flight", "/internal/store", "/internal/outbox", "/internal/writebehind",
		"/internal/message", "/internal/valid", "/internal/wire",
		"/consistenthash", "/expiry", "/latency"}
	engine := append([]string{"/peers", "/regions"}, leaves...)
	root := append([]string{"/internal/engine"}, engine...)
	for pkg, allowed := range map[string][]string{
		"":                      root,
		"/internal/engine":      engine,
		"/internal/origin":      {},
		"/internal/canonical":   {"/internal/message", "/internal/wire", "/expiry"},
		"/internal/lossless":    {},
		"/internal/keylock":     {},
		"/internal/flight":      {"/expiry"},
		"/peertls":              {},
		"/peers":                {"/internal/lease", "/internal/valid", "/internal/wire", "/expiry", "/latency"},
		"/regions":              {"/internal/valid", "/consistenthash", "/expiry"},
		"/regions/consul":       {"/regions", "/internal/valid", "/consistenthash", "/expiry"},
		"/internal/store":       {"/expiry"},
		"/internal/message":     {"/internal/wire", "/expiry"},
		"/internal/outbox":      {"/internal/message", "/internal/wire", "/expiry"},
		"/internal/writebehind": {"/expiry"},
		"/internal/valid":       {},
		"/internal/wire":        {"/expiry"},
		"/consistenthash":       {},
		"/expiry":               {},
		"/latency":              {},
		"/groupcompat":          append([]string{""}, root...),
	} {
		all := imports(t, module+pkg)
		for _, path := range all {
			if of, ok := strings.CutPrefix(path, module); ok {
				require.Contains(t, allowed, of, "imported by %s", module+pkg)
			}
			for _, unwanted := range []string{"prometheus", "opentelemetry", "testify", "rapid", "goleak"} {
				require.NotContains(t, path, unwanted, "imported by %s", module+pkg)
			}
			if pkg != "/regions/consul" {
				require.NotContains(t, path, "consul", "imported by %s", module+pkg)
			}
			if pkg != "/groupcompat" {
				require.NotContains(t, path, "github.com/golang/", "imported by %s", module+pkg)
			}
		}
		require.Equal(t, len(allowed) > 0, strings.Contains(strings.Join(all, " "), module), "go list has found %v",
			all)
	}
}
