package history

import (
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

// Register checks that the writes of a key, and the reads that do not overlap with any, are linearizable:
// they happened one after the other at some moment between call and return, as those of a
// register that a Set or an Update sets, a Remove or a Clear empties, and a read that returns what was
// loaded finds empty.
//
// That holds in a cluster of one region in which nothing fails, for values that do not
// expire, are not loaded ahead of that, and are not evicted. It does not hold
//
//   - of reads that overlap with a write: one may return the old value after another one has returned
//     the new, since the write is told to the nodes one by one. What they return is promise 3's and
//     Values' concern;
//   - across regions, which see a write a trip later;
//   - of values that go by themselves: where the owner has loaded a key anew, a copy may still be the value set.
func (h *History) Register() (found []Violation) {
	c := &h.Config
	if len(c.Regions) > 1 || len(h.Faults) > 0 || c.TTL < 10*time.Minute || c.RefreshAhead > 0 || c.MaxBytes > 0 || c.Floors > 0 ||
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
			found = append(found, Violation{"3 linearizable", "the writes and reads of " + key + " are not", ops[:min(len(ops), 50)]})
		}
	}
	return found
}

// forRegister reports whether all values of the key live until the end, and all writes took effect when they
// were asked for.
func (h *History) forRegister(ops []*Op) bool {
	for _, o := range ops {
		if o.isWrite() && (o.Kind == Set && o.Life < h.Config.TTL || o.Outcome == Failed || len(o.Confirmed) == 0) {
			return false
		}
	}
	return true
}

// overlapsWrite reports whether a write was under way at the time of r.
func overlapsWrite(ops []*Op, r *Op) bool {
	for _, w := range ops {
		if w.isWrite() && w.Begin <= r.End && w.End >= r.Begin {
			return true
		}
	}
	return false
}

// register is what a key has: the By of what was set, or "".
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
