package consul

import (
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
)

// This file is about answers that no Consul gives, but that something in its place may.

// guarded returns what try does, or an error if it panics. What Consul answers goes through its client
// and through this package, on goroutines that nobody but this package could
// save the process from.
func guarded(try func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return try()
}

// maxAnswer is how large an answer of Consul's may be: more than 65,536 instances take.
const maxAnswer = 256 << 20

// bounded reads answers up to maxAnswer.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.RoundTripper.RoundTrip(r)
	if err == nil && answer.Body != nil {
		answer.Body = &boundedBody{ReadCloser: answer.Body, left: maxAnswer}
	}
	return answer, err
}

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (n int, err error) {
	if b.left == 0 {
		return 0, fmt.Errorf("consul: an answer of more than %d bytes", maxAnswer)
	}
	n, err = b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
