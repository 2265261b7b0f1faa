package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

// A postOffice is the other nodes of a region as a dispatcher sees them. The test answers for them.
type postOffice struct {
	t       require.TestingT
	c       *Cache
	v       *view
	spawned int
	closed  bool

	mu      sync.Mutex       // guards the following
	failing map[string]error // nodes that nothing can be sent to
	posted  []*posted        // what has not been answered, in the order in which it was sent
}

// A posted is a message that has been sent.
type posted struct {
	node string
	message.Broadcast
	done func(reply []byte, err error)
}

func newPostOffice(t require.TestingT, nodes ...string) *postOffice {
	c := &Cache{self: 7, clock: expiry.NewClock(nil, 0)}
	o := &postOffice{t: t, c: c, v: &view{}, failing: map[string]error{}}
	x := &o.c.dispatcher
	x.self, x.lease = o.c.self, time.Second
	x.spawn = func(f func()) bool {
		if !o.closed {
			o.spawned++
			go f()
		}
		return !o.closed
	}
	x.post = func(node string, payload []byte, done func([]byte, error)) error {
		o.mu.Lock()
		defer o.mu.Unlock()
		if err := o.failing[node]; err != nil {
			return err
		}
		m, err := message.DecodeBroadcast(payload)
		require.NoError(t, err)
		require.Equal(t, x.self, m.Sender)
		o.posted = append(o.posted, &posted{node, m, done})
		return nil
	}
	o.v.Others = nodes
	o.v.couriers = couriers(nil, o.v)
	return o
}

// tell begins to tell all nodes that the keys have been removed.
func (o *postOffice) tell(keys ...string) *broadcast {
	var writes []*message.Write
	for _, key := range keys {
		w := &message.Write{Group: "test", Key: key, Stamp: expiry.Removal(1)}
		w.Clear = key == ""
		writes = append(writes, w)
	}
	b := o.c.newBroadcast(writes)
	b.begin(o.v)
	return b
}

// fail has sending to a node fail, unless err is nil.
func (o *postOffice) fail(node string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failing[node] = err
}

// all returns the messages that are under way.
func (o *postOffice) all() []*posted {
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.posted)
}

// remove removes a message from those that are under way.
func (o *postOffice) remove(p *posted) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.posted = slices.DeleteFunc(o.posted, func(q *posted) bool { return q == p })
}

// underWay returns what is under way: for each message its node, and then its keys.
func (o *postOffice) underWay() (all []string) {
	for _, p := range o.all() {
		all = append(all, p.text())
	}
	return all
}

func (p *posted) text() string {
	text := p.node + ":"
	for _, w := range p.Writes {
		text += " " + w.Key[:min(len(w.Key), 3)]
	}
	return text
}

// take removes the oldest message to a node that has not been answered.
func (o *postOffice) take(node string) *posted {
	all := o.all()
	i := slices.IndexFunc(all, func(p *posted) bool { return p.node == node })
	require.GreaterOrEqual(o.t, i, 0, "nothing is under way to %s", node)
	o.remove(all[i])
	return all[i]
}

// answer acknowledges the oldest message to each of the nodes.
func (o *postOffice) answer(nodes ...string) {
	for _, node := range nodes {
		o.take(node).answer()
	}
}

func (p *posted) answer(refused ...uint32) {
	p.done(message.BroadcastReply{Refused: refused}.Append(nil), nil)
}

// told returns the nodes that have been told, and false while the attempt is under way.
func (b *broadcast) toldNodes() (nodes []string, over bool) {
	synctest.Wait()
	if b.left.Load() > 0 {
		return nil, false
	}
	for _, d := range b.deliveries {
		if d.told {
			nodes = append(nodes, d.to.node)
		}
	}
	return nodes, true
}

// requireTold requires that the attempt is over, and which nodes have been told.
func requireTold(t require.TestingT, b *broadcast, nodes ...string) {
	told, over := b.toldNodes()
	require.True(t, over)
	require.Equal(t, nodes, told)
	require.Len(t, b.ended, 1)
}

// A broadcast that finds nothing under way is sent at once. What comes meanwhile shares the next messages.
func TestBroadcastsShareMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newPostOffice(t, "x", "y")
		a := o.tell("a")
		require.Len(t, o.posted, 2, "by the caller")
		b, c := o.tell("b"), o.tell("c1", "c2")
		require.Equal(t, []string{"x: a", "y: a"}, o.underWay())
		o.answer("x")
		require.Equal(t, []string{"y: a"}, o.underWay(), "the round is not over")
		require.Empty(t, a.ended)
		o.answer("y")
		requireTold(t, a, "x", "y")
		require.Equal(t, []string{"x: b c1 c2", "y: b c1 c2"}, o.underWay())
		d := o.tell("d")
		o.answer("y", "x")
		requireTold(t, b, "x", "y")
		requireTold(t, c, "x", "y")
		require.Equal(t, []string{"x: d", "y: d"}, o.underWay(), "none has what it has acknowledged")
		o.answer("y", "x")
		requireTold(t, d, "x", "y")
		require.Equal(t, 2, o.spawned)
		e := o.tell("e")
		require.Len(t, o.posted, 2, "by the caller again")
		o.answer("x", "y")
		requireTold(t, e, "x", "y")
	})
}

