package outbox

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

// A world is an Outbox, the targets in the other region, and a bad line between.
type world struct {
	*testing.T
	rand  *rand.Rand
	o     *Outbox
	now   expiry.Instant
	last  expiry.Generation
	added map[id]expiry.Stamp // the highest
	owner map[string]string   // of each key, "" for nobody
	down  string              // a target that cannot be told

	inboxes map[string]*Inbox
	calls   []*call // that have not ended
	line    []*call // pushes on their way, some twice
	arrived []*call // and the region is being told
	told    []*call // answers on their way

	region  map[id]expiry.Stamp // what it has got
	values  map[id]expiry.Stamp // the highest that came with a value
	waiting []waiting
}

type call struct {
	Batch
	have  uint64
	ended bool
}

// waiting is somebody who wants the region to have got at least this.
type waiting struct {
	group     string
	about     expiry.Subject
	want, all expiry.Stamp // for the subject, and for its group
	done      <-chan struct{}
	stop      func()
}

var (
	simKeys    = []string{"a", "b", "c", simScope} // the last is the name of a scope, too
	simScope   = string(expiry.Tag("d"))
	simGroups  = []string{"g", "h"}
	simTargets = []string{"x", "y", "z"}
)

func (w *world) chance(percent int) bool { return w.rand.IntN(100) < percent }

func (w *world) one(of []string) string { return of[w.rand.IntN(len(of))] }

// take removes one of the calls in from, any one, and does f with it.
func (w *world) take(from *[]*call, f func(*call)) {
	if len(*from) == 0 {
		return
	}
	i := w.rand.IntN(len(*from))
	c := (*from)[i]
	*from = slices.Delete(*from, i, i+1)
	f(c)
}

func (w *world) target(n *message.Write) (string, bool) {
	to := w.owner[n.Key]
	return to, to != "" && to != w.down
}

func (w *world) add() {
	n := message.Write{Group: w.one(simGroups)}
	w.last++
	g := w.last
	if w.chance(20) { // it comes late
		g = 1 + expiry.Generation(w.rand.Uint64N(uint64(g)))
	}
	switch kind := w.rand.IntN(30); {
	case kind == 0:
		n.Clear, n.Stamp = true, expiry.Removal(g)
	case kind < 10:
		n.Key, n.Stamp = w.one(simKeys), expiry.Removal(g)
		n.Scope = n.Key == simScope && w.chance(50)
	default:
		n.Key, n.Stamp = w.one(simKeys), expiry.Stamp{Generation: g, Origin: 1}
		n.HasValue, n.Life = true, 1<<62
		n.Age = time.Duration(w.now) // so that it always is the time
		n.Value = []byte(fmt.Sprintf("%v%*d", n.Key, w.rand.IntN(300), uint64(g)))
	}
	w.added[idOf(&n)] = w.added[idOf(&n)].Max(n.Stamp)
	w.o.Add(n, w.now)
}

func (w *world) wait() {
	wg := waiting{group: w.one(simGroups)}
	if w.chance(80) {
		if wg.about = expiry.Key(w.one(simKeys)); w.chance(10) {
			wg.about = expiry.Subject(simScope)
		}
	}
	wg.want, wg.all = w.added[id{group: wg.group, subject: wg.about}], w.added[id{group: wg.group, clear: true}]
	wg.done, wg.stop = w.o.Confirmed(wg.group, wg.about)
	w.waiting = append(w.waiting, wg)
}

// next sends what there is to be sent.
func (w *world) next() bool {
	b, ok := w.o.Next(w.now, w.target)
	if !ok {
		return false
	}
	require.NotEmpty(w, b.Target)
	require.GreaterOrEqual(w, b.Push.Number, b.Push.Low)
	require.NotZero(w, b.Push.Low)
	for _, n := range b.Push.Writes {
		if n.HasValue {
			require.EqualValues(w, w.now, n.Age)
			require.Contains(w, string(n.Value), fmt.Sprint(uint64(n.Stamp.Generation)))
			require.True(w, strings.HasPrefix(string(n.Value), n.Key))
		}
	}
	c := &call{Batch: b}
	w.calls = append(w.calls, c)
	w.line = append(w.line, c)
	return true
}

func (w *world) arrive(c *call) {
	c.have = w.inboxes[c.Target].Receive("me", c.Push, w.now)
	w.arrived = append(w.arrived, c)
}

func (w *world) tell(c *call) {
	for _, n := range c.Push.Writes {
		w.region[idOf(&n)] = w.region[idOf(&n)].Max(n.Stamp)
		if n.HasValue {
			w.values[idOf(&n)] = w.values[idOf(&n)].Max(n.Stamp)
		}
	}
	w.told = append(w.told, c)
}

func (w *world) answer(c *call) {
	if !c.ended {
		c.ended = true
		w.o.Answered(c.Batch, c.have, w.now)
	}
}

// got reports whether the region has at least stamp s for a key.
func (w *world) got(group string, about expiry.Subject, s expiry.Stamp) bool {
	return !w.region[id{group: group, subject: about}].Max(w.region[id{group: group, clear: true}]).Below(s)
}

func (w *world) check() {
	check(w, w.o)
	for i := 0; i < len(w.waiting); {
		wg := w.waiting[i]
		if !closed(wg.done) {
			i++
			continue
		}
		require.True(w, w.got(wg.group, wg.about, wg.want), "%v %v is confirmed only when the region has got it", wg.group, wg.about)
		require.False(w, w.region[id{group: wg.group, clear: true}].Below(wg.all))
		w.waiting = slices.Delete(w.waiting, i, i+1)
	}
	floors := int64(len(simGroups)) * (Overhead + 1)
	require.LessOrEqual(w, w.o.bytes, max(w.o.config.MaxBytes, w.o.flying+floors), "the bound")
}

