package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// A server is a PostgreSQL of a test's own. It listens on a socket in its directory,
// so that nobody can take its port.
type server struct {
	bin, dir string
	as       []string // the command before each command, which has it run as another user
	cmd      *exec.Cmd
	ended    chan struct{}
}

// newServer makes an empty database and starts the server, which ends with the test.
func newServer(t *testing.T) *server {
	s := &server{bin: binaries(t)}
	var err error
	s.dir, err = os.MkdirTemp("", "pg") // not t.TempDir, which another user cannot enter
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(s.dir) })
	s.choose(t)
	out, err := s.command("initdb", "-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync").CombinedOutput()
	require.NoError(t, err, "%s", out)
	s.start(t)
	t.Cleanup(func() { s.stop(t) })
	return s
}

// binaries returns where initdb and postgres are.
func binaries(t *testing.T) string {
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path)
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // where Debian has them
	require.NoError(t, err)
	if len(found) == 0 {
		t.Skip("there is no PostgreSQL here; on Debian: apt-get install postgresql")
	}
	return filepath.Dir(found[len(found)-1])
}

// choose finds out as whom the server runs: PostgreSQL refuses to be root.
func (s *server) choose(t *testing.T) {
	var setpriv []string
	if path, err := exec.LookPath("setpriv"); err == nil && runtime.GOOS == "linux" {
		// A test that is killed leaves no server behind.
		setpriv = []string{path, "--pdeathsig", "KILL"}
	}
	s.as = setpriv
	if os.Geteuid() != 0 {
		return
	}
	u, err := user.Lookup("postgres")
	if err != nil || setpriv == nil {
		t.Skip("PostgreSQL refuses to run as root, and there is no user postgres or no setpriv to run it otherwise")
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	require.NoError(t, os.Chown(s.dir, uid, gid))
	s.as = append(setpriv, "--reuid", u.Uid, "--regid", u.Gid, "--clear-groups")
}

func (s *server) data() string { return filepath.Join(s.dir, "data") }

func (s *server) command(name string, args ...string) *exec.Cmd {
	args = append(append(s.as[:len(s.as):len(s.as)], filepath.Join(s.bin, name)), args...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = s.dir
	return cmd
}

// start starts the server, which may have been stopped, and waits until it answers.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.cmd = s.command("postgres", "-D", s.data(), "-k", s.dir, "-c", "listen_addresses=", "-c", "fsync=off")
	var out bytes.Buffer
	s.cmd.Stdout, s.cmd.Stderr = &out, &out
	require.NoError(t, s.cmd.Start())
	s.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		cmd.Wait()
		close(ended)
	}(s.cmd, s.ended)

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.url())
		if err == nil {
			require.NoError(t, conn.Close(ctx))
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-s.ended:
			require.FailNow(t, "PostgreSQL has ended", "%s", &out)
		case <-ctx.Done():
			require.FailNow(t, "PostgreSQL does not answer", "%v", err)
		}
	}
}

// stop ends the server, its connections too.
func (s *server) stop(t *testing.T) {
	t.Helper()
	s.cmd.Process.Signal(os.Interrupt) // an error says that it has ended before
	select {
	case <-s.ended:
	case <-time.After(10 * time.Second):
		s.cmd.Process.Kill()
		<-s.ended
		t.Error("PostgreSQL had to be killed")
	}
}

func (s *server) url() string {
	return fmt.Sprintf("host=%s user=postgres dbname=postgres sslmode=disable", s.dir)
}
