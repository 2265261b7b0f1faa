package geocache

import (
	"errors"
	"fmt"
	"strings"

	"github.com/geocache/geocache/internal/engine"
)

var (
	// ErrNotFound says that the key has no value. A Getter returns it, or an error that wraps it. It keeps
	// its identity on its way through other nodes and regions, but whatever else the getter's error wraps is
	// lost: the cache remembers that there is no value, not the error.
	ErrNotFound = engine.ErrNotFound

	// ErrClosed says that the Cache has been closed.
	ErrClosed = engine.ErrClosed

	// ErrTooLarge says that a key (4 KiB) or an encoded value (WithMaxValueBytes) is over the limit of what
	// travels between nodes, or that a write could never fit into the queue of WithWriteBehind. A value that
	// merely does not fit in memory is not an error: it is returned and not kept.
	ErrTooLarge = engine.ErrTooLarge

	// ErrOverloaded says that the key's owner has too many requests in flight, or no room for another write
	// to the origin (WithWriteBehind). Other nodes are not asked then: they would load what the owner is
	// already loading.
	ErrOverloaded = engine.ErrOverloaded

	// ErrTimeout says that a load took longer than the group's load timeout. A caller whose own context
	// ended gets that context's error instead.
	ErrTimeout = engine.ErrTimeout

	// ErrUncertain says that a write may or may not have happened: the node that was to carry it out became
	// unreachable, or the caller's time was up. Repeating a Set or a Remove does no harm.
	ErrUncertain = engine.ErrUncertain

	// ErrUnconfirmed says that a write has happened, but that the caller's time was up before it had come as
	// far as was asked. The write goes on.
	ErrUnconfirmed = engine.ErrUnconfirmed

	// ErrCutOff says that a group with WithStrictReads has a value that was Set, and that this node cannot tell
	// whether it is the latest: it may be cut off from its region. No origin has the value, so loading the key
	// does not help.
	ErrCutOff = engine.ErrCutOff

	// ErrNotArrived says that a write which a read is to come After has not arrived in this region yet, and that
	// the region where it was written cannot be reached. A load could bring back what is older.
	ErrNotArrived = engine.ErrNotArrived

	// ErrHomeUnreachable says that an Update could not reach the home region of its key.
	ErrHomeUnreachable = engine.ErrHomeUnreachable

	// ErrSnapshot says that what Restore read is not a snapshot of this group, or not a whole one.
	ErrSnapshot = engine.ErrSnapshot
)

// An Error is what a Group's methods return when a key could not be read or written. errors.Is finds the
// errors above in it, whichever node they arose on. errors.As and errors.Is find the getter's own error if the
// getter ran in this process; from another node only its text arrives.
type Error struct {
	Op    string // the method that was called, such as "Get"
	Group string
	Key   string

	// Node and Region say where the error arose.
	Node   string
	Region string

	// Inferred is true if this node concluded the error, for example from a limit that the other node has
	// announced, rather than heard it from that node.
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

// A PanicError is what callers get whose getter, setter, remover, codec, or function for Update, Memoize or
// MemoizeBy panicked in this process. A panic on another node arrives as an *Error with its text. The key is
// not affected otherwise: the next Get loads it again. An error whose own methods panic, as those of a nil
// pointer may, is turned into a PanicError too.
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
