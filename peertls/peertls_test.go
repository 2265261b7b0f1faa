package peertls

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	ca "github.com/geocache/geocache/internal/testcluster/authority"

	"github.com/geocache/geocache/internal/testcluster/logs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A directory holds the files of a node.
type directory struct {
	t    *testing.T
	path string
}

func newDirectory(t *testing.T, a *ca.Authority, changes ...ca.Change) *directory {
	d := &directory{t, t.TempDir()}
	d.issue(a, changes...)
	d.write("ca.crt", a.PEM())
	return d
}

func (d *directory) write(file string, content []byte) {
	require.NoError(d.t, os.WriteFile(filepath.Join(d.path, file), content, 0o600))
}

func (d *directory) issue(a *ca.Authority, changes ...ca.Change) {
	certificate, key := ca.Files(d.t, a.Issue(changes...))
	d.write("tls.crt", certificate)
	d.write("tls.key", key)
}

func (d *directory) options() Options {
	return Options{
		Certificate: filepath.Join(d.path, "tls.crt"),
		Key:         filepath.Join(d.path, "tls.key"),
		Authorities: filepath.Join(d.path, "ca.crt"),
		Interval:    10 * time.Millisecond,
		Logger:      slog.New(slog.DiscardHandler),
	}
}

func load(t *testing.T, o Options) *Files {
	t.Helper()
	f, err := Load(o)
	require.NoError(t, err)
	t.Cleanup(f.Close)
	return f
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 10*time.Second, time.Millisecond)
}

func TestChangedFilesAreLoaded(t *testing.T) {
	a, b := ca.New(t), ca.New(t)
	d := newDirectory(t, a, ca.DNS("one"))
	f := load(t, d.options())
	first := f.TLS()
	require.Equal(t, []string{"one"}, first.Certificates[0].Leaf.DNSNames)
	require.EqualValues(t, 1, f.Stats().Loaded)
	require.InDelta(t, time.Hour, time.Until(f.Stats().NotAfter), float64(time.Minute))
	require.NoError(t, f.Reload())
	require.Same(t, first, f.TLS(), "nothing has changed")

	d.write("ca.crt", append(a.PEM(), b.PEM()...))
	eventually(t, func() bool { return f.Stats().Loaded == 2 })
	require.True(t, f.TLS().RootCAs.Equal(ca.Pool(a, b)))
	require.True(t, f.TLS().ClientCAs.Equal(ca.Pool(a, b)))
	require.True(t, first.RootCAs.Equal(ca.Pool(a)), "a returned configuration does not change")

	d.issue(b, ca.DNS("two"))
	eventually(t, func() bool { return f.TLS().Certificates[0].Leaf.DNSNames[0] == "two" })
	d.write("ca.crt", b.PEM())
	require.NoError(t, f.Reload())
	require.True(t, f.TLS().RootCAs.Equal(ca.Pool(b)))
}

// Whatever is wrong with the files, the last valid configuration stays in use, and Stats and the log say
// why.
func TestInvalidFilesAreIgnored(t *testing.T) {
	a, b := ca.New(t), ca.New(t)
	whole, _ := ca.Files(t, a.Issue())
	for name, c := range map[string]struct {
		do   func(*directory)
		text string
	}{
		"a certificate without its key": {func(d *directory) {
			d.write("tls.crt", whole)
		}, "private key does not match"},
		"half a certificate": {func(d *directory) {
			d.write("tls.crt", whole[:len(whole)/2])
		}, "certificate"},
		"an empty key": {func(d *directory) { d.write("tls.key", nil) }, "key"},
		"no key": {func(d *directory) {
			require.NoError(t, os.Remove(d.options().Key))
		}, "no such file"},
		"a truncated CA": {func(d *directory) {
			d.write("ca.crt", append(a.PEM(), b.PEM()[:100]...))
		}, "not complete"},
		"a corrupt CA": {func(d *directory) {
			d.write("ca.crt", bytes.Replace(append(a.PEM(), b.PEM()...), []byte("MII"), []byte("!!!"), 1))
		}, "not complete"},
		"no CA": {func(d *directory) {
			d.write("ca.crt", []byte("\n"))
		}, "no certificate in the file"},
		"issued by another CA":   {func(d *directory) { d.issue(b) }, "unknown authority"},
		"without the issuing CA": {func(d *directory) { d.write("ca.crt", b.PEM()) }, "unknown authority"},
		"for servers only": {func(d *directory) {
			d.issue(a, ca.For(x509.ExtKeyUsageServerAuth))
		}, "no client would be accepted"},
		"for clients only": {func(d *directory) {
			d.issue(a, ca.For(x509.ExtKeyUsageClientAuth))
		}, "no server would be accepted"},
		"expired": {func(d *directory) { d.issue(a, ca.Until(time.Now().Add(-time.Minute))) }, "expired"},
		"not valid yet": {func(d *directory) {
			d.issue(a, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })
		}, "not yet valid"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDirectory(t, a)
			log := new(logs.Buffer)
			o := d.options()
			o.Logger = slog.New(slog.NewTextHandler(log, nil))
			f := load(t, o)
			before := f.TLS()
			c.do(d)
			eventually(t, func() bool { return f.Stats().Failed >= 3 })
			require.Same(t, before, f.TLS())
			require.ErrorContains(t, f.Stats().Err, c.text)
			require.ErrorContains(t, f.Reload(), c.text)
			require.Equal(t, 1, strings.Count(log.String(), "level=ERROR"), "logged once, not each time: %s", log)

			d.issue(a)
			d.write("ca.crt", a.PEM())
			eventually(t, func() bool { return f.Stats().Err == nil })
			require.NotSame(t, before, f.TLS())

			c.do(d)
			_, err := Load(o)
			require.ErrorContains(t, err, c.text)
		})
	}
}

// Kubernetes replaces all files at once by switching one symbolic link.
func TestASwitchedLinkIsNoticed(t *testing.T) {
	a := ca.New(t)
	one, two := newDirectory(t, a, ca.DNS("one")), newDirectory(t, a, ca.DNS("two"))
	mount := t.TempDir()
	switchLink := func(to string) {
		require.NoError(t, os.Symlink(to, filepath.Join(mount, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(mount, "..data_tmp"), filepath.Join(mount, "..data")))
	}
	switchLink(one.path)
	for _, file := range []string{"tls.crt", "tls.key", "ca.crt"} {
		require.NoError(t, os.Symlink(filepath.Join("..data", file), filepath.Join(mount, file)))
	}
	f := load(t, (&directory{t, mount}).options())
	switchLink(two.path)
	eventually(t, func() bool { return f.TLS().Certificates[0].Leaf.DNSNames[0] == "two" })
	require.Zero(t, f.Stats().Failed)
}

func TestUpcomingExpiryIsLogged(t *testing.T) {
	log := new(logs.Buffer)
	d := newDirectory(t, ca.New(t), ca.Until(time.Now().Add(time.Minute)))
	o := d.options()
	o.Logger = slog.New(slog.NewTextHandler(log, nil))
	load(t, o)
	eventually(t, func() bool { return strings.Contains(log.String(), "expires soon") })
}

func TestLoadReportsEveryMistake(t *testing.T) {
	_, err := Load(Options{Interval: time.Millisecond})
	for _, text := range []string{"Certificate", "Key", "Authorities", "Interval"} {
		require.ErrorContains(t, err, "Options."+text)
	}
}
