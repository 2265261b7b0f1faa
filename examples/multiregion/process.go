package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// roles are what a process of this program can be beside the one that directs
// the others: the first argument names it.
var roles = map[string]func(context.Context, *parent) error{
	"node":   runNode,
	"origin": runOrigin,
}

// runRole runs the role that the arguments name and reports whether they do.
func runRole(args []string) (isRole bool, err error) {
	if len(args) == 0 || roles[args[0]] == nil {
		return false, nil
	}
	// Ctrl-C reaches the whole process group; the parent decides.
	signal.Ignore(os.Interrupt)
	p := &parent{in: json.NewDecoder(os.Stdin), out: json.NewEncoder(os.Stdout)}
	return true, roles[args[0]](context.Background(), p)
}

// A parent is the process that started this one, as seen from here.
type parent struct {
	in *json.Decoder

	mu  sync.Mutex
	out *json.Encoder // guarded by mu
}

// receive waits for the next value. An error means that the parent is done with
// this process.
func (p *parent) receive(v any) error { return p.in.Decode(v) }

// send tells the parent. An error is left to receive: the pipes end together.
func (p *parent) send(v any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out.Encode(v)
}

// A process is a child, as seen from the parent.
type process struct {
	name string
	log  string // the file with its stderr

	cmd   *exec.Cmd
	stdin io.WriteCloser
	told  atomic.Bool   // that it has to end
	ended chan struct{} // closed when it has ended, and its messages are read
	err   error         // set before ended is closed
}

// startProcess starts this program in a role and sends it its config. receive is
// called with every message of the process.
func startProcess[M any](role, name, log string, config any, receive func(M)) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	stderr, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer stderr.Close() // the process has its own
	p := &process{name: name, log: log, cmd: exec.Command(self, role, name), ended: make(chan struct{})}
	p.cmd.Stderr = stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		for in := json.NewDecoder(stdout); ; {
			var message M
			if in.Decode(&message) != nil {
				break
			}
			receive(message)
		}
		p.err = p.cmd.Wait()
	}()
	p.send(config)
	return p, nil
}

// send gives the process a command. That it has ended is left to watch.
func (p *process) send(v any) { json.NewEncoder(p.stdin).Encode(v) }

// kill ends the process by SIGKILL and returns when it has ended.
func (p *process) kill() {
	p.told.Store(true)
	p.cmd.Process.Kill()
	<-p.ended
}

// end lets the process end by itself and returns what it ended with.
func (p *process) end(timeout time.Duration) error {
	p.told.Store(true)
	p.stdin.Close()
	select {
	case <-p.ended:
		if p.err != nil {
			return fmt.Errorf("%s: %w%s", p.name, p.err, p.lastWords())
		}
		return nil
	case <-time.After(timeout):
		p.kill()
		return fmt.Errorf("%s did not end within %v%s", p.name, timeout, p.lastWords())
	}
}

// watch waits until the process has ended and returns an error if nobody told it
// to.
func (p *process) watch() error {
	<-p.ended
	if p.told.Load() {
		return nil
	}
	return fmt.Errorf("%s ended by itself (%v)%s", p.name, p.err, p.lastWords())
}

// lastWords returns the end of the process's log.
func (p *process) lastWords() string {
	data, _ := os.ReadFile(p.log)
	data = bytes.TrimSpace(data[max(0, len(data)-2000):])
	if len(data) == 0 {
		return ""
	}
	return fmt.Sprintf("; %s ends:\n%s", filepath.Base(p.log), data)
}
