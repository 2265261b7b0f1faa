package engine

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/geocache/geocache/peers"
)

// The errors that callers can tell apart. The face documents them.
var (
	ErrNotFound        = errors.New("geocache: key not found")
	ErrClosed          = errors.New("geocache: closed")
	ErrTooLarge        = errors.New("geocache: key or value too large")
	ErrOverloaded      = errors.New("geocache: overloaded")
	ErrTimeout         = errors.New("geocache: load timed out")
	ErrUncertain       = errors.New("geocache: the write may or may not have happened")
	ErrUnconfirmed     = errors.New("geocache: the write has happened but is not yet confirmed as required")
	ErrHomeUnreachable = errors.New("geocache: the key's home region cannot be reached")
	ErrCutOff          = errors.New("geocache: this node may be cut off from its region")
	ErrNotArrived      = errors.New("geocache: the write has not arrived here yet")
	ErrSnapshot        = errors.New("geocache: not a good snapshot")
)

var errNoContext = errors.New("the context is nil")

// An Error says on which node an error occurred.
type Error struct {
	Node, Region string
	Inferred     bool // the error is this node's conclusion, not Node's own report
	Err          error
}

func (e *Error) Error() string {
	inferred := ""
	if e.Inferred {
		inferred = " (inferred)"
	}
	cause := strings.TrimPrefix(e.Err.Error(), "geocache: ")
	return fmt.Sprintf("geocache: at %s in %s%s: %s", e.Node, e.Region, inferred, cause)
}

// Unwrap returns the underlying error.
func (e *Error) Unwrap() error { return e.Err }

// located wraps err as an error that occurred on this node.
func (g *Group) located(err error) error {
	return &Error{Node: g.cache.node.ID, Region: g.cache.node.Region, Err: err}
}

// fromPeer converts an error that a peer reported, or that the transport inferred, into one that callers
// can match with errors.Is.
func fromPeer(err error) error {
	var pe *peers.Error
	if !errors.As(err, &pe) {
		return err
	}
	cause := error(pe)
	switch pe.Code {
	case peers.CodeTimeout:
		cause = ErrTimeout
	case peers.CodeBusy:
		cause = detailed(ErrOverloaded, pe.Text)
	case peers.CodeTooLarge:
		cause = detailed(ErrTooLarge, cmp.Or(pe.Text, fmt.Sprint(pe.Unwrap())))
	case peers.CodeUncertain:
		cause = detailed(ErrUncertain, pe.Text)
	case peers.CodeUnsettled:
		cause = detailed(errNotRecalled, pe.Text)
	case peers.CodeFailed:
		cause = errors.New(pe.Text)
	}
	return &Error{Node: pe.Node, Region: pe.Region, Inferred: pe.Inferred, Err: cause}
}

// detailed adds another node's text, which may already begin with err's own, to err.
func detailed(err error, text string) error {
	text = strings.TrimPrefix(strings.TrimPrefix(text, err.Error()), ": ")
	if text == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, text)
}

// maxKeyErrors is how many errors of a multi-key call are kept: enough to see what is wrong.
const maxKeyErrors = 20

// A KeyError is the error of one key in a multi-key call.
type KeyError struct {
	Key string
	Err error
}

// KeyErrors holds the errors of a multi-key call: the first maxKeyErrors, and how many more there were.
type KeyErrors struct {
	First []KeyError
	More  int
}

// Add adds the error of a key.
func (es *KeyErrors) Add(key string, err error) {
	if len(es.First) < maxKeyErrors {
		es.First = append(es.First, KeyError{key, err})
	} else {
		es.More++
	}
}
