package testcluster

import (
	"strconv"
	"strings"
	"time"
)

// A Value is what a value of the group says about itself.
type Value struct {
	Key   string
	Begun time.Time // when its load or write began, in true time (see Cluster.Now)
	By    string    // "load 3 in eu", or what the test wrote
}

// loadedBy is how By begins for all loads. Tests must not write such values.
const loadedBy = "load "

// Loaded reports whether the value comes from the origin.
func (v Value) Loaded() bool { return strings.HasPrefix(v.By, loadedBy) }

// ofVersion precedes the version in the By of a load, if the key has been written.
const ofVersion = ", version "

// Version returns which version of the key a load has seen; see Origin.Put.
func (v Value) Version() int {
	_, number, _ := strings.Cut(v.By, ofVersion)
	n, _ := strconv.Atoi(number) // 0 if there is none
	return n
}

// String returns v as it is stored.
func (v Value) String() string {
	return v.Key + "|" + v.Begun.Format(time.RFC3339Nano) + "|" + v.By
}

// ParseValue parses what String returns.
func ParseValue(s string) (v Value, ok bool) {
	key, rest, ok := strings.Cut(s, "|")
	at, by, ok2 := strings.Cut(rest, "|")
	begun, err := time.Parse(time.RFC3339Nano, at)
	return Value{key, begun, by}, ok && ok2 && err == nil
}
