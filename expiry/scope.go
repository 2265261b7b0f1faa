package expiry

// A Subject is what a floor applies to: a key or a scope. A scope is a set of values that are removed
// together, those with a given tag or those whose keys have a given prefix. The floors of scopes are kept
// with those of keys. So they reach the same nodes, and are bounded, collapsed and forgotten in the same
// way.
//
// Invariant: two subjects are the same string only if they are the same key, tag or prefix, whatever bytes
// those consist of.
type Subject string

// Markers that a subject begins with, unless it is a plain key. UTF-8 text never begins with escape, so
// such a key needs no marker and no allocation.
const (
	escape       = '\xff'
	tagMarker    = "\xfft"
	prefixMarker = "\xffp" // as long as tagMarker
	keyMarker    = "\xffk" // for a key that begins with escape itself
)

// Key returns the subject of a key.
func Key(key string) Subject {
	if len(key) > 0 && key[0] == escape {
		return Subject(keyMarker + key)
	}
	return Subject(key)
}

// Tag returns the scope of all values with the tag.
func Tag(tag string) Subject { return Subject(tagMarker + tag) }

// Prefix returns the scope of all values whose keys have the prefix.
func Prefix(prefix string) Subject { return Subject(prefixMarker + prefix) }

// IsScope reports whether s is a scope.
func (s Subject) IsScope() bool { return s.hasMarker(tagMarker) || s.hasMarker(prefixMarker) }

// Key returns the key that s stands for. s must not be a scope.
func (s Subject) Key() string {
	if s.hasMarker(keyMarker) {
		return string(s[len(keyMarker):])
	}
	return string(s)
}

// Name returns the key, the tag or the prefix that s stands for.
func (s Subject) Name() string {
	if s.IsScope() {
		return string(s[len(tagMarker):])
	}
	return s.Key()
}

func (s Subject) hasMarker(marker string) bool {
	return len(s) >= len(marker) && string(s[:len(marker)]) == marker
}

// ScopeSeq returns the Seq after the last time that the floor of a scope was raised. It takes no lock.
func (f *Floors) ScopeSeq() Seq { return Seq(f.scopeSeq.Load()) }

// Visit calls visit with each floor that applies to a value of key with these tags, until visit returns
// false. These are the floors of the group, of the key, of the prefixes of the key, and of the tags. visit
// must not call f.
func (f *Floors) Visit(key string, tags []string, visit func(RaisedFloor) bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.Group() > 0 && !visit(f.groupFloor) {
		return
	}
	if r, ok := f.held[Key(key)]; ok && !visit(r.RaisedFloor) {
		return
	}
	if !f.visitPrefixesLocked(key, visit) {
		return
	}
	var name []byte // a map lookup by Subject(name) does not allocate
	for _, tag := range tags {
		name = append(append(name[:0], tagMarker...), tag...)
		if r, ok := f.held[Subject(name)]; ok && !visit(r.RaisedFloor) {
			return
		}
	}
}

// visitPrefixesLocked calls visit with the floor of each prefix of key, until it returns false. It reports
// whether visit always returned true.
func (f *Floors) visitPrefixesLocked(key string, visit func(RaisedFloor) bool) bool {
	if len(f.prefixLengths) == 0 {
		return true
	}
	var name []byte
	for n := range f.prefixLengths {
		if n > len(key) {
			continue
		}
		name = append(append(name[:0], prefixMarker...), key[:n]...)
		if r, ok := f.held[Subject(name)]; ok && !visit(r.RaisedFloor) {
			return false
		}
	}
	return true
}

// countPrefixLocked maintains prefixLengths: by is 1 if a floor of s was added, and -1 if one was dropped.
func (f *Floors) countPrefixLocked(s Subject, by int) {
	if !s.hasMarker(prefixMarker) {
		return
	}
	n := len(s) - len(prefixMarker)
	if f.prefixLengths[n] += by; f.prefixLengths[n] == 0 {
		delete(f.prefixLengths, n)
	}
}
