package engine

import (
	"errors"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
)

// An originLag is what a group knows of origins that are replicas and may lag behind the origin of the
// primary region: for so long after a write, only the primary region may load the key.
type originLag struct {
	primary string        // the region whose origin has every write at once
	lag     time.Duration // by how much the others may lag; 0 if they do not
	home    string        // this node's region
	fresh   *freshness
}

// errLagging is the error of a load that only the primary region's origin could
// have answered, when that cannot be reached.
var errLagging = errors.New("the key has been written a moment ago, this region's origin may not have that yet, and the region that has cannot be reached")

// lags reports whether a region's origin may lag.
func (l *originLag) lags(region string) bool { return l.lag > 0 && l.primary != region }

// covers reports whether this region's origin may not have the key's last write yet, so that it must not be
// asked. The tags of what it has are not known before it is asked, see mayMiss.
func (l *originLag) covers(key string) bool {
	return l.lags(l.home) && l.within(l.fresh.clock.Read(), l.fresh.floors.Floor(key))
}

// mayMiss reports whether e, if it was loaded from an origin that lags, may miss a write: of its key, or of
// whatever removes it by another name. What counts is when the load began, however long it took.
func (l *originLag) mayMiss(e *store.Entry) bool {
	return e.IsLoad() && l.within(e.Generation, l.fresh.floorOf(e))
}

// within reports whether an origin that lags may not have a write yet at some time.
func (l *originLag) within(at expiry.Generation, write expiry.Stamp) bool {
	return at.Sub(write.Generation) < l.lag+l.fresh.maxDrift // at may be by a clock that is ahead
}
