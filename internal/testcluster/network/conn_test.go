package network

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestAddresses(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		require.Equal(t, "tcp", w.client.LocalAddr().Network())
		require.Equal(t, "eu-1:49152", w.client.LocalAddr().String())
		require.Equal(t, "us-1:7946", w.client.RemoteAddr().String())
		require.Equal(t, w.client.LocalAddr(), w.server.RemoteAddr())
		require.Equal(t, w.client.RemoteAddr(), w.server.LocalAddr())
	})
}

func TestCloseSendsEOFAfterTheData(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		send(t, w.client, "bye")
		require.NoError(t, w.client.Close())
		require.ErrorIs(t, w.client.Close(), net.ErrClosed)
		_, err := w.client.Write([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed)
		requireReadError(t, w.client, net.ErrClosed, 0)
		require.ErrorIs(t, w.client.SetDeadline(time.Now()), net.ErrClosed)

		requireArrival(t, w.server, "bye", oneWay)
		for range 2 {
			n, err := w.server.Read(make([]byte, 1))
			require.Zero(t, n)
			require.Equal(t, io.EOF, err, "bare, as io.Reader asks")
		}

		// What is written to a closed end is answered with a RST.
		send(t, w.server, "too late")
		time.Sleep(2*oneWay + 1)
		_, err = w.server.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
	})
}

func TestCloseWithUnreadDataResets(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		send(t, w.client, "never read")
		time.Sleep(oneWay + 1)
		require.NoError(t, w.server.Close())
		requireReadError(t, w.client, syscall.ECONNRESET, oneWay)
	})
}

func TestCloseInACutIsToldAfterHeal(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.Cut("eu", "us")
		send(t, w.client, "bye")
		w.client.Close()
		requireSilence(t, w.server, time.Minute)
		w.Heal("eu", "us")
		all, err := io.ReadAll(w.server)
		require.NoError(t, err)
		require.Equal(t, "bye", string(all))
	})
}

func TestReadDeadline(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		send(t, w.client, "hello")
		require.NoError(t, w.server.SetReadDeadline(time.Now().Add(oneWay-1)))
		requireReadError(t, w.server, os.ErrDeadlineExceeded, oneWay-1)
		time.Sleep(time.Second)
		_, err := w.server.Read(make([]byte, 5))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "takes precedence over data")
		var netErr net.Error
		require.ErrorAs(t, err, &netErr)
		require.True(t, netErr.Timeout())

		require.NoError(t, w.server.SetReadDeadline(time.Time{}))
		requireArrival(t, w.server, "hello", 0)

		// A deadline set, moved or taken back during a Read counts.
		require.NoError(t, w.server.SetDeadline(time.Now().Add(time.Second)))
		time.AfterFunc(time.Second/2, func() { w.server.SetReadDeadline(time.Now().Add(time.Minute)) })
		time.AfterFunc(time.Second*2, func() { w.server.SetDeadline(time.Now()) })
		requireReadError(t, w.server, os.ErrDeadlineExceeded, 2*time.Second)
	})
}

func TestADeadlineTakenBackLeavesNoTimer(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for _, end := range []func(){
			func() { require.NoError(t, w.client.SetDeadline(time.Time{})) },
			func() { require.NoError(t, w.client.Close()) },
		} {
			require.NoError(t, w.client.SetDeadline(time.Now().Add(time.Hour)))
			c := w.client.(*conn)
			timers := []*time.Timer{c.readDeadline.timer, c.writeDeadline.timer}
			end()
			for _, timer := range timers {
				require.False(t, timer.Stop(), "it was stopped")
			}
		}
	})
}

func TestBackPressure(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		require.Zero(t, elapsed(func() { send(t, w.client, string(make([]byte, window))) }))
		require.NoError(t, w.client.SetWriteDeadline(time.Now().Add(time.Second)))
		n, err := w.client.Write([]byte("x"))
		require.Zero(t, n)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		_, err = w.client.Write(nil)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)

		require.NoError(t, w.client.SetDeadline(time.Time{}))
		time.AfterFunc(time.Minute, func() { io.ReadFull(w.server, make([]byte, 10)) })
		require.Equal(t, time.Minute, elapsed(func() { send(t, w.client, "0123456789") }))

		require.NoError(t, w.client.SetWriteDeadline(time.Now().Add(2*time.Minute)))
		time.AfterFunc(time.Minute, func() { io.ReadFull(w.server, make([]byte, 7)) })
		n, err = w.client.Write([]byte("0123456789"))
		require.Equal(t, 7, n, "what was written counts")
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	})
}

func TestABlockedWriteEnds(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(w *world)
		want error
	}{
		"by Close":            {func(w *world) { w.client.Close() }, net.ErrClosed},
		"by the other's":      {func(w *world) { w.server.Close() }, syscall.ECONNRESET},
		"by the other's host": {func(w *world) { w.us.Crash() }, syscall.ECONNRESET},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				time.AfterFunc(time.Second, func() { test.end(w) })
				n, err := w.client.Write(make([]byte, 2*window))
				require.Equal(t, window, n)
				require.ErrorIs(t, err, test.want)
			})
		})
	}
}

