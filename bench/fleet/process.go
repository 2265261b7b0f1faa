package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"
)

// orderTimeout is how long a process may take to carry out an order. Filling is the longest.
const orderTimeout = 10 * time.Minute

// A process is one of the fleet, as the parent sees it.
type process struct {
	id    string
	cmd   *exec.Cmd
	in    io.WriteCloser
	born  time.Time
	ended chan struct{} // closed when it has ended

	ordering sync.Mutex // one order at a time
	reports  chan report

	mu       sync.Mutex // guards the following
	state    state      // the last that it said
	changed  time.Time  // when it first said so
	timeline timeline
	told     time.Time // to end; zero if it has not been
	loads    int       // of the origin, by its last report
}

// startProcess starts a process of the fleet. It has the origin open.
func startProcess(config nodeConfig, o origin) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{
		id:      config.Nodes[config.Slot].ID,
		cmd:     exec.Command(self, "-test.run=^$"), // the flag is for the tests' program, a node reads none
		born:    time.Now(),
		ended:   make(chan struct{}),
		reports: make(chan report, 1),
	}
	p.cmd.Env = append(os.Environ(), nodeEnv+"=1")
	p.cmd.ExtraFiles = []*os.File{o.file} // originFD is the first of these
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go p.listen(out)
	if err := json.NewEncoder(p.in).Encode(config); err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

// listen takes what the process says, until it ends.
func (p *process) listen(out io.Reader) {
	defer close(p.ended)
	for in := json.NewDecoder(out); ; {
		var l line
		if in.Decode(&l) != nil {
			break
		}
		p.hear(l)
		if l.Report != nil {
			p.reports <- *l.Report
		}
	}
	_ = p.cmd.Wait()
}

func (p *process) hear(l line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := l.State; s != nil {
		if s.Serves != p.state.Serves || s.Nodes != p.state.Nodes {
			p.changed = s.At
		}
		p.state = *s
		p.timeline.add(s.At, s.Serves)
	}
	if l.Report != nil {
		p.loads = l.Report.Loads
	}
}

// order has the process carry out an order. If that is to close, the process has ended when order returns.
func (p *process) order(ctx context.Context, o order) (report, error) {
	p.ordering.Lock()
	defer p.ordering.Unlock()
	if o.Do == errandClose {
		p.tell()
	}
	if err := json.NewEncoder(p.in).Encode(o); err != nil {
		return report{}, fmt.Errorf("%s: %w", p.id, err)
	}
	var r report
	select {
	case r = <-p.reports:
	case <-p.ended:
		if o.Do != errandClose || len(p.reports) == 0 {
			return report{}, p.endedByItself()
		}
		r = <-p.reports
	case <-ctx.Done():
		return report{}, context.Cause(ctx)
	case <-time.After(orderTimeout):
		return report{}, fmt.Errorf("%s has not carried out %q within %v", p.id, o.Do, orderTimeout)
	}
	if o.Do == errandClose {
		<-p.ended
		if !p.cmd.ProcessState.Success() {
			return r, p.endedByItself()
		}
	}
	return r, nil
}

func (p *process) endedByItself() error {
	return fmt.Errorf("%s has ended: %v", p.id, p.cmd.ProcessState)
}

// kill ends the process by SIGKILL.
func (p *process) kill() {
	p.tell()
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// tell notes that the process is told to end: from then on its copies do not count.
func (p *process) tell() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = time.Now()
}

// stop stops the process, and resume has it go on.
func (p *process) stop() error   { return p.cmd.Process.Signal(syscall.SIGSTOP) }
func (p *process) resume() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

// serves reports whether the process serves copies, and whether it has said, of so much time after a moment,
// that it did so throughout, and that its region had so many nodes.
func (p *process) serves(nodes int, after time.Time, steady time.Duration) (serves, settled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.state
	if p.changed.After(after) {
		after = p.changed
	}
	return s.Serves, s.Serves && s.Nodes == nodes && s.At.Sub(after) >= steady
}

// history returns when the process has served copies, when it was started, and when it was told to end, if
// it was.
func (p *process) history() (t timeline, born, told time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.timeline), p.born, p.told
}

// loaded returns how often the process had loaded from the origin by its last report.
func (p *process) loaded() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.loads
}
