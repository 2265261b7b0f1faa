package geocache

import (
	"fmt"
	"io"
)

// Snapshot writes to w what this process has in memory of the keys that it owns, entries that were read before
// the others, together with what it knows of writes. A process that starts in its place passes that to Restore,
// and does not start cold. w receives blocks of some hundred KiB, and one for each larger value; values above
// WithMaxValueBytes are left out.
//
// Snapshot may be called at any time, also after Close, when nothing changes any more. It does not stop reads
// and writes; what is written meanwhile may be in it or not.
func (g *Group[V]) Snapshot(w io.Writer) error {
	if err := g.core.Snapshot(w); err != nil {
		return fmt.Errorf("geocache: snapshot of %s: %w", g.Name(), err)
	}
	return nil
}

// Restore takes in what Snapshot wrote, and returns how many entries it has put into memory. Call it right
// after NewGroup, in a process that owns about the same keys: one with the ID of the process that made the
// snapshot. The group may be in use meanwhile.
//
// Nothing is served for longer than it would have been. The time since the snapshot counts, as the wall clock tells
// it plus the drift that is allowed, and a clock that was set back makes nothing younger. Restore leaves out what
// has expired, what is older than a write that this node knows of, or may be, and what there is no room for. If
// all of the region was down, nobody in it remembers the writes that other regions made meanwhile. Until this
// process hears of them, or the values expire, it may serve what was there before.
//
// The error wraps ErrSnapshot if r is damaged, cut off, of another group or version, or from the future. Each
// block is checked before anything in it is used, so what has been restored by then is good and stays. Restore
// reads no further than the snapshot's end, and in small pieces: r should be buffered.
func (g *Group[V]) Restore(r io.Reader) (n int, err error) {
	n, err = g.core.Restore(r)
	if err != nil {
		err = fmt.Errorf("geocache: restoring %s: %w", g.Name(), err)
	}
	return n, err
}
