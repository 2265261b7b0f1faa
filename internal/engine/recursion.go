package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// This file finds out when a getter waits for itself: it reads its own key, or a key whose getter reads
// its. Otherwise all of them would wait for the load timeout. The same goes for a setter that writes
// its own key, whose lock it holds.
//
// What is known is what this process does, through the contexts that getters and setters get. A circle
// through other nodes, or through another context, ends by the load timeout.

// A task is a call of a getter or a setter of this process.
type task struct {
	cache *Cache
	of    []subject
	waits map[subject]int // what it waits for, and how many times; guarded by waiting.mu
}

// A subject is a key that is being loaded, or being written to the origin.
type subject struct {
	group *Group
	key   string
	write bool
}

func (s subject) String() string { return fmt.Sprintf("%s/%q", s.group.name, s.key) }

// waiting are the tasks that wait for others. Those that do not, which is most, are not in it and cost
// next to nothing.
type waiting struct {
	mu sync.Mutex
	by map[subject]*task // guarded by mu; the last one of each
}

// taskKey is the key of the task in the context of a getter or a setter.
type taskKey struct{}

// whileLoading returns the context for a getter that is called for keys.
func (g *Group) whileLoading(ctx context.Context, keys ...string) context.Context {
	t := &task{cache: g.cache}
	for _, key := range keys {
		t.of = append(t.of, subject{g, key, false})
	}
	return context.WithValue(ctx, taskKey{}, t)
}

// whileStoring returns the context for a setter, or a remover, that is called for a key.
func (g *Group) whileStoring(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, taskKey{}, &task{cache: g.cache, of: []subject{{g, key, true}}})
}

// waitFor notes that whoever ctx is of waits for a key's load, or with write for its turn to be
// written, until done is called. The error is that it would wait for itself.
func (g *Group) waitFor(ctx context.Context, key string, write bool) (done func(), err error) {
	t, _ := ctx.Value(taskKey{}).(*task)
	if t == nil || t.cache != g.cache {
		return func() {}, nil
	}
	w, s := &g.cache.waiting, subject{g, key, write}
	w.mu.Lock()
	defer w.mu.Unlock()
	if circle := w.circle(t, s, map[*task]bool{}); circle != nil {
		what, last := "getter", circle[len(circle)-1]
		if last.write {
			what = "setter"
		}
		path := []string{last.String()}
		for _, s := range circle {
			path = append(path, s.String())
		}
		return nil, g.located(fmt.Errorf("the %s of %v waits for itself: %s", what, last, strings.Join(path, " → ")))
	}
	if w.by == nil {
		w.by = make(map[subject]*task)
	}
	if t.waits == nil {
		t.waits = make(map[subject]int)
	}
	t.waits[s]++
	for _, of := range t.of {
		w.by[of] = t
	}
	return func() { w.end(t, s) }, nil
}

// circle returns the subjects from s to one of t, if who does s waits for that.
func (w *waiting) circle(t *task, s subject, seen map[*task]bool) []subject {
	if slices.Contains(t.of, s) {
		return []subject{s}
	}
	next := w.by[s]
	if next == nil || seen[next] {
		return nil
	}
	seen[next] = true
	for other := range next.waits {
		if rest := w.circle(t, other, seen); rest != nil {
			return append([]subject{s}, rest...)
		}
	}
	return nil
}

// end ends a wait of t for s.
func (w *waiting) end(t *task, s subject) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.waits[s]--; t.waits[s] == 0 {
		delete(t.waits, s)
	}
	if len(t.waits) > 0 {
		return
	}
	for _, of := range t.of {
		if w.by[of] == t {
			delete(w.by, of)
		}
	}
}