func TestEverythingGetsThereInTheEnd(t *testing.T) {
	var sum Stats
	for seed := range uint64(120) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			w := &world{
				T: t, rand: r, inboxes: map[string]*Inbox{}, owner: map[string]string{},
				added: map[id]expiry.Stamp{}, region: map[id]expiry.Stamp{}, values: map[id]expiry.Stamp{},
				o: New(Config{
					MaxBytes:   []int64{1, 2000, 5000, 1 << 20, 1 << 20}[r.IntN(5)],
					BatchBytes: []int{1, 300, 1 << 10}[r.IntN(3)],
					Window:     1 + r.IntN(5),
					Epoch:      1,
				}),
			}
			for _, name := range simTargets {
				w.inboxes[name] = &Inbox{}
			}
			for range 10 {
				w.own()
			}
			for range 300 {
				w.step()
				w.check()
			}
			s := w.end()
			sum.Resent += s.Resent
			sum.Probes += s.Probes
			sum.Lost += s.Lost
			sum.Coalesced += s.Coalesced
			sum.DroppedValues += s.DroppedValues
			sum.Collapsed += s.Collapsed
		})
	}
	t.Logf("%+v", sum)
	for _, n := range []uint64{sum.Resent, sum.Probes, sum.Lost, sum.Coalesced, sum.DroppedValues, sum.Collapsed} {
		require.Greater(t, n, uint64(100), "all of it happens")
	}
}

// step lets something happen.
func (w *world) step() {
	switch w.rand.IntN(16) {
	case 0, 1, 2:
		w.add()
	case 3, 4:
		w.next()
	case 5, 6, 7:
		w.take(&w.line, func(c *call) {
			if w.chance(80) {
				w.arrive(c)
			}
			if w.chance(20) {
				w.line = append(w.line, c)
			}
		})
	case 8, 9:
		w.take(&w.arrived, w.tell)
	case 10, 11:
		w.take(&w.told, func(c *call) {
			if w.chance(80) {
				w.answer(c)
			}
		})
	case 12:
		w.wait()
	case 13:
		w.now += expiry.Instant(w.rand.Int64N(int64(second)))
	case 14:
		if w.chance(30) {
			w.own()
		}
		w.down = w.one(append(simTargets, "", "", ""))
		if w.chance(10) && len(w.waiting) > 0 {
			w.waiting[0].stop()
			w.waiting = w.waiting[1:]
		}
	case 15:
		w.fault()
	}
}

// own makes a key somebody else's.
func (w *world) own() { w.owner[w.one(append(simKeys, ""))] = w.one(append(simTargets, "")) }

// fault ends a call without an answer, or restarts a target.
func (w *world) fault() {
	if w.chance(80) {
		w.take(&w.calls, func(c *call) {
			if !c.ended {
				c.ended = true
				w.o.Failed(c.Batch, w.now)
			}
		})
		return
	}
	name := w.one(simTargets)
	w.inboxes[name] = &Inbox{}
	w.arrived = slices.DeleteFunc(w.arrived, func(c *call) bool { return c.Target == name })
}

// end lets no more faults happen, though what was lost stays lost, and sees
// that everything gets there.
func (w *world) end() Stats {
	for _, key := range append(simKeys, "") {
		if w.owner[key] == "" {
			w.owner[key] = "x"
		}
	}
	w.line, w.arrived, w.told, w.down = nil, nil, nil, ""
	for range 1000 {
		for w.next() {
			w.take(&w.line, w.arrive)
			w.take(&w.arrived, w.tell)
			w.take(&w.told, w.answer)
			w.check()
		}
		at, ok := w.o.NextAt(w.now)
		if !ok {
			break
		}
		require.Greater(w, at, w.now, "time is all that is waited for")
		w.now = at
	}
	s := w.o.Stats(w.now)
	require.Zero(w, s.Bytes, "everything has been confirmed: %+v", s)
	require.Empty(w, w.waiting, "and everybody knows")
	for id, stamp := range w.added {
		require.True(w, w.got(id.group, id.subject, stamp), "%v", id)
		if s.DroppedValues+s.Collapsed == 0 && !stamp.IsRemoval() && w.region[id] == stamp {
			require.Equal(w, stamp, w.values[id], "with its value")
		}
	}
	return s
}

// On a good line nothing is sent twice.
func TestNothingIsSentTwiceWithoutNeed(t *testing.T) {
	o := New(Config{Window: 3, BatchBytes: 100})
	inboxes := map[string]*Inbox{"a": {}, "b": {}}
	var calls []Batch
	for i := range 1000 {
		now := expiry.Instant(i) * second / 100
		o.Add(set(fmt.Sprint(string(rune('a'+i%2)), i), expiry.Generation(i+1), 10), now)
		for b, ok := o.Next(now, byKey); ok; b, ok = o.Next(now, byKey) {
			calls = append(calls, b)
		}
		for len(calls) > 0 && i%3 == 0 {
			b := calls[0]
			calls = calls[1:]
			o.Answered(b, inboxes[b.Target].Receive("me", b.Push, now), now)
		}
	}
	s := o.Stats(0)
	require.Zero(t, s.Resent+s.Probes+s.Lost)
	require.Less(t, s.Queued, 6)
}
