package geocache

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"time"
)

// This file is what a user gives to Open, behind the Cache's guard.

// errNothing is the error of what returns neither a connection nor an error.
var errNothing = errors.New("it returned neither a connection nor an error")

// dialer returns the dialer of WithDialer, or nil. One that does not return when its context ends is
// left behind, and a connection that it makes after that is closed.
func (c *Cache) dialer() func(ctx context.Context, address string) (net.Conn, error) {
	if c.config.dial == nil {
		return nil
	}
	return func(ctx context.Context, address string) (net.Conn, error) {
		var ended atomic.Bool // the wait or the call, whichever is first
		done, ok := apart(&c.guard, c.spawn, "dialer", "", func() (net.Conn, error) {
			conn, err := c.config.dial(ctx, address)
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
			return r.value, r.err
		case <-ctx.Done():
			if ended.Swap(true) {
				r := <-done // it is there
				return r.value, r.err
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
	done, _ := apart(&l.cache.guard, goroutine, "listener", "", func() (net.Conn, error) {
		conn, err := l.Listener.Accept()
		if err == nil && conn == nil {
			err = errNothing
		}
		return conn, err
	})
	r := <-done
	return r.value, r.err
}

func (l guardedListener) Close() error {
	_, err := call(&l.cache.guard, "listener", "", returning(l.Listener.Close))
	return err
}

// guardLogger returns a logger that does no harm. What fails in it is counted, and what could tell
// of that is it.
func guardLogger(g *guard, l *slog.Logger) *slog.Logger {
	return slog.New(guardedHandler{l.Handler(), g, new(atomic.Bool)})
}

type guardedHandler struct {
	slog.Handler
	guard *guard
	hangs *atomic.Bool // a call of Handle has not returned in logPatience, and has not yet
}

// logPatience is how long a record holds up who logs it, at most. A pipe that nobody reads would
// otherwise stop the node, and the ones that wait for it.
const logPatience = time.Second

var errLogHangs = errors.New("the logger hangs")

func (h guardedHandler) Handle(ctx context.Context, r slog.Record) error {
	if h.hangs.Load() {
		return errLogHangs // and the record is lost
	}
	done, _ := apart(nil, goroutine, "logger", "", returning(func() error { return h.Handler.Handle(ctx, r) }))
	patience := time.NewTimer(logPatience)
	defer patience.Stop()
	select {
	case r := <-done:
		return h.counted(r.err)
	case <-patience.C:
		h.hangs.Store(true)
		go func() {
			<-done
			h.hangs.Store(false)
		}()
		return errLogHangs
	}
}

// counted counts err if it is that of a call that panicked or ended its goroutine.
func (h guardedHandler) counted(err error) error {
	if panicked := (*PanicError)(nil); errors.As(err, &panicked) || errors.Is(err, errGoexit) {
		h.guard.failed.Add(1)
	}
	return err
}

func (h guardedHandler) Enabled(ctx context.Context, level slog.Level) bool {
	ok, err := call(nil, "logger", "", func() (bool, error) { return h.Handler.Enabled(ctx, level), nil })
	return h.counted(err) == nil && ok
}

func (h guardedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func() slog.Handler { return h.Handler.WithAttrs(attrs) })
}

func (h guardedHandler) WithGroup(name string) slog.Handler {
	return h.with(func() slog.Handler { return h.Handler.WithGroup(name) })
}

// with returns h with another handler, or as it is if that cannot be had.
func (h guardedHandler) with(make func() slog.Handler) slog.Handler {
	next, err := call(nil, "logger", "", func() (slog.Handler, error) { return make(), nil })
	if h.counted(err) == nil && next != nil {
		h.Handler = next
	}
	return h
}
