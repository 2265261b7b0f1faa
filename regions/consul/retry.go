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

// A backoff is the time last waited between two tries, 0 before the first.
type backoff time.Duration

// next returns how long to wait before the next try: twice as long as before,
// within the bounds, jittered.
func (b *backoff) next() time.Duration {
	*b = min(max(2**b, backoff(minBackoff)), backoff(maxBackoff))
	return jitter(time.Duration(*b))
}

// jitter returns a random time from d/2 to d, so that the nodes of a cluster
// that were startled together do not come back together.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/2) }

// pause waits for d, or until ctx is cancelled.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// A trouble logs something that is tried over and over when it begins to fail,
// when it fails in another way, and when it works again, but not each time.
type trouble struct {
	kind string // "" if it works
}

// note records the outcome of a try.
func (t *trouble) note(log *slog.Logger, doing string, err error) {
	// Not the whole text: it may differ each time, by a local port or an
	// index, and the trouble be the same.
	var answer api.StatusError
	var kind string
	switch {
	case errors.As(err, &answer):
		kind = strconv.Itoa(answer.Code)
	case err != nil:
		kind = "no answer"
	}
	if kind == t.kind {
		return
	}
	t.kind = kind
	if err == nil {
		log.Info(doing + " works again")
		return
	}
	log.Warn(doing+" failed, trying again", "error", err)
}
