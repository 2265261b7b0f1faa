package geocache_test

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sources calls visit for each Go file of the repository, of all modules, except generated ones.
func sources(t *testing.T, visit func(path string, data []byte)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != ".":
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, ".pb.go"):
			return nil
		}
		data, err := os.ReadFile(path)
		visit(filepath.ToSlash(path), data)
		return err
	})
	require.NoError(t, err)
}

// A file can be read in one go, and a type understood in one sitting.
func TestNothingIsTooLarge(t *testing.T) {
	type typ struct{ dir, name string }
	methods := map[typ]int{}
	sources(t, func(path string, data []byte) {
		require.LessOrEqual(t, strings.Count(string(data), "\n"), 500, "%s has more lines", path)
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		file, err := parser.ParseFile(gotoken.NewFileSet(), path, data, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv == nil {
				continue
			}
			recv := f.Recv.List[0].Type
			if star, ok := recv.(*ast.StarExpr); ok {
				recv = star.X
			}
			switch x := recv.(type) {
			case *ast.IndexExpr:
				recv = x.X
			case *ast.IndexListExpr:
				recv = x.X
			}
			methods[typ{filepath.Dir(path), recv.(*ast.Ident).Name}]++
		}
	})
	for t_, n := range methods {
		require.LessOrEqual(t, n, 60, "%s.%s has more methods", t_.dir, t_.name)
	}
	require.Greater(t, len(methods), 100)
}

// The public API has types of this package, of the standard library and of package regions only.
func TestThePublicAPIHasNoInternalTypes(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "doc", "-all", ".").Output()
	require.NoError(t, err)
	sentinel := regexp.MustCompile(`^\s*Err\w+ += engine\.Err\w+$`) // a value, not a type
	foreign := regexp.MustCompile(`\b(canonical|engine|expiry|flight|keylock|latency|lease|lossless|message|` +
		`origin|outbox|peers|store|wire|writebehind)\.[A-Z]`)
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimRight(line, "\n"); !sentinel.MatchString(line) {
			require.NotRegexp(t, foreign, line)
		}
	}
	require.Contains(t, string(out), "func NewGroup[V any]")
}
