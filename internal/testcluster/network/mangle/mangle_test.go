package mangle

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/internal/testcluster/network"
)

// frame returns a frame of this type, with this number.
func frame(kind byte, id uint64) []byte {
	b := binary.BigEndian.AppendUint32(nil, 1+8+8+3)
	b = binary.BigEndian.AppendUint64(append(b, kind), id)
	return append(binary.BigEndian.AppendUint64(b, 0), "abc"...)
}

// connect returns the two ends of a connection whose dialed end is mangled.
func connect(t *testing.T, rates Rates) (m *Mangler, client, server net.Conn) {
	n := network.New(1)
	a, b := n.Host("a-1", "a"), n.Host("b-1", "b")
	l, err := b.Listen()
	require.NoError(t, err)
	m = New(7, rates)
	client, err = m.Dialer(a.Dial)(context.Background(), b.Addr())
	require.NoError(t, err)
	server, err = l.Accept()
	require.NoError(t, err)
	return m, client, server
}

// send writes n frames of a type to from, and returns the numbers of those that arrive at to, in
// order.
func send(t *testing.T, from, to net.Conn, kind byte, n int) (got []uint64) {
	var all []byte
	for i := range n {
		all = append(all, frame(kind, uint64(i))...)
	}
	for len(all) > 0 { // in pieces that are not whole frames
		k := min(len(all), 50)
		m, err := from.Write(all[:k])
		require.NoError(t, err)
		require.Equal(t, k, m)
		all = all[k:]
		time.Sleep(time.Millisecond)
	}
	size := len(frame(kind, 0))
	for {
		b := make([]byte, size)
		require.NoError(t, to.SetReadDeadline(time.Now().Add(time.Second)))
		_, err := io.ReadFull(to, b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return got
		}
		require.NoError(t, err)
		require.Equal(t, frame(kind, binary.BigEndian.Uint64(b[5:])), b)
		got = append(got, binary.BigEndian.Uint64(b[5:]))
	}
}

func inOrder(n int) (all []uint64) {
	for i := range n {
		all = append(all, uint64(i))
	}
	return all
}

func TestMessagesAreMangledInBothDirections(t *testing.T) {
	for name, rates := range map[string]Rates{
		"lose": {Lose: 0.3}, "duplicate": {Duplicate: 0.3}, "delay": {Delay: 0.3},
	} {
		for _, kind := range []byte{4, 5, 6, 10} {
			for _, outward := range []bool{true, false} {
				synctest.Test(t, func(t *testing.T) {
					const n = 200
					m, from, to := connect(t, rates)
					if !outward {
						from, to = to, from
					}
					got := send(t, from, to, kind, n)
					seen := map[uint64]int{}
					for _, id := range got {
						seen[id]++
					}
					lost, duplicated, delayed := m.Counts()
					switch name {
					case "lose":
						require.NotZero(t, lost)
						require.Len(t, got, n-int(lost))
						require.Len(t, seen, len(got))
					case "duplicate":
						require.Equal(t, kind != fetch, duplicated > 0)
						require.Len(t, got, n+int(duplicated))
						require.Len(t, seen, n)
					case "delay":
						require.NotZero(t, delayed)
						require.ElementsMatch(t, inOrder(n), got)
						require.NotEqual(t, inOrder(n), got)
					}
					m.Set(Rates{})
					require.Equal(t, inOrder(n), send(t, from, to, kind, n), "once the rates are zero nothing happens")
					from.Close()
					to.Close()
				})
			}
		}
	}
}

func TestHeartbeatsAndGreetingsPass(t *testing.T) {
	for _, kind := range []byte{1, 2, 3, 7, 8, 9} {
		synctest.Test(t, func(t *testing.T) {
			_, client, server := connect(t, Rates{Lose: 0.3, Duplicate: 0.3, Delay: 0.4})
			require.Equal(t, inOrder(50), send(t, client, server, kind, 50))
			require.Equal(t, inOrder(50), send(t, server, client, kind, 50))
		})
	}
}

func TestTheSeedDecides(t *testing.T) {
	var runs [2][]uint64
	for i := range runs {
		synctest.Test(t, func(t *testing.T) {
			_, client, server := connect(t, Rates{Lose: 0.2, Duplicate: 0.2, Delay: 0.2})
			runs[i] = send(t, client, server, 10, 100)
		})
	}
	require.Equal(t, runs[0], runs[1])
}

func TestDeadlinesAndTheEndPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := connect(t, Rates{Delay: 1})
		begun := time.Now()
		require.NoError(t, client.SetDeadline(begun.Add(time.Second)))
		_, err := client.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Second, time.Since(begun))
		require.NoError(t, client.SetDeadline(time.Time{}))

		_, err = server.Write(frame(5, 1))
		require.NoError(t, err)
		_, err = io.ReadFull(client, make([]byte, len(frame(5, 1))))
		require.NoError(t, err, "a held message arrives although no other one does")
		server.Close()
		_, err = client.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		require.NoError(t, client.Close())
		_, err = client.Write(frame(7, 1))
		require.ErrorIs(t, err, net.ErrClosed)
	})
}
