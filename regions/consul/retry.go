package consul

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	minBackoff = 500 * time.Millisecond
	maxBackoff = 10 * time.Second
)

// A backoff is the last delay between two attempts, before jitter; 0 before the first retry.
type backoff time.Duration

// next doubles the delay, within minBackoff and maxBackoff, and returns it with jitter.
func (b *backoff) next() time.Duration {
	*b = min(max(2**b, backoff(minBackoff)), backoff(maxBackoff))
	return jitter(time.Duration(*b))
}

// jitter returns a random duration between d/2 and d, so that nodes that failed together do not all retry
// together.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/2) }

// pause waits for d or until ctx is cancelled.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// A failureLog logs an operation that is attempted again and again: when it starts to fail, when it fails in
// a different way, and when it succeeds again, but not each time.
type failureLog struct {
	kind string // of the last failure; "" if the last attempt succeeded
}

// record records the outcome of an attempt. doing says what was attempted.
func (l *failureLog) record(log *slog.Logger, doing string, err error) {
	// The text of the error is not compared: the same failure may come with another local port or index
	// each time.
	var answer api.StatusError
	var kind string
	switch {
	case errors.As(err, &answer):
		kind = strconv.Itoa(answer.Code)
	case err != nil:
		kind = "no answer"
	}
	if kind == l.kind {
		return
	}
	l.kind = kind
	if err == nil {
		log.Info(doing + " succeeds again")
		return
	}
	log.Warn(doing+" failed, retrying", "error", err)
}
