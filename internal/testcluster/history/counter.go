package history

import (
	"fmt"
	"math"
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

// Counters checks Update: no counter is ever above the number of Increments that may have
// happened by then. If the home region was stable, in that region it is not
// below those that had ended either: those of that region, or from Healed on all.
// A region that has lost the value may load it, and then has 0.
func (h *History) Counters() (found []Violation) {
	for key, ops := range h.counts() {
		for _, r := range ops {
			if r.Kind != Count || r.Outcome != OK {
				continue
			}
			least, most := 0, 0
			for _, u := range ops {
				if u.Kind != Increment || u.Outcome == Failed {
					continue
				}
				if u.Begin < r.End {
					most++
				}
				if u.Outcome == OK && r.after(u) && (u.Region == h.Config.Home || r.Begin >= h.Healed) {
					least++
				}
			}
			if !h.Config.StableHome || r.Region != h.Config.Home {
				least = 0
			}
			if r.Number < least || r.Number > most {
				found = append(found, Violation{"update", fmt.Sprintf("counter %s is %d, and must be from %d to %d", key, r.Number, least, most), []*Op{r}})
			}
		}
	}
	return found
}

// Linear checks that, if the home region was stable, all Updates of a counter happened
// one after the other at some moment between call and return, whatever region
// they were called in.
//
// Reads are left out. A read concurrent to a write may return the old value after
// another one has returned the new: the write is not complete, and some nodes have not been told.
// That is what promise 3 says, and it is less than linearizability.
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
			if u.Outcome != OK { // it happens at any time from then on, or never: after all others
				op.Return, op.Output = math.MaxInt64, unknown
			}
			updates = append(updates, op)
		}
		// With many that may have happened the search can take for ever; then nothing is known.
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
