package geocache

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/engine"
)

// A Written names writes, so that a read can be told not to be older: see After. It comes with the Receipt
// of a write. The zero Written names none.
//
// Its text is safe in a cookie, a header or a URL: about 60 bytes for a write of a key, more for one of a
// tag or a prefix. It holds no keys, but tags and prefixes as they are. Whoever makes one up can have reads
// of the keys that it is presented with load them anew, and nothing else. Sign it if that matters.
type Written struct{ writes []engine.After }

const (
	// maxWritten is how many writes a Written names at most; of more, the last.
	maxWritten = 32

	writtenVersion = 1
)

// And returns what names the writes of both. Of more than 32 writes it keeps the latest, and of several
// writes of the same key the last.
func (w Written) And(other Written) Written {
	all := slices.Concat(w.writes, other.writes)
	slices.SortStableFunc(all, func(a, b engine.After) int { return cmp.Compare(b.Generation, a.Generation) })
	var kept []engine.After
	for _, a := range all {
		same := func(b engine.After) bool {
			return a.Group == b.Group && a.Key == b.Key && a.Scope == b.Scope && a.IsOfKey() == b.IsOfKey() &&
				(a.IsOfKey() || a.Kind == b.Kind)
		}
		if len(kept) < maxWritten && !slices.ContainsFunc(kept, same) {
			kept = append(kept, a)
		}
	}
	return Written{kept}
}

// IsZero reports whether w names no write.
func (w Written) IsZero() bool { return len(w.writes) == 0 }

// String returns the text that ParseWritten reads. That of the zero Written is empty.
func (w Written) String() string {
	if w.IsZero() {
		return ""
	}
	b := []byte{writtenVersion}
	for _, a := range w.writes {
		b = append(b, byte(a.Kind))
		b = binary.BigEndian.AppendUint64(b, uint64(a.Generation))
		b = binary.BigEndian.AppendUint64(b, a.Group)
		b = append(append(b, byte(len(a.Region))), a.Region...)
		if a.IsOfKey() {
			b = binary.BigEndian.AppendUint64(b, a.Key)
		} else {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(a.Scope))), a.Scope...)
		}
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseWritten reads what String has returned, in this process or in another one of the same version or an
// earlier. It accepts nothing else.
func ParseWritten(text string) (w Written, err error) {
	if text == "" {
		return w, nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || b[0] != writtenVersion {
		return Written{}, errWritten
	}
	take := func(n int) []byte {
		if err != nil || len(b) < n {
			err = errWritten
			return make([]byte, n)
		}
		taken := b[:n]
		b = b[n:]
		return taken
	}
	number := func() uint64 { return binary.BigEndian.Uint64(take(8)) }
	for b = b[1:]; len(b) > 0 && err == nil; {
		a := engine.After{Kind: engine.AfterKind(take(1)[0])}
		a.Generation, a.Group = expiry.Generation(number()), number()
		a.Region = string(take(int(take(1)[0])))
		if a.IsOfKey() {
			a.Key = number()
		} else {
			a.Scope = string(take(int(binary.BigEndian.Uint16(take(2)))))
		}
		if a.Kind == 0 || a.Kind > engine.AfterClear || a.Kind == engine.AfterClear && a.Scope != "" {
			err = errWritten
		}
		w.writes = append(w.writes, a)
	}
	if err != nil || len(w.writes) == 0 || len(w.writes) > maxWritten {
		return Written{}, errWritten
	}
	return w, nil
}

var errWritten = errors.New("geocache: not the text of a Written")

// MarshalText returns String's text.
func (w Written) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText is ParseWritten.
func (w *Written) UnmarshalText(text []byte) (err error) {
	*w, err = ParseWritten(string(text))
	return err
}

// A ReadOption changes one read.
type ReadOption interface{ applyRead(*readConfig) }

type readConfig struct{ after []engine.After }

// readOptions returns what options say, and what is wrong with them.
func readOptions(opts []ReadOption) (c readConfig, err error) {
	var errs []error
	for i, o := range opts {
		if o == nil {
			errs = append(errs, errNilOption(i))
			continue
		}
		o.applyRead(&c)
	}
	return c, errors.Join(errs...)
}

// A ReadWriteOption is for reads and for writes.
type ReadWriteOption interface {
	ReadOption
	WriteOption
}

type afterOption struct{ Written }

// After makes a read not older than the writes that w names, wherever they were written, and whether they
// have arrived in this region or not. It concerns the keys that were written, and those that a removal by
// tag or prefix or a Clear was about; for all others the read is as without it. Default: a read in another
// region than the write's may be older, for as long as the write is on its way.
//
// What is older is not returned, be it in memory, stale, or on its way from elsewhere. The key is loaded. Or
// it is asked for in the region where it was written, if no getter here can have the value: if it was Set and
// the group has no setter, or within WithOriginLag. If that region cannot be reached then, the error is
// ErrNotArrived.
//
// A Set or a removal with After replaces what the named writes have written, even if the clocks of this
// region are behind. An Update reads in its key's home region, and takes no After.
//
// A write whose generation is further ahead of this node's clock than twice WithMaxDrift is an error.
func After(w Written) ReadWriteOption { return afterOption{w} }

func (o afterOption) applyRead(c *readConfig) { c.after = append(c.after, o.writes...) }

func (o afterOption) applyWrite(c *writeConfig) {
	for _, w := range o.writes {
		c.After = max(c.After, w.Generation)
	}
}
