package peers

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"
)

// This file is what Peer.use needs to remake a connection that stands: when a certificate nears its end, or
// when the configuration has changed.

// A renewal asks for a connection to be remade. If that fails, why says why the old one must end, unless it is nil.
type renewal struct {
	conn *clientConn
	why  error
}

// retire ends c when its requests in flight are answered. There is another connection for new ones.
func (p *Peer) retire(c *clientConn, ended <-chan error) {
	p.mu.Lock()
	p.retiring[c] = struct{}{}
	p.mu.Unlock()
	p.retired.Go(func() {
		err := c.close(<-ended)
		c.fail(err)
		c.tasks.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.retiring, c)
	})
	c.drain(errRenewed)
}

// putOff notes that c could not be replaced because of err: it goes on, for about a quarter of the time
// it has left, or a minute, before that is tried again.
func (p *Peer) putOff(c *clientConn, err error) {
	now := c.credential.roles.time()
	p.mu.Lock()
	pause := min(max(c.credential.ends.Sub(now)/4, inspectEvery), time.Minute)
	p.again = now.Add(pause/2 + rand.N(pause/2))
	p.mu.Unlock()
	if refused := (*refusal)(nil); errors.As(err, &refused) && !refused.Remote {
		p.transport.refusals.count(refused.Reason)
	}
	p.log(slog.LevelWarn, "the connection to the peer cannot be made anew, which will be necessary; it goes on for now", slog.Any("error", err))
}

// inspect has the peer's connection made anew if it is time for that, and ends those that must.
func (p *Peer) inspect(r *roles) {
	p.mu.Lock()
	current, again := p.current, p.again
	p.mu.Unlock()
	for _, c := range p.conns() {
		why := c.credential.over(r)
		now := r.time()
		due := c.credential.roles != r || !now.Before(c.credential.renew)
		switch {
		case c != current && why != nil:
			c.close(why)
		case c == current && (why != nil || due && !now.Before(again)):
			select {
			case p.renew <- renewal{c, why}:
			default:
			}
		}
	}
}
