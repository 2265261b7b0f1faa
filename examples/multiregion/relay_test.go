package main

import (
	"bytes"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/internal/testcluster/loopback"
)

// echo starts a server that sends back what it is sent, reached over l.
func echo(t *testing.T, l *link) net.Conn {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { server.Close() })
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(conn, conn)
				conn.Close()
			}()
		}
	}()
	r, err := startRelay(l, server.Addr().String())
	require.NoError(t, err)
	t.Cleanup(r.close)
	conn, err := net.Dial("tcp", r.address())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

func roundTrip(t *testing.T, conn net.Conn, data []byte) {
	go conn.Write(data)
	back := make([]byte, len(data))
	_, err := io.ReadFull(conn, back)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, back))
}

func TestRelayDelays(t *testing.T) {
	const delay = 30 * time.Millisecond
	conn := echo(t, newLink(delay))
	roundTrip(t, conn, []byte("hello")) // with the handshake
	began := time.Now()
	roundTrip(t, conn, []byte("hello"))
	require.GreaterOrEqual(t, time.Since(began), 2*delay)
}

// A relay that slept for every read would need the delay for every 64 KiB: more
// than ten seconds here.
func TestRelayKeepsThroughput(t *testing.T) {
	const delay = 40 * time.Millisecond
	conn := echo(t, newLink(delay))
	began := time.Now()
	roundTrip(t, conn, bytes.Repeat([]byte("0123456789abcdef"), 1<<20))
	require.Less(t, time.Since(began), 5*time.Second)
}

func TestRelayCutAndHeal(t *testing.T) {
	l := newLink(time.Millisecond)
	conn := echo(t, l)
	roundTrip(t, conn, []byte("before"))

	l.cut()
	l.cut() // changes nothing
	_, err := conn.Write([]byte("during"))
	require.NoError(t, err)
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := conn.Read(make([]byte, 1))
	require.Zero(t, n)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "nothing arrives, and nothing breaks")

	l.heal()
	l.heal()
	conn.SetReadDeadline(time.Time{})
	back := make([]byte, len("during"))
	_, err = io.ReadFull(conn, back)
	require.NoError(t, err)
	require.Equal(t, "during", string(back))
}

func TestRelayPassesTheEndOn(t *testing.T) {
	conn := echo(t, newLink(time.Millisecond))
	roundTrip(t, conn, []byte("hello"))
	_, err := conn.Write([]byte("last words"))
	require.NoError(t, err)
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	back, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "last words", string(back))
}

// A client that gives up while the link is cut never reaches the target.
func TestRelayForgetsWhoGaveUp(t *testing.T) {
	target, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer target.Close()
	l := newLink(time.Millisecond)
	r, err := startRelay(l, target.Addr().String())
	require.NoError(t, err)
	defer r.close()

	l.cut()
	impatient, err := net.Dial("tcp", r.address())
	require.NoError(t, err)
	_, err = impatient.Write([]byte("impatient"))
	require.NoError(t, err)
	require.NoError(t, impatient.Close())
	patient, err := net.Dial("tcp", r.address())
	require.NoError(t, err)
	defer patient.Close()
	_, err = patient.Write([]byte("patient"))
	require.NoError(t, err)
	time.Sleep(50 * time.Millisecond) // for the relay to see both
	l.heal()

	conn, err := target.Accept()
	require.NoError(t, err)
	defer conn.Close()
	said := make([]byte, len("patient"))
	_, err = io.ReadFull(conn, said)
	require.NoError(t, err)
	require.Equal(t, "patient", string(said))
}

func TestRelayWithoutTarget(t *testing.T) {
	nobody, err := loopback.FreeAddresses(1)
	require.NoError(t, err)
	r, err := startRelay(newLink(time.Millisecond), nobody[0])
	require.NoError(t, err)
	defer r.close()
	conn, err := net.Dial("tcp", r.address())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
}
