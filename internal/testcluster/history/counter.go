package history

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// counts returns the operations on each counter, in order of their beginnings.
func (h *History) counts() map[string][]*Op {
	keys := make(map[string][]*Op)
	for _, o := range h.Ops {
		if o.Kind == Count || o.Kind == Increment {
			keys[o.Key] = append(keys[o.Key], o)
		}
	}
	return keys
}

// Counters checks Update. A counter is never higher than the number of Increments that may have
// happened by then. If nothing has happened that may have lost it, it is not lower than the number
// of those that had ended and of which the region had been told; for an Increment, and from Healed
// on, all of them count. A region that has lost the value may load it again, and then has 0.
func (h *History) Counters() (found []Violation) {
	for key, ops := range h.counts() {
		surely := h.counted(ops)
		for _, r := range ops {
			// in other regions it may be unknown
			if r.Outcome != OK && (r.Outcome != NotFound || h.Config.Home == "") {
				continue
			}
			own, most := 0, 0
			if r.Kind == Increment {
				own = 1
			}
			for _, u := range ops {
				if u != r && u.Kind == Increment && u.Outcome != Failed && u.Begin < r.End {
					most++
				}
			}
			least := h.least(r, ops, surely)
			if r.Kind == Count && h.Config.Home != "" && r.Region != h.Config.Home ||
				h.twoOwners(ops[0].Begin, r.End) {
				least = 0
			}
			if r.Number < least+own || r.Number > most+own {
				what := fmt.Sprintf("counter %s is %d, and must be from %d to %d", key, r.Number, least+own, most+own)
				found = append(found, Violation{"update", what, []*Op{r}})
			}
		}
	}
	return found
}

// A certainty is an Increment that surely was counted.
type certainty struct {
	*Op
	lost bool // it and all before it may have been lost before the next one
}

// counted returns the Increments that were acknowledged while all regions knew where the home is.
func (h *History) counted(ops []*Op) (surely []certainty) {
	for _, u := range ops {
		if u.Kind != Increment || u.Outcome != OK || h.regionsUnaware(u.Begin, u.End) {
			continue
		}
		if n := len(surely); n > 0 {
			surely[n-1].lost = h.mayBeLost(surely[n-1].Begin, u.End) || h.interrupted(ops, surely[n-1].Begin, u.End)
		}
		surely = append(surely, certainty{Op: u})
	}
	return surely
}

// least returns how many Increments r must have seen.
func (h *History) least(r *Op, ops []*Op, surely []certainty) (n int) {
	var last *Op
	for _, u := range surely {
		if !r.after(u.Op) {
			continue
		}
		last = u.Op
		if r.Kind == Increment || r.Begin >= h.Healed || u.Region == r.Region ||
			slices.Contains(u.Confirmed, r.Region) {
			n++
		}
		if u.lost {
			n = 0
		}
	}
	if last != nil && (h.mayBeLost(last.Begin, r.End) || h.interrupted(ops, last.Begin, r.End)) {
		return 0
	}
	return n
}

// Twice checks that no two Increments of a counter returned the same number: both would have begun
// from one value, and one would be lost. If the counter was lost in between, it begins again, and
// all lower numbers are returned again, by Increments whose callers know or that may have happened.
func (h *History) Twice() (found []Violation) {
	for key, ops := range h.counts() {
		given, uncertain := map[int][]*Op{}, 0
		for _, u := range ops {
			switch {
			case u.Kind != Increment:
			case u.Outcome == OK:
				given[u.Number] = append(given[u.Number], u)
			case u.Outcome != Failed:
				uncertain++
			}
		}
		missing := 0 // numbers missing in a second run from 1 on
		for number := 1; number <= len(ops); number++ {
			same := given[number]
			if len(same) > 1 && missing > uncertain &&
				!h.twoOwners(same[0].Begin, same[len(same)-1].End) &&
				!h.regionsUnaware(same[0].Begin, same[len(same)-1].End) {
				what := fmt.Sprintf("several Increments of %s have returned %d", key, number)
				found = append(found, Violation{"update", what, same})
				break
			}
			missing += max(2-len(same), 0)
		}
	}
	return found
}

// Linear checks that, if the home region was stable, all Updates of a counter happened one after
// the other, each at some moment between call and return, in whatever region they were called.
//
// Reads are left out. A read that is concurrent with a write may return the old value after another
// read has returned the new one: the write is not complete, and some nodes have not been told. That
// is what promise 3 says, and it is weaker than linearizability.
func (h *History) Linear() (found []Violation) {
	if !h.Config.StableHome {
		return nil
	}
	for key, ops := range h.counts() {
		var updates []porcupine.Operation
		for _, u := range ops {
			if u.Kind != Increment || u.Outcome == Failed {
				continue
			}
			op := porcupine.Operation{Call: int64(u.Begin), Return: int64(u.End), Output: u.Number}
			if u.Outcome != OK { // it may happen at any later time, or never, which is after all others
				op.Return, op.Output = math.MaxInt64, unknown
			}
			updates = append(updates, op)
		}
		// If many of them may have happened, the search can take forever. Then nothing is known.
		if porcupine.CheckOperationsTimeout(counter, updates, 10*time.Second) == porcupine.Illegal {
			found = append(found, Violation{"update", "the Updates of counter " + key + " are not linearizable", ops})
		}
	}
	return found
}

// unknown is the result of an Update that may have happened.
const unknown = -1

// counter is a number that each operation increments and returns.
var counter = porcupine.Model{
	Init: func() any { return 0 },
	Step: func(state, _, output any) (bool, any) {
		next := state.(int) + 1
		return output == unknown || output == next, next
	},
}
