package network

import (
	"context"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCrashResets(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		send(t, w.server, "last words")
		w.us.Crash()
		w.us.Crash() // changes nothing

		requireReadError(t, w.server, syscall.ECONNRESET, 0)
		_, err := w.listener.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = w.us.Dial(t.Context(), w.eu.Addr())
		require.ErrorIs(t, err, syscall.ENETDOWN)
		_, err = w.us.Listen()
		require.ErrorIs(t, err, syscall.ENETDOWN)

		requireArrival(t, w.client, "last words", oneWay)
		requireReadError(t, w.client, syscall.ECONNRESET, 0)
		_, err = w.client.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		_, err = w.eu.Dial(t.Context(), w.us.Addr())
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.NoError(t, w.client.Close())
		require.NoError(t, w.server.Close())
	})
}

func TestCrashEndsWaits(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.Cut("eu", "us")
		errs := make(chan error, 3)
		go func() { _, err := w.server.Read(make([]byte, 1)); errs <- err }()
		go func() { _, err := w.us.Dial(t.Context(), w.eu.Addr()); errs <- err }()
		go func() { _, err := w.server.Write(make([]byte, 2*window)); errs <- err }()
		synctest.Wait()
		require.Zero(t, elapsed(func() {
			w.us.Crash()
			for range cap(errs) {
				require.Error(t, <-errs)
			}
		}))
	})
}

// A crash behind a cut is not noticed until there is data to answer.
func TestCrashInACut(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.Cut("eu", "us")
		send(t, w.server, "dies with its host")
		w.us.Crash()
		w.Heal("eu", "us")
		requireSilence(t, w.client, time.Hour)
		send(t, w.client, "are you there?")
		requireReadError(t, w.client, syscall.ECONNRESET, 2*oneWay)
	})
}

func TestACutLosesAReset(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.us.Crash()
		w.Cut("eu", "us")
		w.Heal("eu", "us")
		requireSilence(t, w.client, time.Hour)
	})
}

func TestLossLosesAReset(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.SetLoss("eu", "us", 0.99)
		w.us.Crash()
		requireSilence(t, w.client, time.Hour)
		w.SetLoss("eu", "us", 0)
		send(t, w.client, "are you there?")
		requireReadError(t, w.client, syscall.ECONNRESET, 2*oneWay)
	})
}

func TestAResetEndsRetransmission(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.CutOneWay("eu", "us")
		send(t, w.client, "for nobody")
		w.us.Crash()
		requireReadError(t, w.client, syscall.ECONNRESET, oneWay)
		synctest.Wait()
		w.mu.Lock()
		left := len(w.inFlight)
		w.mu.Unlock()
		require.Zero(t, left)
	})
}

func TestRestart(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.Cut("eu", "us-1")
		next := w.us.Restart()
		require.Equal(t, []string{"us-1", "us"}, []string{next.Name(), next.zone})
		require.Panics(t, func() { w.us.Restart() })
		requireReadError(t, w.server, syscall.ECONNRESET, 0)
		_, err := w.us.Dial(t.Context(), next.Addr())
		require.ErrorIs(t, err, syscall.ENETDOWN, "the former host stays dead")

		l, err := next.Listen()
		require.NoError(t, err)
		defer l.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = w.eu.Dial(ctx, next.Addr())
		require.ErrorIs(t, err, context.DeadlineExceeded, "cuts outlive a restart")
		w.HealAll()
		client, server := connect(t, w.eu, next, l)
		defer client.Close()
		defer server.Close()
		send(t, client, "hello again")
		requireArrival(t, server, "hello again", oneWay)

		// The connections of the former host get nowhere.
		send(t, w.client, "hello?")
		requireReadError(t, w.client, syscall.ECONNRESET, 2*oneWay)
	})
}

func TestARestartContinuesThePorts(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		client, server := connect(t, w.eu.Restart(), w.us, w.listener)
		defer client.Close()
		defer server.Close()
		require.Equal(t, "eu-1:49153", client.LocalAddr().String())
	})
}

// The host is restarted while the SYN is on its way.
func TestADialReachesTheNextLife(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		time.AfterFunc(oneWay/2, func() { w.listener, _ = w.us.Restart().Listen() })
		client, err := w.eu.Dial(t.Context(), w.us.Addr())
		require.NoError(t, err)
		defer client.Close()
		synctest.Wait() // orders the restart before what follows, for the race detector
		server, err := w.listener.Accept()
		require.NoError(t, err)
		defer server.Close()
		send(t, server, "hello")
		requireArrival(t, client, "hello", oneWay)
	})
}

