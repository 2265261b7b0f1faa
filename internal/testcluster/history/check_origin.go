package history

import (
	"fmt"
	"time"

	"github.com/geocache/geocache/internal/testcluster"
)

// versionOf finds out which version the origin had at least when a write had ended that went through to it. Of
// several with the same value the first counts, and of a removal the first that it may be.
func (h *History) versionOf(o *Op) {
	if !o.isWrite() || h.Config.Writing != Through && h.Config.Writing != Behind {
		return
	}
	for i, v := range h.Truth[o.Key] {
		from := v.From.Sub(h.Start)
		is := o.Value.By != "" && v.By == o.Value.By || (o.How == "remove" || o.How == "many") && v.By == "" && from >= o.Begin
		if is && from <= o.End {
			o.Version = i + 1
			return
		}
	}
}

// Origin checks reads against what the origin had: who reads after a write does not get what was loaded
// from an origin without it, however late, nor that there is nothing if there was something by then.
// And that there is nothing is not said for longer than that may be remembered.
func (h *History) Origin() (found []Violation) {
	for key, ops := range h.keys {
		for _, r := range ops {
			switch {
			case !r.isRead():
				continue
			case r.Outcome == OK && r.Value.Loaded():
			case r.Outcome == NotFound && h.Config.Writing != Behind: // then what is queued is the origin
			default:
				continue
			}
			var newest *Op
			for _, w := range ops {
				if r.Outcome == NotFound && w.How == "tag" {
					continue // what is not there has no tags
				}
				if w.Version > 0 && w.covers(r.Region) && r.after(w) && (newest == nil || w.Version > newest.Version) && !h.excused(r, w) && !h.lost(w, r.Begin) {
					newest = w
				}
			}
			least, show := 0, []*Op{r}
			if newest != nil {
				least, show = newest.Version, []*Op{newest, r}
			}
			switch {
			case r.Outcome == OK && r.Value.Version() < least:
				found = append(found, Violation{"2 fencing", fmt.Sprintf("a read of %q returned version %d of the origin, after a write that is version %d", key, r.Value.Version(), least), show})
			case r.Outcome == NotFound && !h.wasAbsent(r, least):
				found = append(found, Violation{"2 fencing", fmt.Sprintf("a read of %q was told that there is nothing, when the origin had version %d", key, least), show})
			}
		}
	}
	return found
}

// wasAbsent reports whether the origin had nothing of r's key at a version from least on that it may have
// been asked for.
func (h *History) wasAbsent(r *Op, least int) bool {
	versions := h.Truth[r.Key]
	first := testcluster.Version{By: "something"}
	if h.Config.isAbsent(r.Key) {
		first.By = ""
	}
	for i, v := range append([]testcluster.Version{first}, versions...) {
		if i < least || v.By != "" || i > 0 && v.From.Sub(h.Start) > r.End {
			continue
		}
		if i == len(versions) {
			return true
		}
		until := versions[i].From.Sub(h.Start) // when it was written again
		if until >= r.Begin-h.Config.NegativeTTL-h.Config.ReplicaLag-h.Config.OriginLag-time.Second {
			return true
		}
	}
	return false
}