// A Write to a closed end must not hang, even if the RST that answers it is lost.
func TestAWriteToAClosedEndDoesNotHang(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.CutOneWay("us", "eu")
		w.server.Close()
		send(t, w.client, string(make([]byte, 2*window)))
		time.Sleep(time.Second)
		w.HealAll()
		send(t, w.client, "x")
		requireReadError(t, w.client, syscall.ECONNRESET, 2*oneWay)
	})
}

func TestConcurrentWritesDoNotMingle(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const writers, size = 5, window + 1000
		for i := range writers {
			go w.client.Write(bytes.Repeat([]byte{byte(i)}, size))
		}
		b := make([]byte, size)
		seen := make(map[byte]bool)
		for range writers {
			_, err := io.ReadFull(w.server, b)
			require.NoError(t, err)
			require.Equal(t, size, bytes.Count(b, b[:1]))
			seen[b[0]] = true
		}
		require.Len(t, seen, writers)
	})
}

// Everything at once, for the race detector, and to find waits that never end.
func TestConcurrentUse(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.SetLoss("eu", "us", 0.1)
		var all sync.WaitGroup
		for _, c := range []net.Conn{w.client, w.server} {
			for range 4 {
				all.Go(func() { io.Copy(io.Discard, c) })
				all.Go(func() {
					for i := 0; ; i++ {
						if _, err := c.Write(make([]byte, 1+i%5000)); err != nil {
							return
						}
					}
				})
				all.Go(func() {
					for c.SetDeadline(time.Now().Add(time.Minute)) == nil {
						time.Sleep(time.Second)
					}
				})
			}
		}
		time.Sleep(3 * time.Second)
		w.Cut("eu", "us")
		time.Sleep(3 * time.Second)
		w.HealAll()
		w.us.Freeze()
		time.Sleep(3 * time.Second)
		w.us.Thaw()
		for range 3 {
			all.Go(func() { w.client.Close() })
			all.Go(func() { w.server.Close() })
		}
		all.Wait()

		time.Sleep(time.Hour)
		w.mu.Lock()
		left := len(w.inFlight) + len(w.eu.conns) + len(w.us.conns)
		w.mu.Unlock()
		require.Zero(t, left, "nothing is left of the connection")
	})
}

// Whatever happens to the links and hosts, short of a crash, what is read is what was written.
func TestAStreamArrivesWholeAndInOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(0, 20_000), 1, 20).Draw(r, "sizes")
		faults := rapid.SliceOfN(rapid.IntRange(0, 6), 0, 20).Draw(r, "faults")
		loss := rapid.Float64Range(0, 0.5).Draw(r, "loss")
		pause := time.Duration(rapid.IntRange(0, 500).Draw(r, "pause")) * time.Millisecond
		inWorld(t, func(t *testing.T, w *world) {
			w.SetLoss("eu", "us", loss)
			source := mathrand.NewChaCha8([32]byte{})
			var want bytes.Buffer
			for _, size := range sizes {
				io.CopyN(&want, source, int64(size))
			}
			var all sync.WaitGroup
			all.Go(func() {
				rest := want.Bytes()
				for _, size := range sizes {
					w.client.Write(rest[:size])
					rest = rest[size:]
					time.Sleep(pause)
				}
				w.client.Close()
			})
			all.Go(func() {
				for _, f := range faults {
					[]func(){
						func() { w.Cut("eu", "us") },
						func() { w.CutOneWay("eu-1", "us-1") },
						w.HealAll,
						w.eu.Freeze,
						w.us.Freeze,
						func() { w.eu.Thaw(); w.us.Thaw() },
						func() { w.SetLatency("eu", "us", pause/10) },
					}[f]()
					time.Sleep(300 * time.Millisecond)
				}
				w.HealAll()
				w.eu.Thaw()
				w.us.Thaw()
			})
			got, err := io.ReadAll(w.server)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want.Bytes(), got), "%d bytes written, %d read", want.Len(), len(got))
			all.Wait()
		})
	})
}

func TestHTTPOverTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	inWorld(t, func(t *testing.T, w *world) {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1),
			DNSNames:     []string{w.us.Name()},
			NotBefore:    time.Now().Add(-time.Hour),
			NotAfter:     time.Now().Add(time.Hour),
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		require.NoError(t, err)
		cert, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		roots := x509.NewCertPool()
		roots.AddCert(cert)

		body := bytes.Repeat([]byte("0123456789"), 100_000)
		server := &http.Server{Handler: http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
			out.Write(body)
		})}
		served := make(chan error)
		go func() {
			served <- server.Serve(tls.NewListener(w.listener, &tls.Config{
				Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
			}))
		}()

		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
		transport.DialContext = func(ctx context.Context, _, address string) (net.Conn, error) {
			return w.eu.Dial(ctx, address)
		}
		client := &http.Client{Transport: transport}
		get := func() {
			response, err := client.Get("https://" + w.us.Addr())
			require.NoError(t, err)
			got, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.True(t, bytes.Equal(body, got))
		}
		require.GreaterOrEqual(t, elapsed(get), 6*oneWay, "three round trips: TCP, TLS, HTTP")
		require.Less(t, elapsed(get), 6*oneWay, "the connection is kept")
		transport.CloseIdleConnections()
		require.NoError(t, server.Shutdown(t.Context()))
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
}
