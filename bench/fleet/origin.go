package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// An origin is where values come from, and what is known to be true: a file that all processes have
// open. For each key it has the version that was written last, and the last that was acknowledged:
// its Set has returned. Each is eight aligned bytes, so nobody reads half a version. A version is
// written by one writer at a time, see writers.
type origin struct{ file *os.File }

// newOrigin returns an empty origin. Its file has no name, and is gone when the last process is.
func newOrigin() (origin, error) {
	file, err := os.CreateTemp("", "fleet")
	if err != nil {
		return origin{}, err
	}
	return origin{file}, os.Remove(file.Name())
}

func (o origin) written(key int) uint64       { return o.get(16 * key) }
func (o origin) setWritten(key int, v uint64) { o.set(16*key, v) }
func (o origin) acked(key int) uint64         { return o.get(16*key + 8) }
func (o origin) setAcked(key int, v uint64)   { o.set(16*key+8, v) }

func (o origin) get(at int) uint64 {
	var b [8]byte
	_, _ = o.file.ReadAt(b[:], int64(at)) // beyond the end of the file is what was never written
	return binary.BigEndian.Uint64(b[:])
}

func (o origin) set(at int, v uint64) {
	if _, err := o.file.WriteAt(binary.BigEndian.AppendUint64(nil, v), int64(at)); err != nil {
		panic(fmt.Sprintf("fleet: the origin: %v", err)) // from here on nothing would be true
	}
}

// keyName returns the name of a key, of 16 bytes.
func keyName(key int) string { return fmt.Sprintf("key:%012d", key) }

// keyOf is the reverse of keyName.
func keyOf(name string) (int, error) { return strconv.Atoi(strings.TrimPrefix(name, "key:")) }

// valueBytes is the size of a value.
const valueBytes = 128

// valueOf returns the value that says it is a version.
func valueOf(version uint64) []byte {
	v := make([]byte, valueBytes)
	binary.BigEndian.PutUint64(v, version)
	return v
}

// versionOf is the reverse of valueOf.
func versionOf(value []byte) uint64 {
	if len(value) != valueBytes {
		return 0
	}
	return binary.BigEndian.Uint64(value)
}
