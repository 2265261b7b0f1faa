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

// This file is what a user gives to Open, behind the Cache's guard.

// errNothing is the error of what returns neither a connection nor an error.
var errNothing = errors.New("it returned neither a connection nor an error")

// dialer returns the dialer of WithDialer, or nil. One that does not return when its context ends is
// left behind, and a connection that it makes after that is closed.
func (c *Cache) dialer() func(ctx context.Context, address string) (net.Conn, error) {
	if c.config.Dial == nil {
		return nil
	}
	return func(ctx context.Context, address string) (net.Conn, error) {
		var ended atomic.Bool // the wait or the call, whichever is first
		done, ok := origin.Go(&c.guard, c.spawn, "dialer", "", func() (net.Conn, error) {
			conn, err := c.config.Dial(ctx, address)
			if err == nil && conn == nil {
				err = errNothing
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
				r := <-done // it is there
				return r.Value, r.Err
			}
			return nil, context.Cause(ctx)
		}
	}
}

// A guardedListener is that of WithListener.
type guardedListener struct {
	net.Listener
	cache *Cache
}

func (l guardedListener) Accept() (net.Conn, error) {
	done, _ := origin.Go(&l.cache.guard, origin.Spawn, "listener", "", func() (net.Conn, error) {
		conn, err := l.Listener.Accept()
		if err == nil && conn == nil {
			err = errNothing
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

// guardLogger returns a logger that does no harm. What fails in it is counted, and what could tell
// of that is it.
func guardLogger(g *origin.Guard, l *slog.Logger) *slog.Logger {
	return slog.New(guardedHandler{l.Handler(), g, new(atomic.Bool)})
}

type guardedHandler struct {
	slog.Handler
	guard *origin.Guard // it reports nothing: what could tell is what failed
	hangs *atomic.Bool  // a call of Handle has not returned in logPatience, and has not yet
}

// logPatience is how long a record holds up who logs it, at most. A pipe that nobody reads would
// otherwise stop the node, and the ones that wait for it.
const logPatience = time.Second

var errLogHangs = errors.New("the logger hangs")

func (h guardedHandler) Handle(ctx context.Context, r slog.Record) error {
	if h.hangs.Load() {
		return errLogHangs // and the record is lost
	}
	done, _ := origin.Go(h.guard, origin.Spawn, "logger", "", origin.NoValue(func() error { return h.Handler.Handle(ctx, r) }))
	patience := time.NewTimer(logPatience)
	defer patience.Stop()
	select {
	case r := <-done:
		return r.Err
	case <-patience.C:
		h.hangs.Store(true)
		go func() {
			<-done
			h.hangs.Store(false)
		}()
		return errLogHangs
	}
}

func (h guardedHandler) Enabled(ctx context.Context, level slog.Level) bool {
	ok, err := origin.Call(h.guard, "logger", "", func() (bool, error) { return h.Handler.Enabled(ctx, level), nil })
	return err == nil && ok
}

func (h guardedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func() slog.Handler { return h.Handler.WithAttrs(attrs) })
}

func (h guardedHandler) WithGroup(name string) slog.Handler {
	return h.with(func() slog.Handler { return h.Handler.WithGroup(name) })
}

// with returns h with another handler, or as it is if that cannot be had.
func (h guardedHandler) with(make func() slog.Handler) slog.Handler {
	next, err := origin.Call(h.guard, "logger", "", func() (slog.Handler, error) { return make(), nil })
	if err == nil && next != nil {
		h.Handler = next
	}
	return h
}

// within calls f apart and waits for it, or for the end of ctx.
func within[R any](ctx context.Context, g *origin.Guard, spawn func(func()) bool, what string, f func() (R, error)) (r R, err error) {
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
