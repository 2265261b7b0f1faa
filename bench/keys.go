package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

// makeKeys returns n keys.
func makeKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("user:%011d", i)
	}
	return keys
}

// makeValue returns the value of key i: size bytes of which no two keys have the same.
func makeValue(i, size int) []byte {
	v := make([]byte, size)
	for at := 0; at+8 <= size; at += 8 {
		binary.LittleEndian.PutUint64(v[at:], uint64(i)<<20|uint64(at))
	}
	return v
}

// zipf returns n indices below below, some much more frequent than others, the same
// in each run. Drawing them beforehand keeps that out of the measurement.
func zipf(n, below int) []uint32 {
	r := rand.New(rand.NewPCG(1, 2))
	z := rand.NewZipf(r, 1.1, 1, uint64(below-1))
	scattered := r.Perm(below) // so that the frequent ones are not neighbours
	indices := make([]uint32, n)
	for i := range indices {
		indices[i] = uint32(scattered[z.Uint64()])
	}
	return indices
}
