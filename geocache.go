package geocache

import (
	"context"
	"errors"
	"fmt"

	"github.com/geocache/geocache/internal/engine"
	"github.com/geocache/geocache/regions"
)

// A Cache is one process's place in the cluster. Add groups to it with NewGroup. Its methods are safe for
// concurrent use.
type Cache struct{ core *engine.Cache }

// Open makes this process a node of the cluster: it listens for peers, announces itself and looks for the
// others. Without a listener it is alone, and everything works. The error reports every mistake in the
// options at once.
//
// Open waits until it has found and reached the others, for as long as WithJoinWait says. After that it
// logs a warning and goes on without them; they come in later. So a discovery that is down does not keep a
// service from starting, if WithRegion says where it is. If ctx ends during that wait, Open returns its
// error. ctx is not used afterwards.
func Open(ctx context.Context, opts ...Option) (*Cache, error) {
	config := defaultConfig()
	var errs []error
	if ctx == nil {
		errs = append(errs, errNoContext)
	}
	for i, o := range opts {
		if o == nil {
			errs = append(errs, errNilOption(i))
			continue
		}
		o.applyCache(&config)
	}
	if err := errors.Join(append(errs, config.check())...); err != nil {
		return nil, fmt.Errorf("geocache: %w", err)
	}
	core, err := engine.Open(ctx, config.Config)
	if err != nil {
		return nil, fmt.Errorf("geocache: %w", err)
	}
	return &Cache{core}, nil
}

var errNoContext = errors.New("the context is nil")

// Node returns this process as the others see it.
func (c *Cache) Node() regions.Node { return c.core.Node() }

// Close takes this process out of the cluster. It writes what the origin has still to get, hands the entries
// that it owns to their next owners, tells its peers, withdraws its registration, answers the requests that
// peers are waiting for, and ends every goroutine of the cache. Afterwards, reads that memory does not answer
// return ErrClosed; those that it does answer may return values that have since been overwritten, so stop
// reading before Close.
//
// Close takes up to ten seconds; see Shutdown. The error says what could not be waited for. Calling Close again
// waits for the first call and returns nil.
func (c *Cache) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), engine.CloseTimeout)
	defer cancel()
	return c.core.Close(ctx)
}

// Shutdown is Close with the caller's deadline instead of ten seconds. Half of ctx's time is for writing,
// handing over and answering, the rest for user code that ignores that its context has ended. When ctx
// ends, Shutdown cuts off what is left, and the error says what that was.
func (c *Cache) Shutdown(ctx context.Context) error {
	if ctx == nil {
		return fmt.Errorf("geocache: closing: %w", errNoContext)
	}
	return c.core.Close(ctx)
}
