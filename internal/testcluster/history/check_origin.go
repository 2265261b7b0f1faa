package history

import (
	"fmt"
	"time"

	"github.com/geocache/geocache/internal/testcluster"
)

// versionOf finds out which version the origin had at least when a write that went to it had ended.
// Of several versions with the same value the first counts, and for a removal the first that may be
// its own.
func (h *History) versionOf(o *Op) {
	if !o.isWrite() || h.Config.Writing != Through && h.Config.Writing != Behind {
		return
	}
	for i, v := range h.Truth[o.Key] {
		from := v.From.Sub(h.Start)
		is := o.Value.By != "" && v.By == o.Value.By ||
			(o.How == "remove" || o.How == "many") && v.By == "" && from >= o.Begin
		if is && from <= o.End {
			o.Version = i + 1
			return
		}
	}
}

// Origin checks reads against what the origin had. A reader after a write does not get a value that
// was loaded from an origin without the write, however late it was loaded; nor is it told that
// there is no value if there was one by then. And nobody is told that there is no value for longer
// than that may be cached.
func (h *History) Origin() (found []Violation) {
	for key, ops := range h.keys {
		for _, r := range ops {
			switch {
			case !r.isRead():
				continue
			case r.Outcome == OK && r.Value.Loaded():
			case r.Outcome == NotFound && h.Config.Writing != Behind: // then the queue counts as the origin
			default:
				continue
			}
			var newest *Op
			for _, w := range ops {
				if r.Outcome == NotFound && w.How == "tag" {
					continue // an absent key has no tags
				}
				if w.Version > 0 && w.covers(r.Region) && r.after(w) && (newest == nil || w.Version > newest.Version) &&
					!h.excused(r, w) && !h.lost(w, r.Begin) {
					newest = w
				}
			}
			least, show := 0, []*Op{r}
			if newest != nil {
				least, show = newest.Version, []*Op{newest, r}
			}
			switch {
			case r.Outcome == OK && r.Value.Version() < least:
				what := fmt.Sprintf("a read of %q returned version %d of the origin, after a write that is version %d",
					key, r.Value.Version(), least)
				found = append(found, Violation{"2 fencing", what, show})
			case r.Outcome == NotFound && !h.wasAbsent(r, least):
				what := fmt.Sprintf("a read of %q was told that there is no value, when the origin had version %d",
					key, least)
				found = append(found, Violation{"2 fencing", what, show})
			}
		}
	}
	return found
}

// wasAbsent reports whether r's key was absent from the origin in some version from least on that
// may have been loaded for r.
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
		until := versions[i].From.Sub(h.Start) // when the key was written again
		if until >= r.Begin-h.Config.NegativeTTL-h.Config.ReplicaLag-h.Config.OriginLag-time.Second {
			return true
		}
	}
	return false
}
