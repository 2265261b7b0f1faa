package prom

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster/authority"
	"github.com/geocache/geocache/peertls"
)

func TestCertificateExpiry(t *testing.T) {
	s := geocache.Stats{Certificate: time.Now().Add(36 * time.Hour)}
	c := collector{func() geocache.Stats { return s }}
	problems, err := testutil.CollectAndLint(c)
	require.NoError(t, err)
	require.Empty(t, problems)
	require.Contains(t, text(t, c), "geocache_certificate_left_seconds 1295")
}

// files writes a certificate to files, loads these, and returns them with the paths.
func files(t *testing.T) (*peertls.Files, peertls.Options) {
	a, dir := authority.New(t), t.TempDir()
	certificate, key := authority.Files(t, a.Issue())
	options := peertls.Options{
		Certificate: filepath.Join(dir, "tls.crt"),
		Key:         filepath.Join(dir, "tls.key"),
		Authorities: filepath.Join(dir, "ca.crt"),
		Logger:      slog.New(slog.DiscardHandler),
	}
	for file, content := range map[string][]byte{
		options.Certificate: certificate, options.Key: key, options.Authorities: a.PEM(),
	} {
		require.NoError(t, os.WriteFile(file, content, 0o600))
	}
	files, err := peertls.Load(options)
	require.NoError(t, err)
	t.Cleanup(files.Close)
	return files, options
}

func TestFilesCollector(t *testing.T) {
	files, options := files(t)
	require.NoError(t, os.Remove(options.Key))
	require.Error(t, files.Reload())
	require.Error(t, files.Reload())
	problems, err := testutil.CollectAndLint(NewFilesCollector(files))
	require.NoError(t, err)
	require.Empty(t, problems)
	got := text(t, NewFilesCollector(files))
	require.Contains(t, got, "geocache_certificate_files_loaded_total 1")
	require.Contains(t, got, "geocache_certificate_files_failed_total 2")
}
