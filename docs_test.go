package geocache_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The snippets of docs/strategies.md are parts of the examples, which are compiled and run.
func TestSnippetsAreExamples(t *testing.T) {
	unindented := func(code string) string {
		var b strings.Builder
		for line := range strings.Lines(code) {
			b.WriteString(strings.TrimSpace(line) + "\n")
		}
		return b.String()
	}
	var examples string
	for _, name := range []string{"example_test.go", "example_writes_test.go", "example_strategies_test.go"} {
		code, err := os.ReadFile(name)
		require.NoError(t, err)
		examples += unindented(string(code))
	}
	page, err := os.ReadFile("docs/strategies.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(page), "```go\n")
	snippets := 0
	for ; found; _, rest, found = strings.Cut(rest, "```go\n") {
		snippet, after, ok := strings.Cut(rest, "```")
		require.True(t, ok)
		require.Contains(t, examples, unindented(snippet))
		rest = after
		snippets++
	}
	require.Equal(t, 13, snippets)
}