// An acknowledgement counts for what is in its message, and for nothing that has come meanwhile.
func TestAnAcknowledgementIsForItsMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newPostOffice(t, "x")
		o.tell("a")
		b := o.tell("b")
		o.answer("x")
		_, over := b.toldNodes()
		require.False(t, over)
		o.take("x").done(nil, errors.New("lost"))
		requireTold(t, b)
	})
}

// The next rounds go without a node that takes long. What it has missed it gets in one message.
func TestASlowNodeIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newPostOffice(t, "x", "slow")
		a := o.tell("a")
		o.answer("x")
		time.Sleep(time.Second)
		require.Equal(t, []string{"slow: a"}, o.underWay(), "nothing waits for the end of the round")
		b := o.tell("b")
		time.Sleep(125*time.Millisecond - 1)
		require.Equal(t, []string{"slow: a"}, o.underWay())
		time.Sleep(time.Nanosecond)
		require.Equal(t, []string{"slow: a", "x: b"}, o.underWay())
		c := o.tell("c")
		o.answer("x")
		require.Equal(t, []string{"slow: a", "x: c"}, o.underWay())
		o.answer("slow")
		requireTold(t, a, "x", "slow")
		require.Equal(t, []string{"x: c"}, o.underWay(), "it joins the next round")
		o.answer("x")
		require.Equal(t, []string{"slow: b c"}, o.underWay())
		o.answer("slow")
		requireTold(t, b, "x", "slow")
		requireTold(t, c, "x", "slow")
		require.Empty(t, o.underWay())
	})
}

// The same if a node that is behind answers when nothing else is under way.
func TestASlowNodeAnswersLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newPostOffice(t, "slow")
		o.tell("a")
		b := o.tell("b")
		time.Sleep(time.Second)
		require.Equal(t, []string{"slow: a"}, o.underWay())
		o.answer("slow")
		require.Equal(t, []string{"slow: b"}, o.underWay())
		o.answer("slow")
		requireTold(t, b, "slow")
	})
}

// What fails fails for all that is in the message, and for nothing else.
func TestAMessageFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newPostOffice(t, "x", "y", "down")
		o.fail("down", errors.New("down"))
		a := o.tell("a")
		b, c := o.tell("b"), o.tell("c")
		o.answer("x", "y")
		requireTold(t, a, "x", "y")
		o.take("x").done(nil, errors.New("lost"))
		d := o.tell("d")
		o.take("y").done([]byte("malformed"), nil)
		requireTold(t, b)
		requireTold(t, c)
		o.fail("down", nil)
		o.answer("x", "y")
		requireTold(t, d, "x", "y")

		<-b.ended // again
		b.begin(o.v)
		require.Equal(t, []string{"x: b", "y: b", "down: b"}, o.underWay())
		o.answer("down", "y", "x")
		requireTold(t, b, "x", "y", "down")
		<-d.ended
		d.begin(o.v)
		require.Equal(t, []string{"down: d"}, o.underWay(), "the others have been told")
		o.answer("down")
		requireTold(t, d, "x", "y", "down")
	})
}

// A write that a node refuses fails only the broadcast that it is part of.
func TestAWriteIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newPostOffice(t, "x")
		o.tell("a")
		b, c, d := o.tell("b1", "b2"), o.tell("c"), o.tell("d1", "d2")
		o.answer("x")
		o.take("x").answer(1, 4)
		requireTold(t, b)
		requireTold(t, c, "x")
		requireTold(t, d)
	})
}

// A Clear and what is large are sent at once, and nothing waits for them.
func TestSomeBroadcastsTravelAlone(t *testing.T) {
	large := make([]string, largeBroadcast/message.MaxKey)
	for i := range large {
		large[i] = fmt.Sprint("L", i, strings.Repeat("-", message.MaxKey-2))
	}
	for name, keys := range map[string][]string{
		"a Clear": {""}, "a large one": large, "many": slices.Repeat([]string{"k"}, sharedWrites+1),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newPostOffice(t, "x")
				o.tell("a")
				alone := o.tell(keys...)
				require.Len(t, o.posted, 2, "a round is under way")
				b := o.tell("b")
				o.answer("x")
				all := o.all()
				require.Len(t, all, 2)
				require.Equal(t, "x: b", all[1].text())
				all[1].answer()
				requireTold(t, b, "x")
				all[0].answer()
				requireTold(t, alone, "x")
			})
		})
	}
}

