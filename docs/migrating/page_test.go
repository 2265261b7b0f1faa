package migrating

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each block of Go on the page is in a file that is compiled. Those that are not, of a module that
// is not a dependency here, say so.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../migrating.md")
	require.NoError(t, err)
	var sources []string
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".go" && !strings.HasSuffix(path, "_test.go") {
			var source []byte
			source, err = os.ReadFile(path)
			sources = append(sources, string(source))
		}
		return err
	}))
	contained := func(block string) bool {
		for _, source := range sources {
			if strings.Contains(source, "\n"+block) {
				return true
			}
		}
		return false
	}

	compiled, not := 0, 0
	rest := string(page)
	for {
		_, after, ok := strings.Cut(rest, "\n```go")
		if !ok {
			break
		}
		info, after, _ := strings.Cut(after, "\n")
		block, after, ok := strings.Cut(after, "\n```\n")
		require.True(t, ok, "a block without an end")
		rest = "\n" + after
		switch info {
		case "":
			compiled++
			require.True(t, contained(block+"\n"), "in no file under docs/migrating:\n%s", block)
		case " (not compiled)":
			not++
			require.Contains(t, block, "transport.", "only groupcache-go is not compiled")
		default:
			t.Errorf("what is %q?", info)
		}
	}
	require.GreaterOrEqual(t, compiled, 14, "blocks have been lost")
	require.Equal(t, 2, not)
}
