package testcluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/geocache/geocache/regions"
)

const (
	// checkTTL is how long a Directory lists a process that crashed.
	checkTTL = 10 * time.Second
	// reregister is how long nodes take to notice that they were forgotten.
	reregister = 5 * time.Second
)

// A Directory is a discovery that all nodes of a cluster share, and that fails on
// command in the ways Consul has been seen to.
type Directory struct {
	mu       sync.Mutex              // guards the following
	listed   map[string]regions.Node // by ID
	watchers map[string]*watcher     // by the ID of the node that watches
	expiring map[string]*time.Timer  // by the ID of a node that crashed
	state    state
}

type watcher struct {
	self  regions.Node
	found func(regions.View)
	err   chan error // ends the watcher's Run
}

type state int

const (
	working state = iota
	silent
	failing
	answersEmpty
)

var errDirectory = errors.New("the directory is down")

func newDirectory() *Directory {
	return &Directory{
		listed:   make(map[string]regions.Node),
		watchers: make(map[string]*watcher),
		expiring: make(map[string]*time.Timer),
	}
}

// Region implements regions.Discovery. The Directory has no notion of regions.
func (d *Directory) Region(context.Context) (string, error) { return "", nil }

// Run implements regions.Discovery.
func (d *Directory) Run(ctx context.Context, self regions.Node, _ func() error, found func(regions.View)) error {
	w := &watcher{self: self, found: found, err: make(chan error, 1)}
	d.mu.Lock()
	if d.state == failing {
		d.mu.Unlock()
		return errDirectory
	}
	d.watchers[self.ID] = w
	d.listLocked(w)
	d.tellLocked()
	d.mu.Unlock()

	var err error
	select {
	case err = <-w.err:
	case <-ctx.Done():
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watchers[self.ID] != w {
		return err // it crashed, and has been started again
	}
	delete(d.watchers, self.ID)
	if err == nil && d.state == working && d.expiring[self.ID] == nil {
		delete(d.listed, self.ID)
		d.tellLocked()
	}
	return err
}

// listLocked registers a node if the directory takes that.
func (d *Directory) listLocked(w *watcher) {
	if d.state != working {
		return
	}
	if t := d.expiring[w.self.ID]; t != nil {
		t.Stop()
		delete(d.expiring, w.self.ID)
	}
	d.listed[w.self.ID] = w.self
}

// tellLocked tells all watchers what the directory has to say.
func (d *Directory) tellLocked() {
	var view regions.View
	switch d.state {
	case silent, failing:
		return
	case working:
		for _, n := range d.listed {
			view.Nodes = append(view.Nodes, n)
		}
	}
	for _, w := range d.watchers {
		w.found(view)
	}
}

// crashed has the node's registration expire.
func (d *Directory) crashed(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expiring[id] = time.AfterFunc(checkTTL, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.expiring[id] != nil {
			delete(d.expiring, id)
			delete(d.listed, id)
			d.tellLocked()
		}
	})
}

// Unlist removes a node that runs, as an operator or a failed check does.
func (d *Directory) Unlist(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.listed, id)
	d.tellLocked()
}

// Silence has the directory say nothing until Restore.
func (d *Directory) Silence() { d.enter(silent) }

// Fail has every call fail until Restore, those under way at once.
func (d *Directory) Fail() { d.enter(failing) }

// AnswerEmpty has the directory answer, correctly formed, that there are no
// nodes, until Restore.
func (d *Directory) AnswerEmpty() { d.enter(answersEmpty) }

// Restore has the directory work again as if nothing had been.
func (d *Directory) Restore() { d.enter(working) }

func (d *Directory) enter(s state) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = s
	for _, w := range d.watchers {
		switch s {
		case failing:
			w.err <- errDirectory
		case working:
			d.listLocked(w) // those that came meanwhile: an agent goes on trying
		}
	}
	d.tellLocked()
}

// Forget loses all registrations, as a Consul agent does that is restarted
// without its data. Nodes notice one after the other and register again.
func (d *Directory) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = working
	clear(d.listed)
	d.tellLocked()
	delay := reregister
	for _, w := range d.watchers {
		time.AfterFunc(delay, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.watchers[w.self.ID] == w {
				d.listLocked(w)
				d.tellLocked()
			}
		})
		delay += 100 * time.Millisecond
	}
}
