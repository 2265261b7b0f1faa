package origin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Waits finds getters and setters that wait for themselves: a getter that reads its own key, or a key whose
// getter reads its; a setter that writes its own key, whose lock it holds. Without it, all of them would wait
// for the load timeout.
//
// It knows what this process does through the contexts that it gives to getters and setters. A cycle through
// other nodes, or through another context, ends by the load timeout. The zero value is ready for use. Its methods are
// safe for concurrent use.
type Waits struct {
	mu sync.Mutex

	// by has the calls that wait for something, the last one of each subject. Those that wait for nothing,
	// which is most, are not in it and cost next to nothing. Guarded by mu.
	by map[Subject]*call
}

// A Subject is a key that is being loaded, or being written to the origin.
type Subject struct {
	Group, Key string
	Write      bool
}

func (s Subject) String() string { return fmt.Sprintf("%s/%q", s.Group, s.Key) }

// A call is one of a getter or a setter of this process.
type call struct {
	waits *Waits
	of    []Subject
	on    map[Subject]int // what it waits for, and how many times; guarded by Waits.mu
}

// callKey is the key of the call in a context.
type callKey struct{}

// During returns the context for a call of a getter or a setter that works on subjects.
func (w *Waits) During(ctx context.Context, of ...Subject) context.Context {
	return context.WithValue(ctx, callKey{}, &call{waits: w, of: of})
}

// For notes that the call that ctx is of, if it is of one, waits for a subject until done is called. The error says that it
// would wait for itself, and by which cycle.
func (w *Waits) For(ctx context.Context, s Subject) (done func(), err error) {
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

// cycle returns the subjects from s to one of c, if the call for s waits for that.
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

// end ends a wait of c for s.
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
