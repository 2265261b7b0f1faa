package geocache

import (
	"errors"
	"fmt"
	"strings"

	"github.com/geocache/geocache/internal/engine"
)

var (
	// ErrNotFound says that the key has no value. A Getter returns it, or an
	// error that wraps it, to say so; it keeps its identity on its way
	// through other nodes and regions. What else the getter's error wraps is
	// not kept: that there is no value is cached, the error is not.
	ErrNotFound = engine.ErrNotFound

	// ErrClosed says that the Cache has been closed.
	ErrClosed = engine.ErrClosed

	// ErrTooLarge says that a key (4 KiB) or an encoded value (WithMaxValueBytes) is over the
	// limit of what travels between nodes, or that a write could never find room in the queue of
	// WithWriteBehind. A value that only does not fit in memory is not an
	// error: it is returned and not kept.
	ErrTooLarge = engine.ErrTooLarge

	// ErrOverloaded says that the node which owns the key has too many requests
	// in flight, or no room for another write to the origin (WithWriteBehind). Others
	// are not asked then: they would load what the owner is loading already.
	ErrOverloaded = engine.ErrOverloaded

	// ErrTimeout says that a load took longer than the group's load timeout.
	// It is about the load; a caller whose own context ended gets that
	// context's error.
	ErrTimeout = engine.ErrTimeout

	// ErrUncertain says that a write may or may not have happened: the node
	// that was to carry it out could not be reached any more, or the caller's time
	// was up. A Set or a Remove can be done again without harm.
	ErrUncertain = engine.ErrUncertain

	// ErrUnconfirmed says that a write has happened, and that the caller's time
	// was up before it had come as far as was asked. It goes on.
	ErrUnconfirmed = engine.ErrUnconfirmed

	// ErrHomeUnreachable says that an Update could not reach the home region of its
	// key.
	ErrHomeUnreachable = engine.ErrHomeUnreachable

	// ErrSnapshot says that what Restore has read is no snapshot of this group, or not a whole
	// one.
	ErrSnapshot = engine.ErrSnapshot
)

// An Error is what a Group's methods return when a key could not be read or
// written. errors.Is finds the errors above in it on whichever node they arose, and
// errors.As and errors.Is find the getter's own error if the getter ran in this
// process; from another node only its text comes.
type Error struct {
	Op    string // the method that was called, such as "Get"
	Group string
	Key   string

	// Node and Region say where the error arose.
	Node   string
	Region string

	// Inferred is true if that node did not say so itself, but this one
	// concluded it: from the limits the other has told it, say.
	Inferred bool

	Err error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("geocache: ")
	if e.Op != "" {
		key := e.Key
		if len(key) > 64 {
			key = key[:64] + "…"
		}
		fmt.Fprintf(&b, "%s %s/%q ", strings.ToLower(e.Op), e.Group, key)
	}
	if e.Node != "" {
		fmt.Fprintf(&b, "at %s in %s", e.Node, e.Region)
		if e.Inferred {
			b.WriteString(" (inferred)")
		}
	}
	return strings.TrimSuffix(b.String(), " ") + ": " + strings.TrimPrefix(e.Err.Error(), "geocache: ")
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// A PanicError is the error of the callers whose getter, setter, remover, codec or function
// for Update, Memoize or MemoizeBy panicked in this process; what panicked on another node is an *Error
// with the text. The key is not affected otherwise: the next Get loads it anew. An error that they return
// and whose methods panic, as those of a nil pointer may, is one too.
type PanicError struct {
	Value any    // what it panicked with
	Stack []byte // where
}

func (e *PanicError) Error() string { return fmt.Sprintf("panicked: %v", e.Value) }

// Unwrap returns the value that was panicked with if it was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

func newPanicError(value any, stack []byte) error { return &PanicError{Value: value, Stack: stack} }

// inCall completes err, if it is not nil, with what the caller asked for. An Error that err only
// wraps is none of this call's: the getter has it from another group.
func inCall(op, group, key string, err error) error {
	if err == nil {
		return nil
	}
	out := &Error{Op: op, Group: group, Key: key, Err: err}
	if e, ok := err.(*engine.Error); ok {
		out.Node, out.Region, out.Inferred, out.Err = e.Node, e.Region, e.Inferred, e.Err
	}
	return out
}

// joined joins the errors of a call for many keys. more says how many are left out.
func joined(op, group string, failed engine.KeyErrors, more string) error {
	var errs []error
	for _, e := range failed.First {
		errs = append(errs, inCall(op, group, e.Key, e.Err))
	}
	if failed.More > 0 {
		errs = append(errs, fmt.Errorf("geocache: %s %s: "+more, strings.ToLower(op), group, failed.More))
	}
	return errors.Join(errs...)
}
