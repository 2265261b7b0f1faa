// Package peertls loads the TLS configuration of a node from files and reloads it when they change, so
// certificates and certificate authorities (CAs) can be rotated without a restart.
//
//	files, err := peertls.Load(peertls.Options{
//		Certificate: "/etc/keys/tls.crt",
//		Key:         "/etc/keys/tls.key",
//		Authorities: "/etc/keys/ca.crt",
//	})
//	if err != nil {
//		return err
//	}
//	defer files.Close()
//	cache, err := geocache.Open(ctx,
//		geocache.WithTLSFunc(files.TLS),
//		geocache.WithPeerNames("cache.profile-api"),
//		...)
//
// # Rotation
//
// The files are read once per Options.Interval. They are read whole, so it does not matter how they are
// replaced: overwritten, renamed, or through a symbolic link that is switched, as Kubernetes does. A change
// is applied once a second read a moment later returns the same content.
//
// Invalid files are logged, counted and otherwise ignored; the last valid configuration stays in use.
// Invalid are, for example: a half-written file, a key that does not belong to the certificate, and a
// certificate that is for servers only, has expired, or was not issued by one of the CAs.
//
// To rotate a certificate, replace it and its key. To rotate a CA, take three steps, each on all nodes
// before the next one begins:
//
//  1. Add the new CA to the file of CAs, beside the old one.
//  2. Replace certificates and keys with ones issued by the new CA.
//  3. Remove the old CA.
//
// A step is complete on a node when Stats().Loaded has increased. Its peers follow a second or two later,
// when they have reconnected. After the third step, nodes refuse certificates of the old CA and close
// connections that were made with one.
//
// # Promises
//
// At any time [Files.TLS] returns a configuration that was valid, for servers and for clients, when it was
// loaded. A configuration that was returned never changes. The package does not check which names peers
// have; that is what geocache.WithPeerNames is for.
package peertls

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Options says where the files are. The three paths are required.
type Options struct {
	// Certificate is a PEM file with the node's certificate, valid for servers and clients, followed by any
	// intermediate certificates.
	Certificate string

	Key string // PEM file with the certificate's private key

	// Authorities is a PEM file with the certificates of the CAs that issue the nodes' certificates.
	Authorities string

	// Interval is how often the files are read. Default 1 min, minimum 10 ms.
	Interval time.Duration

	// Logger logs what was loaded and what was invalid. Default slog.Default().
	Logger *slog.Logger
}

// Files is a TLS configuration from files that are being watched. Its methods are safe for concurrent use.
type Files struct {
	options Options
	config  atomic.Pointer[tls.Config]
	stop    context.CancelFunc
	done    chan struct{}

	mu     sync.Mutex // guards the fields below; held while files are applied
	read   contents   // last applied
	logged failure    // last logged
	stats  Stats
	warned bool // that the certificate expires soon
}

// Stats is the state of Files.
type Stats struct {
	// NotAfter is when the certificate in use expires.
	NotAfter time.Time

	Loaded uint64 // times that new content was loaded, including the first time
	Failed uint64 // times that the files could not be read or were invalid
	Err    error  // the last failure; nil if the configuration in use is that of the files
}

