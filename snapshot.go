package geocache

import (
	"fmt"
	"io"
)

// Snapshot writes what this process has in memory of the keys that it owns to w, the
// entries that have been read since they came before the others, together with what it knows of
// writes. A process that starts in its place gives that to Restore, and does not start
// cold. w gets blocks of some hundred KiB, and one for each value that is larger; values
// above WithMaxValueBytes are left out.
//
// Snapshot may be called at any time, after Close too, when nothing changes any more. It does
// not stop reads and writes; what is written meanwhile may be in it or not.
func (g *Group[V]) Snapshot(w io.Writer) error {
	if err := g.core.Snapshot(w); err != nil {
		return fmt.Errorf("geocache: snapshot of %s: %w", g.Name(), err)
	}
	return nil
}

// Restore takes in what Snapshot has written, and returns how many entries it has put
// into memory. It is to be called right after NewGroup, by a process that owns about the same
// keys: one with the ID of the one that made the snapshot. It may run while the group is in use.
//
// Nothing is served for longer than it would have been: the time since the snapshot counts, as
// the wall clock tells it and with the drift that is allowed on top, and a clock that has been set
// back makes nothing younger. What has expired, what is below the floor of a write that this node knows
// of, and what may be, is left out, and so is what there is no room for. A write of the time in
// between that nobody in this region remembers, because all of it was down, is not known:
// until it hears of it from another region, or the value expires, this one may serve what was there before.
//
// The error wraps ErrSnapshot if r is damaged, cut off, of another group or version, or from the future.
// A block is checked before anything of it is used, so what has been restored by then is good and stays.
// Restore reads no further than the snapshot's end, in small pieces too: r should be buffered.
func (g *Group[V]) Restore(r io.Reader) (n int, err error) {
	n, err = g.core.Restore(r)
	if err != nil {
		err = fmt.Errorf("geocache: restoring %s: %w", g.Name(), err)
	}
	return n, err
}
