package history

import (
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

// Register checks that the writes of a key, and the reads that do not overlap with any write, are
// linearizable: they happened one after the other, each at some moment between call and return, on
// a register that a Set or an Update sets, a Remove or a Clear empties, and that is empty for a
// read that returns a loaded value.
//
// This holds in a cluster of one region without failures, for values that do not expire, are not
// refreshed ahead, and are not evicted. It does not hold
//
//   - for reads that overlap with a write: one may return the old value after another has
//     returned the new one, since nodes are told of the write one by one. What such reads return
//     is checked by Region and Values;
//   - across regions, which see a write one trip later;
//   - for values that expire or are evicted: after the owner has loaded the key again, a copy may
//     still have the value that was set.
func (h *History) Register() (found []Violation) {
	c := &h.Config
	if len(c.Regions) > 1 || len(h.Faults) > 0 || c.TTL < 10*time.Minute || c.RefreshAhead > 0 ||
		c.MaxBytes > 0 || c.Floors > 0 ||
		c.OddNames || c.Writing != Never || c.Mangle.Lose > 0 {
		return nil
	}
	for key, ops := range h.keys {
		var history []porcupine.Operation
		if !h.forRegister(ops) {
			continue
		}
		for _, o := range ops {
			op := porcupine.Operation{Input: o, Call: int64(o.Begin), Return: int64(o.End)}
			switch {
			case o.isWrite() && o.Outcome == OK:
			case o.isWrite() && o.Outcome != Failed:
				op.Return = math.MaxInt64
			case !o.isRead() || o.Outcome != OK || o.Stale || overlapsWrite(ops, o):
				continue
			}
			history = append(history, op)
		}
		if porcupine.CheckOperationsTimeout(register, history, 10*time.Second) == porcupine.Illegal {
			what := "the writes and reads of " + key + " are not"
			found = append(found, Violation{"3 linearizable", what, ops[:min(len(ops), 50)]})
		}
	}
	return found
}

// forRegister reports whether all values of the key live until the end, and all writes took effect
// when they were called.
func (h *History) forRegister(ops []*Op) bool {
	for _, o := range ops {
		if o.isWrite() && (o.Kind == Set && o.Life < h.Config.TTL || o.Outcome == Failed || len(o.Confirmed) == 0) {
			return false
		}
	}
	return true
}

// overlapsWrite reports whether a write was in progress during r.
func overlapsWrite(ops []*Op, r *Op) bool {
	for _, w := range ops {
		if w.isWrite() && w.Begin <= r.End && w.End >= r.Begin {
			return true
		}
	}
	return false
}

// register is a key's state: the By of the value that was set, or "".
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		switch o := input.(*Op); {
		case o.Kind == Set || o.Kind == Update:
			return true, o.Value.By
		case o.isWrite():
			return true, ""
		case o.Value.Loaded():
			return state == "", state
		default:
			return state == o.Value.By, state
		}
	},
}
