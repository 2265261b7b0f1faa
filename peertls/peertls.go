// Package peertls makes the TLS configuration of a node from files, and follows them: certificates and
// authorities are rotated without a restart.
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
// The files are read once in Options.Interval, whole, so it does not matter how they are replaced:
// written over, renamed, or by a link that is turned, as Kubernetes does. What has changed is taken in
// when it is the same at a second look a moment later. What is no use is left alone, logged and
// counted, and what was there before goes on: a file that is half written, a key that does not belong
// to the certificate, a certificate that is for servers only, that has ended, or that none of the
// authorities has issued.
//
// A certificate is rotated by replacing it and its key. An authority is rotated in three steps, each of
// them on all nodes before the next one begins:
//
//  1. Add the new authority to the file of authorities, beside the old one.
//  2. Replace certificates and keys by those that the new one has issued.
//  3. Take the old one out.
//
// A step is done on a node when Stats().Loaded has grown, and with its peers a second or two after
// that: they make their connections anew. After the third step certificates of the old authority are
// refused, and connections that were made with them end.
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
	Certificate string // PEM: the node's certificate, for servers and clients, and those between it and the authority
	Key         string // PEM: its private key
	Authorities string // PEM: the authorities whose certificates other nodes may have

	// Interval is how often the files are read. Default 1 min, at least 10 ms.
	Interval time.Duration

	// Logger is where it is logged what was taken in and what was not; by default slog.Default().
	Logger *slog.Logger
}

// Files is a configuration from files that are being watched. Its methods are safe for concurrent use.
type Files struct {
	options Options
	config  atomic.Pointer[tls.Config]
	stop    context.CancelFunc
	done    chan struct{}

	mu     sync.Mutex // guards the following; held while files are taken in
	read   contents   // what was read last and taken in
	told   failure    // what was logged last that was no use
	stats  Stats
	warned bool // of the certificate's end
}

// Stats says how it goes.
type Stats struct {
	// NotAfter is when the certificate ends that is in use.
	NotAfter time.Time

	Loaded uint64 // how often something new was taken in, the first time included
	Failed uint64 // how often the files could not be read, or were no use
	Err    error  // why, the last time; nil if the files are what is in use
}

// Left returns for how long the certificate in use still is good. It is negative after its end.
func (s Stats) Left() time.Duration { return time.Until(s.NotAfter) }

// Load reads the files and watches them until Close. The error says everything that is wrong with
// options, or what is wrong with the files.
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
		errs = append(errs, fmt.Errorf("peertls: Options.Interval is %v, it must be at least 10ms", options.Interval))
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

// TLS returns the configuration in use: another one after something new was taken in, else the same. It
// is what geocache.WithTLSFunc wants, for servers and clients alike, and says nothing of the names that
// others must have: that is for geocache.WithPeerNames. It must not be changed.
func (f *Files) TLS() *tls.Config { return f.config.Load() }

// Stats returns how it goes.
func (f *Files) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

// Reload reads the files at once, and takes in what is new. It returns why not.
func (f *Files) Reload() error {
	read, err := f.options.read()
	return f.take(read, err)
}

// Close ends the watching. The configuration that was in use stays so.
func (f *Files) Close() {
	f.stop()
	<-f.done
}

// watch looks at the files from time to time.
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
		if err == nil && !f.uses(read) {
			// Whoever replaces them may be in the middle of it, and half of a list of authorities looks like
			// a list.
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
		_ = f.take(read, err)
		f.warn()
	}
}

// uses reports whether what was read is in use.
func (f *Files) uses(read contents) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats.Err == nil && f.read == read
}

// take takes in what was read, unless it is in use already or no use.
func (f *Files) take(read contents, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.config.Load() != nil && f.read == read {
		f.stats.Err = nil // what was wrong has been put back
		return nil
	}
	var config *tls.Config
	if err == nil {
		config, err = read.parse(time.Now())
	}
	if err != nil {
		err = fmt.Errorf("peertls: %w", err)
		f.stats.Failed++
		// Once for each that is read: the errors of x509 tell the time.
		if what := failureOf(read, err); f.config.Load() != nil && (f.stats.Err == nil || f.told != what) {
			f.told = what
			f.options.Logger.Error("files for TLS are no use, what was read before goes on", "error", err)
		}
		f.stats.Err = err
		return err
	}
	f.read = read
	f.stats.Err, f.stats.NotAfter = nil, config.Certificates[0].Leaf.NotAfter
	f.stats.Loaded++
	f.warned = false
	f.config.Store(config)
	f.options.Logger.Info("files for TLS read", "certificate", f.options.Certificate, "ends", f.stats.NotAfter)
	return nil
}

// warn says once that the certificate nears its end: a tenth of its life is left.
func (f *Files) warn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	leaf := f.config.Load().Certificates[0].Leaf
	if life := leaf.NotAfter.Sub(leaf.NotBefore); !f.warned && f.stats.Left() < life/10 {
		f.warned = true
		f.options.Logger.Warn("the certificate of this node ends soon", "certificate", f.options.Certificate, "ends", leaf.NotAfter)
	}
}

// A failure is what was read, or why nothing was.
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

// contents is what is in the files.
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

// parse makes a configuration of what was read, if it is one that other nodes would accept
// now. They trust the same authorities.
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
			return nil, fmt.Errorf("no %s would be accepted with this certificate by these authorities: %w", role.name, err)
		}
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		RootCAs:      pool,
		ClientCAs:    pool,
		MinVersion:   tls.VersionTLS13,
	}, nil
}

// certificates returns the certificates in a file, which has at least one, and nothing that looks like
// a part of one.
func certificates(file string) (all []*x509.Certificate, err error) {
	rest := []byte(file)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue // such as the key, in the same file
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("number %d: %w", len(all)+1, err)
		}
		all = append(all, c)
	}
	switch {
	case len(all) == 0:
		return nil, errors.New("no certificate in the file")
	case bytes.Contains(rest, []byte("-----BEGIN")) || bytes.Count([]byte(file), []byte("-----BEGIN CERTIFICATE-----")) != len(all):
		return nil, errors.New("a certificate that is not complete")
	}
	return all, nil
}
