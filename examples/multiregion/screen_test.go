package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestScreenOnATerminal(t *testing.T) {
	var out bytes.Buffer
	s := &screen{w: &out, terminal: true, began: time.Now()}
	s.draw("a\nb\n")
	s.draw("c\nd\n")
	s.say("hello")
	s.keep("e\n")
	s.say("bye")
	const erase = "\x1b[2A\x1b[J"
	require.Equal(t, "a\nb\n"+erase+"c\nd\n"+erase+"  0.0s  hello\nc\nd\n"+erase+"e\n  0.0s  bye\n", out.String())
}

func TestScreenElsewhere(t *testing.T) {
	var out bytes.Buffer
	s := &screen{w: &out, began: time.Now()}
	s.draw("a\n")
	s.title("Title")
	s.keep("b\n")
	require.Equal(t, "\nTitle\nb\n", out.String())
}

func TestTableFitsATerminal(t *testing.T) {
	l := newLedger(time.Second, patience(time.Second), []string{"scene"})
	for _, region := range regionNames {
		tally := &tally{Answered: map[string]uint64{"store": 123456}, Latency: histogram{bucket(2 * time.Second): 123456}}
		l.addTally(region, region+"-1", tally)
	}
	table := (&screen{}).table(l, 0, time.Second)
	require.Equal(t, 5, strings.Count(table, "\n"))
	for line := range strings.Lines(table) {
		require.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), 90, line)
	}
}
