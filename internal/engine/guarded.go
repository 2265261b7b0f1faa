package engine

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/geocache/geocache/internal/origin"
)

// This file calls what the user passed to Open, under the Cache's guard.

// errNoConn is the error of a dialer or listener that returns neither a connection nor an error.
var errNoConn = errors.New("it returned neither a connection nor an error")

// dialer returns a guarded WithDialer function, or nil if there is none. A call that does not return when
// its context ends is abandoned; a connection that it makes later is closed.
func (c *Cache) dialer() func(ctx context.Context, address string) (net.Conn, error) {
	if c.config.Dial == nil {
		return nil
	}
	return func(ctx context.Context, address string) (net.Conn, error) {
		var ended atomic.Bool // set by whichever ends first, the wait or the call
		done, ok := origin.Go(&c.guard, c.spawn, "dialer", "", func() (net.Conn, error) {
			conn, err := c.config.Dial(ctx, address)
			if err == nil && conn == nil {
				err = errNoConn
			}
			if ended.Swap(true) && err == nil {
				_ = conn.Close()
			}
			return conn, err
		})
		if !ok {
			return nil, ErrClosed
		}
		select {
		case r := <-done:
			return r.Value, r.Err
		case <-ctx.Done():
			if ended.Swap(true) {
				r := <-done // it is ready
				return r.Value, r.Err
			}
			return nil, context.Cause(ctx)
		}
	}
}

// A guardedListener guards the listener of WithListener.
type guardedListener struct {
	net.Listener
	cache *Cache
}

func (l guardedListener) Accept() (net.Conn, error) {
	done, _ := origin.Go(&l.cache.guard, origin.Spawn, "listener", "", func() (net.Conn, error) {
		conn, err := l.Listener.Accept()
		if err == nil && conn == nil {
			err = errNoConn
		}
		return conn, err
	})
	r := <-done
	return r.Value, r.Err
}

func (l guardedListener) Close() error {
	_, err := origin.Call(&l.cache.guard, "listener", "", origin.NoValue(l.Listener.Close))
	return err
}

// guardLogger returns a logger that neither panics nor blocks for long. Failures of l are counted in g but
// not reported: the logger that could report them is the one that failed.
func guardLogger(g *origin.Guard, l *slog.Logger) *slog.Logger {
	return slog.New(guardedHandler{l.Handler(), g, new(atomic.Bool)})
}

type guardedHandler struct {
	slog.Handler
	guard *origin.Guard // reports nothing, see guardLogger
	hangs *atomic.Bool  // a call of Handle exceeded logTimeout and still runs
}

// logTimeout is how long logging a record may block its caller. Otherwise a pipe that nobody reads would
// stop the node, and the nodes that wait for it.
const logTimeout = time.Second

var errLogHangs = errors.New("the logger hangs")

func (h guardedHandler) Handle(ctx context.Context, r slog.Record) error {
	if h.hangs.Load() {
		return errLogHangs // drops the record
	}
	done, _ := origin.Go(h.guard, origin.Spawn, "logger", "", origin.NoValue(func() error {
		return h.Handler.Handle(ctx, r)
	}))
	timeout := time.NewTimer(logTimeout)
	defer timeout.Stop()
	select {
	case r := <-done:
		return r.Err
	case <-timeout.C:
		h.hangs.Store(true)
		go func() {
			<-done
			h.hangs.Store(false)
		}()
		return errLogHangs
	}
}

func (h guardedHandler) Enabled(ctx context.Context, level slog.Level) bool {
	ok, err := origin.Call(h.guard, "logger", "", func() (bool, error) {
		return h.Handler.Enabled(ctx, level), nil
	})
	return err == nil && ok
}

func (h guardedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func() slog.Handler { return h.Handler.WithAttrs(attrs) })
}

func (h guardedHandler) WithGroup(name string) slog.Handler {
	return h.with(func() slog.Handler { return h.Handler.WithGroup(name) })
}

// with returns h with the handler that make returns, or h itself if make fails.
func (h guardedHandler) with(make func() slog.Handler) slog.Handler {
	next, err := origin.Call(h.guard, "logger", "", func() (slog.Handler, error) { return make(), nil })
	if err == nil && next != nil {
		h.Handler = next
	}
	return h
}

// callWithin calls f on a goroutine of its own, and waits until it returns or ctx ends.
func callWithin[R any](
	ctx context.Context, g *origin.Guard, spawn func(func()) bool, what string, f func() (R, error),
) (r R, err error) {
	done, ok := origin.Go(g, spawn, what, "", f)
	if !ok {
		return r, ErrClosed
	}
	select {
	case o := <-done:
		return o.Value, o.Err
	case <-ctx.Done():
		return r, context.Cause(ctx)
	}
}