// The host is restarted between the SYN and the accept.
func TestRestartDuringADial(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var c net.Conn
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, err = w.eu.Dial(t.Context(), w.us.Addr())
		}()
		time.Sleep(oneWay + time.Millisecond)
		w.us.Restart()
		<-done
		require.NoError(t, err, "the former host had answered")
		defer c.Close()
		requireReadError(t, c, syscall.ECONNRESET, 2*oneWay)
	})
}

func TestFreeze(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		send(t, w.server, "sent before, ")
		w.us.Freeze()
		w.us.Freeze() // changes nothing
		send(t, w.client, "kept")

		type result struct {
			what string
			at   time.Duration
		}
		start := time.Now()
		results := make(chan result, 4)
		run := func(what string, f func() error) {
			go func() {
				if err := f(); err != nil {
					what += ": " + err.Error()
				}
				results <- result{what, time.Since(start)}
			}()
		}
		run("read", func() error { _, err := io.ReadFull(w.server, make([]byte, 4)); return err })
		run("write", func() error { _, err := io.WriteString(w.server, "sent after"); return err })
		run("accept", func() error {
			c, err := w.listener.Accept()
			if err == nil {
				err = c.Close()
			}
			return err
		})
		requireArrival(t, w.client, "sent before, ", oneWay)
		c, err := w.eu.Dial(t.Context(), w.us.Addr())
		require.NoError(t, err, "the operating system answers")
		defer c.Close()
		requireSilence(t, w.client, time.Minute)
		require.Empty(t, results)

		thawed := time.Since(start)
		w.us.Thaw()
		for range 3 {
			r := <-results
			require.Contains(t, []string{"read", "write", "accept"}, r.what)
			require.Equal(t, thawed, r.at, r.what)
		}
		requireArrival(t, w.client, "sent after", oneWay)
	})
}

func TestAFrozenHostDialsAfterThaw(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.eu.Freeze()
		time.AfterFunc(time.Minute, w.eu.Thaw)
		require.Equal(t, time.Minute+2*oneWay, elapsed(func() {
			c, err := w.eu.Dial(t.Context(), w.us.Addr())
			require.NoError(t, err)
			c.Close()
		}))
	})
}

func TestAHostFrozenDuringADial(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		time.AfterFunc(oneWay, w.eu.Freeze)
		time.AfterFunc(time.Minute, w.eu.Thaw)
		require.Equal(t, time.Minute, elapsed(func() {
			c, err := w.eu.Dial(t.Context(), w.us.Addr())
			require.NoError(t, err)
			c.Close()
		}))
	})
}

func TestAFrozenHostDoesNotSeeAReset(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.us.Freeze()
		w.eu.Crash()
		time.AfterFunc(time.Minute, w.us.Thaw)
		require.Equal(t, time.Minute, elapsed(func() {
			_, err := w.server.Write([]byte("x"))
			require.ErrorIs(t, err, syscall.ECONNRESET)
		}))
	})
}

func TestAFrozenHostCanBeShutDown(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.us.Freeze()
		require.NoError(t, w.server.SetReadDeadline(time.Now().Add(time.Second)))
		requireReadError(t, w.server, os.ErrDeadlineExceeded, time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := w.us.Dial(ctx, w.eu.Addr())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.AfterFunc(time.Second, func() { w.server.Close() })
		_, err = w.server.Write([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed)

		requireSilence(t, w.client, time.Minute) // the other end does not learn of the Close yet
		w.us.Thaw()
		requireReadError(t, w.client, io.EOF, oneWay)
	})
}

func TestAFrozenHostCanCrash(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.us.Freeze()
		w.us.Crash()
		requireReadError(t, w.client, syscall.ECONNRESET, oneWay)
		requireReadError(t, w.server, syscall.ECONNRESET, 0)
	})
}

func TestListen(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, err := w.us.Listen()
		require.ErrorIs(t, err, syscall.EADDRINUSE)
		require.Equal(t, "us-1:7946", w.listener.Addr().String())

		waiting, err := w.eu.Dial(t.Context(), w.us.Addr())
		require.NoError(t, err)
		defer waiting.Close()
		time.Sleep(oneWay + 1) // until it is in the queue
		require.NoError(t, w.listener.Close())
		require.ErrorIs(t, w.listener.Close(), net.ErrClosed)
		requireReadError(t, waiting, syscall.ECONNRESET, oneWay)
		w.mu.Lock()
		left := len(w.us.conns)
		w.mu.Unlock()
		require.Equal(t, 1, left, "only the one accepted before")

		w.listener, err = w.us.Listen()
		require.NoError(t, err)
		client, server := connect(t, w.eu, w.us, w.listener)
		client.Close()
		server.Close()
	})
}
