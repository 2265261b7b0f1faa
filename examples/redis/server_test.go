package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
)

// A server is a Redis of a test's own. It listens on a socket in a directory of the test,
// so that nobody can take its port.
type server struct {
	dir   string
	cmd   *exec.Cmd
	ended chan struct{}
}

// newServer starts an empty Redis, which ends with the test.
func newServer(t testing.TB) *server {
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("there is no Redis here; on Debian: apt-get install redis-server")
	}
	s := &server{dir: t.TempDir()}
	s.start(t)
	t.Cleanup(func() { s.stop() })
	return s
}

// start starts the server, which may have been stopped, and waits until it answers.
func (s *server) start(t testing.TB) {
	t.Helper()
	args := []string{"redis-server", "--port", "0", "--unixsocket", s.socket(), "--dir", s.dir, "--save", "", "--appendonly", "no"}
	if path, err := exec.LookPath("setpriv"); err == nil && runtime.GOOS == "linux" {
		args = append([]string{path, "--pdeathsig", "KILL"}, args...) // a test that is killed leaves no server behind
	}
	s.cmd = exec.Command(args[0], args[1:]...)
	var out bytes.Buffer
	s.cmd.Stdout, s.cmd.Stderr = &out, &out
	require.NoError(t, s.cmd.Start())
	s.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		cmd.Wait()
		close(ended)
	}(s.cmd, s.ended)

	for deadline := time.After(30 * time.Second); ; {
		client, err := rueidis.NewClient(rueidis.MustParseURL(s.url()))
		if err == nil {
			client.Close()
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-s.ended:
			require.FailNow(t, "Redis has ended", "%s", &out)
		case <-deadline:
			require.FailNow(t, "Redis does not answer", "%v", err)
		}
	}
}

// stop kills the server: it has nothing to save.
func (s *server) stop() {
	s.cmd.Process.Kill() // an error says that it has ended before
	<-s.ended
}

func (s *server) socket() string { return filepath.Join(s.dir, "redis") }

func (s *server) url() string { return "unix://" + s.socket() }
