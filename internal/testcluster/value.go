package testcluster

import (
	"strconv"
	"strings"
	"time"
)

// A Value is what the group's values say about themselves.
type Value struct {
	Key   string
	Begun time.Time // when the load or the write began that made it, in true time (see Cluster.Now)
	By    string    // "load 3 in eu", or what the test wrote
}

// loadedBy begins the By of all loads. No test may write such.
const loadedBy = "load "

// Loaded reports whether the value comes from the origin.
func (v Value) Loaded() bool { return strings.HasPrefix(v.By, loadedBy) }

// ofVersion comes before the number of what a load has seen of the key, if it has been written.
const ofVersion = ", version "

// Version returns which of the key's versions a load has seen, see Origin.Put.
func (v Value) Version() int {
	_, number, _ := strings.Cut(v.By, ofVersion)
	n, _ := strconv.Atoi(number) // 0 if there is none
	return n
}

// String returns v as it is stored.
func (v Value) String() string {
	return v.Key + "|" + v.Begun.Format(time.RFC3339Nano) + "|" + v.By
}

// ParseValue undoes String.
func ParseValue(s string) (v Value, ok bool) {
	key, rest, ok := strings.Cut(s, "|")
	at, by, ok2 := strings.Cut(rest, "|")
	begun, err := time.Parse(time.RFC3339Nano, at)
	return Value{key, begun, by}, ok && ok2 && err == nil
}
