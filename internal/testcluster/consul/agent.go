package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"time"
)

// An Agent is a Consul agent: the server of a datacenter, or a client in one. It keeps its ports
// through any number of restarts.
type Agent struct {
	Datacenter string

	name    string
	server  *Agent // the server of a client's datacenter; nil if this is a server
	cluster *Cluster
	ports   ports
	process *process // the latest
	data    string   // the data directory of a client; empty for a server
}

// A process is one run of the consul binary.
type process struct {
	cmd    *exec.Cmd
	output *tail
	ended  chan struct{} // closed when the process has ended
}

// Address returns the address of the agent's HTTP interface, host:port.
func (a *Agent) Address() string { return a.ports.address(a.ports.http) }

// Kill ends the process with SIGKILL, as a crash does, and returns once it is gone. Killing an
// agent that is not running does nothing.
func (a *Agent) Kill() {
	a.process.cmd.Process.Kill() // an error means that it has already ended
	<-a.process.ended
	if a.data != "" {
		_ = os.RemoveAll(a.data)
	}
}

// Restart starts an agent that was killed, without its former state and on the same ports. Restart
// returns when the agent has a leader and knows the other running agents.
func (a *Agent) Restart(ctx context.Context) error {
	if a.alive() {
		return fmt.Errorf("agent %s is running", a.Datacenter)
	}
	if err := a.spawn(); err != nil {
		return err
	}
	return a.waitReady(ctx, a.cluster.running())
}

// Leave makes the agent leave the cluster for good, so that its datacenter disappears from the
// others' lists. Leave returns when the process has ended.
func (a *Agent) Leave(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+a.Address()+"/v1/agent/leave", nil)
	if err != nil {
		return err
	}
	if response, err := client.Do(request); err == nil { // the agent may end before it answers
		response.Body.Close()
	}
	select {
	case <-a.process.ended:
		a.cluster.agents = slices.DeleteFunc(a.cluster.agents, func(b *Agent) bool { return a == b })
		return nil
	case <-ctx.Done():
		return fmt.Errorf("agent %s does not end: %w", a.Datacenter, ctx.Err())
	}
}

// spawn starts the process.
func (a *Agent) spawn() error {
	args := []string{"agent",
		"-log-level", "warn",
		"-datacenter", a.Datacenter,
		"-node", a.name,
		"-bind", loopback,
		"-client", loopback,
		"-http-port", strconv.Itoa(a.ports.http),
		"-server-port", strconv.Itoa(a.ports.server),
		"-serf-lan-port", strconv.Itoa(a.ports.lan),
		"-serf-wan-port", strconv.Itoa(a.ports.wan),
		"-grpc-port", "-1",
		"-grpc-tls-port", "-1",
		"-dns-port", "-1",
	}
	if a.cluster.hcl != "" {
		args = append(args, "-hcl", a.cluster.hcl)
	}
	if a.server == nil {
		args = append(append(args, "-dev"), a.cluster.wanJoin(a)...)
	} else { // a client writes to disk even in development mode, so it runs without that
		var err error
		if a.data, err = os.MkdirTemp("", "consul"); err != nil {
			return err
		}
		args = append(args, "-data-dir", a.data, "-retry-join", a.server.ports.address(a.server.ports.lan))
	}
	p := &process{
		cmd:    exec.Command(a.cluster.binary, args...),
		output: new(tail),
		ended:  make(chan struct{}),
	}
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	dieWithParent(p.cmd)
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("agent %s: %w", a.Datacenter, err)
	}
	go func() {
		p.cmd.Wait()
		close(p.ended)
	}()
	a.process = p
	return nil
}

func (a *Agent) alive() bool {
	select {
	case <-a.process.ended:
		return false
	default:
		return true
	}
}

// waitReady waits until the agent has a leader and lists the datacenters.
func (a *Agent) waitReady(ctx context.Context, datacenters []string) error {
	p := a.process
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := a.ready(ctx, datacenters)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.ended:
			return fmt.Errorf("agent %s ended: %s", a.Datacenter, p.output)
		case <-ctx.Done():
			return fmt.Errorf("agent %s is not ready: %w; its output: %s", a.Datacenter, errors.Join(ctx.Err(), err),
				p.output)
		}
	}
}

func (a *Agent) ready(ctx context.Context, datacenters []string) error {
	var leader string
	if err := a.get(ctx, "/v1/status/leader", &leader); err != nil {
		return err
	}
	if leader == "" {
		return errors.New("it has no leader")
	}
	var list []string
	if err := a.get(ctx, "/v1/catalog/datacenters", &list); err != nil {
		return err
	}
	for _, dc := range datacenters {
		if !slices.Contains(list, dc) {
			return fmt.Errorf("it does not know datacenter %s", dc)
		}
	}
	return nil
}

// client keeps no connections open, so that it leaves no goroutines behind.
var client = &http.Client{
	Transport: &http.Transport{DisableKeepAlives: true},
	Timeout:   10 * time.Second,
}

func (a *Agent) get(ctx context.Context, path string, out any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.Address()+path, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(out)
}

const loopback = "127.0.0.1"

// ports are the ports of one agent. All are used for TCP, and those of serf for UDP as well.
type ports struct{ http, server, lan, wan int }

func (ports) address(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }

// freePorts finds ports that are free for both TCP and UDP.
func freePorts() (ports, error) {
	var p ports
	for _, port := range []*int{&p.http, &p.server, &p.lan, &p.wan} {
		// All are held until the last is found, so they differ.
		l, err := net.Listen("tcp", p.address(0))
		if err != nil {
			return p, err
		}
		defer l.Close()
		*port = l.Addr().(*net.TCPAddr).Port
		u, err := net.ListenPacket("udp", p.address(*port))
		if err != nil {
			return p, err
		}
		defer u.Close()
	}
	return p, nil
}

// tail keeps the end of what was written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(b []byte) (int, error) {
	const limit = 4096
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if n := len(t.text) - limit; n > 0 {
		t.text = slices.Delete(t.text, 0, n)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
