package peers

import (
	"fmt"
	"log/slog"
)

// A Code is the outcome of a request. Its numbers are part of the wire format.
//
// A Code is also the identity of the errors that carry it:
//
//	errors.Is(err, peers.CodeBusy)
type Code uint8

// The first three are answers; the others are errors, which Fetch returns as
// an *Error.
const (
	CodeOK       Code = 0 // here is the value
	CodeNotFound Code = 1 // the key has no value; this too has a generation, an age and a life
	CodeMiss     Code = 2 // a peek found nothing in memory

	CodeUnknownGroup Code = 3  // the node has no group of that name, as during a rolling deploy
	CodeFailed       Code = 4  // the load failed; Text says how
	CodeBusy         Code = 5  // a limit on requests in flight or on bytes queued is reached
	CodeClosing      Code = 6  // the node is closing
	CodeTimeout      Code = 7  // the request ran out of time before it was answered
	CodeTooLarge     Code = 8  // the key or the value is over a limit
	CodeBadRequest   Code = 9  // the node does not understand the request
	CodeUncertain    Code = 10 // the work may or may not have been done; Text says why
	CodeUnsettled    Code = 11 // the node does not know enough to answer yet: ask again; Text says why

	// CodeUnavailable is never sent. It is inferred if there is no connection to the node, or if the connection
	// broke before the answer came.
	CodeUnavailable Code = 255
)

var codeNames = map[Code]string{
	CodeOK:           "ok",
	CodeNotFound:     "not found",
	CodeMiss:         "miss",
	CodeUnknownGroup: "unknown group",
	CodeFailed:       "failed",
	CodeBusy:         "busy",
	CodeClosing:      "closing",
	CodeTimeout:      "timeout",
	CodeTooLarge:     "too large",
	CodeBadRequest:   "bad request",
	CodeUncertain:    "uncertain",
	CodeUnsettled:    "unsettled",
	CodeUnavailable:  "unavailable",
}

// String names the code; a number this version does not know is shown as one.
func (c Code) String() string {
	if name, ok := codeNames[c]; ok {
		return name
	}
	return fmt.Sprintf("code %d", uint8(c))
}

// Error makes a Code usable as the target of errors.Is.
func (c Code) Error() string { return "peers: " + c.String() }

// An Error is a request to a peer that was not answered. It keeps apart what the peer said and what this node inferred:
// the first means that the request has failed, the second that nobody knows whether it was carried out.
type Error struct {
	Node     string // the peer's id
	Region   string // the peer's region
	Code     Code   // what went wrong; errors.Is(err, code) holds
	Inferred bool   // this node's conclusion, not the peer's word
	Text     string // in the words of whoever said it
	err      error  // what an inferred error was concluded from
}

func (e *Error) Error() string {
	said := "answered"
	if e.Inferred {
		said = "taken to be"
	}
	s := fmt.Sprintf("node %s in region %s %s %s", e.Node, e.Region, said, e.Code.String())
	if e.Text != "" {
		s += ": " + e.Text
	}
	if e.err != nil {
		s += ": " + e.err.Error()
	}
	return s
}

// Unwrap returns what the error was inferred from, or nil.
func (e *Error) Unwrap() error { return e.err }

// Is reports whether target is e's Code.
func (e *Error) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == e.Code
}

// A Reason says why a connection was refused, or closed for what came over it. Its numbers are part of the wire
// format.
type Reason uint8

// The reasons.
const (
	ReasonProtocol Reason = 1  // a frame that is malformed, unknown or out of order
	ReasonVersion  Reason = 2  // no protocol version in common
	ReasonCluster  Reason = 3  // another cluster's node
	ReasonSeed     Reason = 4  // the same cluster with another ring seed
	ReasonClock    Reason = 5  // a clock too far ahead
	ReasonIdentity Reason = 6  // not the node that was meant, or one with this node's own id
	ReasonTLS      Reason = 7  // TLS on one side only, or a TLS handshake that failed
	ReasonLimit    Reason = 8  // a frame, a key or a number of keys over the limit
	ReasonSlow     Reason = 9  // a handshake or a frame not complete, or answers not read, in time
	ReasonIdle     Reason = 10 // not even a ping for many leases
	ReasonBusy     Reason = 11 // too many connections in their handshake
	ReasonName     Reason = 12 // a certificate for no name that is accepted
	ReasonUnlisted Reason = 13 // a node that is not listed (yet), where certificates are judged by the listed address
	ReasonTaken    Reason = 14 // the id of a node that is connected by a certificate for other names
	ReasonExpired  Reason = 15 // the certificate by which the connection was made has ended
)

var reasonNames = map[Reason]string{
	ReasonProtocol: "protocol",
	ReasonVersion:  "version",
	ReasonCluster:  "cluster",
	ReasonSeed:     "seed",
	ReasonClock:    "clock",
	ReasonIdentity: "identity",
	ReasonTLS:      "tls",
	ReasonLimit:    "limit",
	ReasonSlow:     "slow",
	ReasonIdle:     "idle",
	ReasonBusy:     "busy",
	ReasonName:     "name",
	ReasonUnlisted: "unlisted",
	ReasonTaken:    "taken",
	ReasonExpired:  "expired",
}

// String returns a short name, fit for the label of a metric.
func (r Reason) String() string {
	if name, ok := reasonNames[r]; ok {
		return name
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// A refusal says why a connection was refused, by this node or by the other one. Peers wrap it in the *Error of
// requests made meanwhile.
type refusal struct {
	Reason Reason
	Remote bool   // the other node refused
	Text   string // what exactly was wrong
	err    error  // such as an *expiry.DriftError
}

func (e *refusal) Error() string {
	by := "refused"
	if e.Remote {
		by = "refused by the peer"
	}
	return fmt.Sprintf("%s (%v): %s", by, e.Reason, e.Text)
}

// level is how a refusal is logged. A node that is not listed yet mostly has just started.
func (e *refusal) level() slog.Level {
	if e.Reason == ReasonUnlisted {
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

// Unwrap returns the cause, such as an *expiry.DriftError, or nil.
func (e *refusal) Unwrap() error { return e.err }

// refuse returns a refusal by this node.
func refuse(reason Reason, format string, args ...any) *refusal {
	return &refusal{Reason: reason, Text: fmt.Sprintf(format, args...)}
}

// malformed returns a refusal of a frame that could not be decoded because of err.
func malformed(k kind, err error) *refusal {
	return &refusal{Reason: ReasonProtocol, Text: fmt.Sprintf("a frame of %v: %v", k, err), err: err}
}

// refuseFor returns a refusal by this node that was caused by err.
func refuseFor(reason Reason, err error) *refusal {
	return &refusal{Reason: reason, Text: err.Error(), err: err}
}
