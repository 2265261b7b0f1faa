package peers

import (
	"context"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
)

// A Hop says in which role a node is asked. It answers in that role whatever its own ring says, so two nodes whose rings
// differ never wait for each other. Its numbers are part of the wire format. The transport only carries it.
type Hop uint8

// The hops.
const (
	HopOwner  Hop = 1 // as the key's owner in the region that both are in
	HopRegion Hop = 2 // for another region: by what this one can do without asking others
	HopUpdate Hop = 3 // as the key's owner in the region where its value is updated, which is to follow

	// HopConfirmed is HopOwner for a node that may not know of all writes: what the node that is asked knows
	// of writes must do.
	HopConfirmed Hop = 4
)

// A Source says where the answering node had the value from. Its numbers are part of the wire format. The transport only
// carries it.
type Source uint8

// The sources.
const (
	SourceStore  Source = 1 // memory, its own or that of a node in its region
	SourceRegion Source = 2 // another region
	SourceGetter Source = 3 // a getter
)

// A Request asks for one key.
type Request struct {
	Group string       // at most 255 bytes
	Key   string       // at most Limits.MaxKey bytes
	Floor expiry.Stamp // what the answer's stamp must not be below
	Hop   Hop
	Peek  bool // answer from memory or not at all: no load

	// Region is that of the node that asks. Only the server sets it.
	Region string

	// Together is the same for all keys of one batch for which Load is called, and nil if
	// that is only one. Only the server sets it.
	Together *Together
}

// A Together is what the keys of one batch for which Load is called have in common.
type Together struct {
	Keys int // for how many it is

	once  sync.Once
	value any
}

// Value returns what the first call of it made.
func (t *Together) Value(make func() any) any {
	t.once.Do(func() { t.value = make() })
	return t.value
}

// A Batch asks for several keys of one group.
type Batch struct {
	Group string
	Hop   Hop
	Keys  []Key
}

// A Key is one of the keys of a Batch.
type Key struct {
	Key   string
	Floor expiry.Stamp
}

// An Answer is a node's answer to a Request.
type Answer struct {
	Code   Code
	Source Source
	Stale  bool // past its life, and served because there was nothing better

	// Unconfirmed says that there may have been a write since that the answering node was not told of. The
	// transport only carries it.
	Unconfirmed bool

	// SinceClear says that the request's floor is a Clear, and that the value was not loaded before it. The
	// transport only carries it.
	SinceClear bool

	Stamp expiry.Stamp  // of the load or write that the value is from
	Life  time.Duration // the age at which it expires, in microseconds

	// Age is the time since the load began, in microseconds. A Handler says how old the value is as it answers. Fetch
	// returns how old it can be by then: it adds the time under way, overestimated by the request's way there. No
	// clocks are compared.
	Age time.Duration

	// At is when a Handler's Load measured Age, on Config.Clock: the time from then on counts as time under way. Zero means
	// when Load returns. It is not sent.
	At expiry.Instant

	// Value is the encoded value. The transport may hold on to a value it
	// is given, so it must not be modified; a value it returns belongs to
	// the caller.
	Value []byte

	// Tagged says that the value has tags, which come before it. The transport
	// only carries it.
	Tagged bool

	// reply says that Value is the reply to a call, for which there is more room.
	reply bool

	// Text says what went wrong where Code is an error. It travels in the
	// place of Value.
	Text string
}

// A Call is a message that the transport carries without knowing what it means.
type Call struct {
	Method uint8

	// Payload is at most Limits.MaxValue and a MiB of the node that is
	// called. The transport may hold on to a payload it is given, so it must
	// not be modified.
	Payload []byte

	// From and Region are the id and the region of the node that calls. Only
	// the server sets them.
	From, Region string

	// Transit is at most how long the call was under way. It is never too little, so that what a payload carries can be
	// given an honest age. No clocks are compared. Only the server sets it.
	Transit time.Duration
}

// A Handler answers the requests of peers. Its methods are called from many goroutines at once.
type Handler interface {
	// Lookup answers from memory. It runs on the goroutine that reads the connection, so it must not block. It must
	// not keep req or its strings, which the next request overwrites (strings.Clone what has to outlive the call).
	//
	// If ok is false the request goes on to Load or, if it is a peek, is
	// answered with CodeMiss. A peek of another region goes on to Load, too.
	Lookup(req *Request) (ans Answer, ok bool)

	// Load answers a request that Lookup did not. It runs on its own goroutine and may keep req. ctx ends when the
	// asker's time is up, when it cancels, and when the connection to it breaks.
	Load(ctx context.Context, req *Request) Answer

	// Take answers a call on the goroutine that reads the connection, so it must not block. It must not keep call or
	// its Payload, which the next frame overwrites. The Answer has a Code and a Value or a Text. If ok is false the
	// call goes on to Call.
	Take(call *Call) (ans Answer, ok bool)

	// Call answers a call that Take did not. It runs on its own goroutine and may keep call and its Payload. ctx is
	// as in Load.
	Call(ctx context.Context, call *Call) Answer
}