// Load reads the files and watches them until Close. Call Close to release the goroutine that does so. The
// error reports every mistake in options, or else what is wrong with the files.
func Load(options Options) (*Files, error) {
	var errs []error
	for _, file := range []struct{ name, path string }{
		{"Certificate", options.Certificate}, {"Key", options.Key}, {"Authorities", options.Authorities},
	} {
		if file.path == "" {
			errs = append(errs, fmt.Errorf("peertls: Options.%s is required", file.name))
		}
	}
	switch {
	case options.Interval == 0:
		options.Interval = time.Minute
	case options.Interval < 10*time.Millisecond:
		errs = append(errs, fmt.Errorf("peertls: Options.Interval is %v, must be at least 10ms", options.Interval))
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	f := &Files{options: options, done: make(chan struct{})}
	if err := f.Reload(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	go f.watch(ctx)
	return f, nil
}

// TLS returns the configuration in use, for servers and clients. It returns the same pointer until new
// files are loaded. Pass the method to geocache.WithTLSFunc. The configuration does not restrict the names
// of peers; use geocache.WithPeerNames for that. The caller must not modify it.
func (f *Files) TLS() *tls.Config { return f.config.Load() }

// Stats returns the current state.
func (f *Files) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

// Reload reads the files now and applies changes. It returns an error if the files are invalid.
func (f *Files) Reload() error {
	read, err := f.options.read()
	return f.apply(read, err)
}

// Close stops the watching. The configuration in use stays available.
func (f *Files) Close() {
	f.stop()
	<-f.done
}

// watch reads the files once per interval.
func (f *Files) watch(ctx context.Context) {
	defer close(f.done)
	ticker := time.NewTicker(f.options.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		read, err := f.options.read()
		if err == nil && !f.current(read) {
			// They may be in the middle of being replaced, and half a file of CAs can look like a
			// complete one.
			select {
			case <-time.After(min(f.options.Interval/2, time.Second)):
			case <-ctx.Done():
				return
			}
			again, failed := f.options.read()
			if failed == nil && again != read {
				continue
			}
			read, err = again, failed
		}
		_ = f.apply(read, err)
		f.warn()
	}
}

// current reports whether the configuration in use is the one that was read.
func (f *Files) current(read contents) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats.Err == nil && f.read == read
}

// apply makes the given contents the configuration in use, unless they are already or are invalid. err is
// the error of reading them.
func (f *Files) apply(read contents, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.config.Load() != nil && f.read == read {
		f.stats.Err = nil // the last valid files were restored
		return nil
	}
	var config *tls.Config
	if err == nil {
		config, err = read.parse(time.Now())
	}
	if err != nil {
		err = fmt.Errorf("peertls: %w", err)
		f.stats.Failed++
		// Log each failure once. Compare the contents and not the errors, since those of x509 contain the
		// time.
		if what := failureOf(read, err); f.config.Load() != nil && (f.stats.Err == nil || f.logged != what) {
			f.logged = what
			f.options.Logger.Error("TLS files are invalid, keeping the last valid configuration", "error", err)
		}
		f.stats.Err = err
		return err
	}
	f.read = read
	f.stats.Err, f.stats.NotAfter = nil, config.Certificates[0].Leaf.NotAfter
	f.stats.Loaded++
	f.warned = false
	f.config.Store(config)
	f.options.Logger.Info("TLS files loaded", "certificate", f.options.Certificate, "expires", f.stats.NotAfter)
	return nil
}

// warn logs once when less than a tenth of the certificate's lifetime is left.
func (f *Files) warn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	leaf := f.config.Load().Certificates[0].Leaf
	if life := leaf.NotAfter.Sub(leaf.NotBefore); !f.warned && time.Until(leaf.NotAfter) < life/10 {
		f.warned = true
		f.options.Logger.Warn("certificate of this node expires soon",
			"certificate", f.options.Certificate, "expires", leaf.NotAfter)
	}
}

// A failure identifies invalid files by what was read of them or, if that is nothing, by the error.
type failure struct {
	read contents
	err  string
}

func failureOf(read contents, err error) failure {
	if read == (contents{}) {
		return failure{err: err.Error()}
	}
	return failure{read: read}
}

// contents is the contents of the files.
type contents struct{ certificate, key, authorities string }

func (o *Options) read() (c contents, err error) {
	for _, file := range []struct {
		path string
		into *string
	}{{o.Certificate, &c.certificate}, {o.Key, &c.key}, {o.Authorities, &c.authorities}} {
		b, err := os.ReadFile(file.path)
		if err != nil {
			return c, err
		}
		*file.into = string(b)
	}
	return c, nil
}

// parse returns the configuration for the given contents. It fails unless other nodes with the same CAs
// would accept the certificate at time now.
func (c contents) parse(now time.Time) (*tls.Config, error) {
	pair, err := tls.X509KeyPair([]byte(c.certificate), []byte(c.key))
	if err != nil {
		return nil, fmt.Errorf("certificate and key: %w", err)
	}
	if _, err := certificates(c.certificate); err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	authorities, err := certificates(c.authorities)
	if err != nil {
		return nil, fmt.Errorf("authorities: %w", err)
	}
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	for _, a := range authorities {
		pool.AddCert(a)
	}
	for _, der := range pair.Certificate[1:] {
		if b, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(b)
		}
	}
	for _, role := range []struct {
		name  string
		usage x509.ExtKeyUsage
	}{{"server", x509.ExtKeyUsageServerAuth}, {"client", x509.ExtKeyUsageClientAuth}} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{
			Roots: pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{role.usage},
		})
		if err != nil {
			return nil, fmt.Errorf("no %s would be accepted with this certificate by these CAs: %w", role.name, err)
		}
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		RootCAs:      pool,
		ClientCAs:    pool,
		MinVersion:   tls.VersionTLS13,
	}, nil
}

// certificates returns the certificates in a file. It fails if there is none or if one seems to be
// truncated.
func certificates(file string) (all []*x509.Certificate, err error) {
	rest := []byte(file)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue // for example a key in the same file
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(all)+1, err)
		}
		all = append(all, c)
	}
	switch {
	case len(all) == 0:
		return nil, errors.New("no certificate in the file")
	case bytes.Contains(rest, []byte("-----BEGIN")) ||
		bytes.Count([]byte(file), []byte("-----BEGIN CERTIFICATE-----")) != len(all):
		return nil, errors.New("a certificate is not complete")
	}
	return all, nil
}
