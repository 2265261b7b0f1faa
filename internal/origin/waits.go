package origin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Waits finds getters and setters that wait for themselves: a getter that reads its own key, or a key whose
// getter reads the first one; a setter that writes its own key, whose lock it holds. Without Waits they
// would all block until the load timeout.
//
// It follows the work of this process through the contexts that getters and setters are given. A cycle
// through other nodes, or through another context, ends only with the load timeout. The zero value is ready
// to use. Its methods are safe for concurrent use.
type Waits struct {
	mu sync.Mutex

	// by maps each subject to the last of its calls that waits for something. Calls that wait for nothing,
	// which are most, are not in it and cost next to nothing. Guarded by mu.
	by map[Subject]*call
}

// A Subject is a key that is being loaded or, if Write is set, written to the origin.
type Subject struct {
	Group, Key string
	Write      bool
}

func (s Subject) String() string { return fmt.Sprintf("%s/%q", s.Group, s.Key) }

// A call is a running call of a getter or a setter.
type call struct {
	waits *Waits
	of    []Subject
	on    map[Subject]int // what it waits for, and how many times; guarded by Waits.mu
}

// callKey is the context key of the call.
type callKey struct{}

// During returns the context for a call of a getter or a setter that works on the given subjects.
func (w *Waits) During(ctx context.Context, of ...Subject) context.Context {
	return context.WithValue(ctx, callKey{}, &call{waits: w, of: of})
}

// Track records that the call to which ctx belongs, if any, waits for s until done is called. It fails if
// the call would then wait for itself; the error names the cycle.
func (w *Waits) Track(ctx context.Context, s Subject) (done func(), err error) {
	c, _ := ctx.Value(callKey{}).(*call)
	if c == nil || c.waits != w {
		return func() {}, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if cycle := w.cycle(c, s, map[*call]bool{}); cycle != nil {
		what, last := "getter", cycle[len(cycle)-1]
		if last.Write {
			what = "setter"
		}
		path := []string{last.String()}
		for _, s := range cycle {
			path = append(path, s.String())
		}
		return nil, fmt.Errorf("the %s of %v waits for itself: %s", what, last, strings.Join(path, " → "))
	}
	if w.by == nil {
		w.by = make(map[Subject]*call)
	}
	if c.on == nil {
		c.on = make(map[Subject]int)
	}
	c.on[s]++
	for _, of := range c.of {
		w.by[of] = c
	}
	return func() { w.end(c, s) }, nil
}

// cycle returns the path of subjects from s to one of c's own, or nil if the call for s does not wait for
// c.
func (w *Waits) cycle(c *call, s Subject, seen map[*call]bool) []Subject {
	if slices.Contains(c.of, s) {
		return []Subject{s}
	}
	next := w.by[s]
	if next == nil || seen[next] {
		return nil
	}
	seen[next] = true
	for other := range next.on {
		if rest := w.cycle(c, other, seen); rest != nil {
			return append([]Subject{s}, rest...)
		}
	}
	return nil
}

// end ends one wait of c for s.
func (w *Waits) end(c *call, s Subject) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.on[s]--; c.on[s] == 0 {
		delete(c.on, s)
	}
	if len(c.on) > 0 {
		return
	}
	for _, of := range c.of {
		if w.by[of] == c {
			delete(w.by, of)
		}
	}
}
