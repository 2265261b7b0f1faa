package main

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
)

// zipfKeys returns a source of row ids of which few are read often and many
// seldom.
func zipfKeys(seed uint64, exponent float64, rows int) func() int {
	zipf := rand.NewZipf(rand.New(rand.NewPCG(seed, 0)), exponent, 1, uint64(rows-1))
	return func() int { return int(zipf.Uint64()) }
}

// readTrace reads a gzip file of decimal ids, one a line. It numbers them from 0
// in order of first use, as rows, and returns how many there are.
func readTrace(file string) (keys []uint32, rows int, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", file, err)
	}
	number := make(map[uint64]uint32)
	lines := bufio.NewScanner(z)
	for lines.Scan() {
		id, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: line %d: %w", file, len(keys)+1, err)
		}
		key, ok := number[id]
		if !ok {
			key = uint32(len(number))
			number[id] = key
		}
		keys = append(keys, key)
	}
	if err := lines.Err(); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", file, err)
	}
	if len(keys) == 0 {
		return nil, 0, fmt.Errorf("%s: no ids", file)
	}
	return keys, len(number), nil
}

// writeKeys writes every n-th key from the i-th on, for the i-th of n nodes.
func writeKeys(file string, keys []uint32, i, n int) error {
	var out []byte
	for ; i < len(keys); i += n {
		out = binary.LittleEndian.AppendUint32(out, keys[i])
	}
	return os.WriteFile(file, out, 0o600)
}

// fileKeys returns the keys of a file by writeKeys as a source, which begins
// anew at the end.
func fileKeys(file string) (func() int, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if len(data) < 4 {
		return nil, fmt.Errorf("%s: no keys", file)
	}
	next := 0
	return func() int {
		key := int(binary.LittleEndian.Uint32(data[next:]))
		if next += 4; next+4 > len(data) {
			next = 0
		}
		return key
	}, nil
}
