package consul

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/hashicorp/consul/api"
)

// requestTimeout bounds every request that is not a blocking query.
const requestTimeout = 5 * time.Second

// open returns a client and a function that closes its idle connections.
func (d *Discovery) open() (*api.Client, func(), error) {
	config := api.DefaultConfig()
	if d.config != nil {
		*config = *d.config // NewClient writes to it
	}
	if config.HttpClient == nil && config.Transport != nil {
		config.Transport = config.Transport.Clone() // NewClient writes to it, and closeIdle closes its connections
	}
	if config.HttpClient != nil {
		config.HttpClient = new(*config.HttpClient) // modified below
	}
	if config.WaitTime < 0 || config.WaitTime > time.Hour {
		return nil, nil, fmt.Errorf("client: WaitTime is %v, must be from 0 to 1 hour", config.WaitTime)
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, nil, fmt.Errorf("client: %w", err)
	}
	if t := config.HttpClient.Timeout; t > 0 && t < d.maxBlock() {
		return nil, nil, fmt.Errorf("client: HttpClient.Timeout of %v would cut off blocking queries, "+
			"which take up to %v: raise it or lower WaitTime", t, d.maxBlock())
	}
	original := *config.HttpClient
	config.HttpClient.Transport = limitedTransport{cmp.Or(original.Transport, http.DefaultTransport)}
	return client, original.CloseIdleConnections, nil
}

// wait returns how long Consul may hold a blocking query. Consul's own default is 5 minutes; one minute
// detects a dead connection sooner and costs an agent next to nothing.
//
// It also bounds how late news arrives from a datacenter that failed and came back: the local agent retries
// the query that it forwards until this time is over, and keeps the caller waiting meanwhile.
func (d *Discovery) wait() time.Duration {
	if d.config != nil && d.config.WaitTime > 0 {
		return d.config.WaitTime
	}
	return time.Minute
}

// maxBlock returns how long a blocking query may take before it counts as failed. Consul adds up to a
// sixteenth of the wait time to spread the load.
func (d *Discovery) maxBlock() time.Duration {
	return d.wait() + d.wait()/16 + requestTimeout
}

// get queries an endpoint whose method in package api does not accept a context.
func get(ctx context.Context, client *api.Client, endpoint string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := client.Raw().Query(endpoint, out, new(api.QueryOptions).WithContext(ctx))
	return err
}

// recovered calls f and turns a panic into an error. Consul's answers are processed by its client and by
// this package, on goroutines where a panic would end the process.
func recovered(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}

// maxResponse bounds the size of a response in bytes. It has room for more than 65,536 instances.
const maxResponse = 256 << 20

// limitedTransport fails reads beyond the first maxResponse bytes of a response.
type limitedTransport struct{ http.RoundTripper }

func (l limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := l.RoundTripper.RoundTrip(r)
	if err == nil && response.Body != nil {
		response.Body = &limitedBody{ReadCloser: response.Body, left: maxResponse}
	}
	return response, err
}

type limitedBody struct {
	io.ReadCloser
	left int
}

func (b *limitedBody) Read(p []byte) (n int, err error) {
	if b.left == 0 {
		return 0, fmt.Errorf("consul: response exceeds %d bytes", maxResponse)
	}
	n, err = b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
