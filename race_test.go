//go:build race

package geocache_test

const raceEnabled = true