// A message has a bound. What is left is for the next one.
func TestMessagesAreBounded(t *testing.T) {
	for name, each := range map[string][]string{
		"writes": slices.Repeat([]string{"b"}, sharedWrites/4),
		"bytes":  slices.Repeat([]string{strings.Repeat("b", message.MaxKey)}, 3),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newPostOffice(t, "x")
				o.tell("a")
				var all []*broadcast
				for range 50 {
					all = append(all, o.tell(each...))
				}
				o.answer("x")
				messages, bytes, writes := 0, 0, 0
				for len(o.underWay()) > 0 {
					p := o.take("x")
					size := len(p.Append(nil))
					require.LessOrEqual(t, size, sharedBytes+100)
					require.LessOrEqual(t, len(p.Writes), sharedWrites)
					messages, bytes, writes = messages+1, bytes+size, writes+len(p.Writes)
					p.answer()
				}
				for _, b := range all {
					requireTold(t, b, "x")
				}
				require.Less(t, messages, 2*max(bytes/sharedBytes, writes/sharedWrites, 1), "messages are filled")
			})
		})
	}
}

// When the node closes, what has gathered ends.
func TestDispatcherCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newPostOffice(t, "x", "y")
		o.tell("a")
		b := o.tell("b")
		o.closed = true
		o.answer("x", "y")
		requireTold(t, b)
		o.fail("x", errors.New("closed"))
		o.fail("y", errors.New("closed"))
		requireTold(t, o.tell("c"))
	})
}

// A node that leaves the view and comes back, or that is new in it, is told if it has not been.
func TestBroadcastFollowsTheView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newPostOffice(t, "x", "y")
		b := o.tell("b")
		o.answer("x")
		was := o.v
		o.v = &view{}
		o.v.Others = []string{"x", "z"}
		o.v.couriers = couriers(was, o.v)
		require.Same(t, was.couriers[0], o.v.couriers[0], "a message may be under way")
		o.take("y").done(nil, errors.New("left"))
		requireTold(t, b, "x")
		<-b.ended
		b.begin(o.v)
		require.Equal(t, []string{"z: b"}, o.underWay())
		o.answer("z")
		requireTold(t, b, "x", "z")
		was, o.v = o.v, was
		o.v.couriers = couriers(was, o.v)
		<-b.ended
		b.begin(o.v)
		require.Equal(t, []string{"y: b"}, o.underWay())
		o.answer("y")
		requireTold(t, b, "x", "y", "z")
	})
}

// Whatever the nodes do, each broadcast ends, and a node has been told if it has acknowledged a message with
// the write. Of shared messages one is under way to a node.
func TestDispatcherAtRandom(t *testing.T) {
	for seed := range uint64(300) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			nodes := []string{"x", "y", "z"}[:1+r.IntN(3)]
			o := newPostOffice(t, nodes...)
			acknowledged := map[string]bool{}
			var all []*broadcast
			conclude := func(p *posted, how int) {
				o.remove(p)
				switch refused := r.IntN(len(p.Writes)); how {
				case 0:
					p.done(nil, errors.New("lost"))
				case 1:
					for i, w := range p.Writes {
						acknowledged[p.node+w.Key] = i != refused
					}
					p.answer(uint32(refused))
				default:
					for _, w := range p.Writes {
						acknowledged[p.node+w.Key] = true
					}
					p.answer()
				}
			}
			for range 100 {
				node := nodes[r.IntN(len(nodes))]
				switch r.IntN(9) {
				case 0, 1, 2:
					all = append(all, o.tell(fmt.Sprint(len(all))))
				case 3:
					o.fail(node, errors.New("down"))
				case 4:
					o.fail(node, nil)
				case 5:
					time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
				default:
					if all := o.all(); len(all) > 0 {
						conclude(all[r.IntN(len(all))], r.IntN(7))
					}
				}
				busy := map[string]bool{}
				for _, p := range o.all() {
					require.False(t, busy[p.node], "seed %d", seed)
					busy[p.node] = true
				}
			}
			for all := o.all(); len(all) > 0; all = o.all() {
				conclude(all[0], 2)
			}
			for i, b := range all {
				told, over := b.toldNodes()
				require.True(t, over, "seed %d: broadcast %d", seed, i)
				for _, n := range nodes {
					require.Equal(t, acknowledged[n+fmt.Sprint(i)], slices.Contains(told, n),
						"seed %d: %d at %s", seed, i, n)
				}
			}
			for _, q := range o.v.couriers {
				require.Empty(t, q.waiting, "seed %d", seed)
				require.Empty(t, q.sent, "seed %d", seed)
				require.False(t, q.underWay, "seed %d", seed)
			}
		})
	}
}
