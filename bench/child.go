package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// childEnv makes this program something that a comparison needs a process for; its
// value is a kind of children.
const childEnv = "GEOCACHE_BENCH_CHILD"

// children are what this program can be instead. Each is given the parameters that start
// was given, and says what the parent asks for by lines on standard output. When its
// standard input ends, so must it.
var children map[string]func(parameters []byte, in *bufio.Reader) error

func init() {
	children = map[string]func([]byte, *bufio.Reader) error{
		"serve":  serveChild,
		"memory": memoryChild,
	}
}

// child does what a child has to do, and reports whether this process is one.
func child() bool {
	kind := os.Getenv(childEnv)
	if kind == "" {
		return false
	}
	in := bufio.NewReader(os.Stdin)
	err := func() error {
		parameters, err := in.ReadBytes('\n')
		if err != nil {
			return err
		}
		return children[kind](parameters, in)
	}()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: child %s: %v\n", kind, err)
		os.Exit(1)
	}
	return true
}

// A process is another process, that ends when the parent does.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start starts this program once more, to be a child of some kind.
func start(kind string, parameters any) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(parameters)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-test.run=^$") // the flag is for the tests' program, a child reads none
	cmd.Env = append(os.Environ(), childEnv+"="+kind)
	p, err := launch(cmd)
	if err != nil {
		return nil, err
	}
	_, err = p.in.Write(append(line, '\n'))
	return p, err
}

func launch(cmd *exec.Cmd) (*process, error) {
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &process{cmd, in, bufio.NewReader(out)}, cmd.Start()
}

// line returns the next line that the process prints.
func (p *process) line() (string, error) {
	line, err := p.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the child has ended: %w", err)
	}
	return strings.TrimSpace(line), nil
}

// stop ends the process and waits for that.
func (p *process) stop() {
	if p.cmd.ProcessState != nil {
		return
	}
	_ = p.in.Close()
	done := make(chan struct{})
	go func() { _ = p.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-done
	}
}

// cpu returns the time that a process has had a processor for, in steps of 10 ms.
func (p *process) cpu() time.Duration { return cpuOf(strconv.Itoa(p.cmd.Process.Pid)) }

// ownCPU is cpu of this process.
func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func cpuOf(pid string) time.Duration {
	stat, _ := os.ReadFile("/proc/" + pid + "/stat")
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may have spaces
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// rss returns how much memory this process has, in bytes.
func rss() int64 {
	statm, _ := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(statm))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

var names atomic.Int64

// uniqueName returns a name that has not been given yet: groupcache's groups are the
// process's.
func uniqueName(prefix string) string { return fmt.Sprint(prefix, "-", names.Add(1)) }
