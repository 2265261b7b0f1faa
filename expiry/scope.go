package expiry

// A Subject is what a floor is of: a key, or a scope, which is a set of values that are
// removed together, those with a tag or those whose keys begin with a prefix. The floor of a
// scope is kept where those of keys are, and so it gets wherever a key's floor gets, and is
// bounded, folded and forgotten with them.
//
// Invariant: two subjects are the same string only if they are the same thing, whatever
// bytes keys, tags and prefixes are of.
type Subject string

// What begins a subject that is not a key as it is. The text of a key in UTF-8 begins
// otherwise, and costs nothing.
const (
	escape     = '\xff'
	tagMark    = "\xfft"
	prefixMark = "\xffp" // as long as tagMark
	keyMark    = "\xffk" // a key that begins with escape itself
)

// Key returns the subject that a key is.
func Key(key string) Subject {
	if len(key) > 0 && key[0] == escape {
		return Subject(keyMark + key)
	}
	return Subject(key)
}

// Tag returns the scope of all values that have the tag.
func Tag(tag string) Subject { return Subject(tagMark + tag) }

// Prefix returns the scope of all values whose keys begin with the prefix.
func Prefix(prefix string) Subject { return Subject(prefixMark + prefix) }

// IsScope reports whether s is a scope.
func (s Subject) IsScope() bool { return s.begins(tagMark) || s.begins(prefixMark) }

// Key returns the key that s is, unless s is a scope.
func (s Subject) Key() string {
	if s.begins(keyMark) {
		return string(s[len(keyMark):])
	}
	return string(s)
}

// Name returns what s is named after: the key, the tag or the prefix.
func (s Subject) Name() string {
	if s.IsScope() {
		return string(s[len(tagMark):])
	}
	return s.Key()
}

func (s Subject) begins(mark string) bool {
	return len(s) >= len(mark) && string(s[:len(mark)]) == mark
}

// Scoped returns the moment after the last raise of a scope's floor. It takes no lock.
func (f *Floors) Scoped() Seq { return Seq(f.scoped.Load()) }

// Over passes all floors to visit that a value of key with these tags must not be below,
// until visit returns false. visit must not call f.
func (f *Floors) Over(key string, tags []string, visit func(Raised) bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.Group() > 0 && !visit(f.last) {
		return
	}
	if r, ok := f.keys[Key(key)]; ok && !visit(r.Raised) {
		return
	}
	if !f.overPrefixesLocked(key, visit) {
		return
	}
	var name []byte // maps are asked by it without making a string
	for _, tag := range tags {
		name = append(append(name[:0], tagMark...), tag...)
		if r, ok := f.keys[Subject(name)]; ok && !visit(r.Raised) {
			return
		}
	}
}

// overPrefixesLocked passes the floors of the prefixes of key to visit, and reports whether
// it has not returned false.
func (f *Floors) overPrefixesLocked(key string, visit func(Raised) bool) bool {
	if len(f.prefixes) == 0 {
		return true
	}
	var name []byte
	for n := range f.prefixes {
		if n > len(key) {
			continue
		}
		name = append(append(name[:0], prefixMark...), key[:n]...)
		if r, ok := f.keys[Subject(name)]; ok && !visit(r.Raised) {
			return false
		}
	}
	return true
}

// countPrefixLocked notes that a floor of this subject has come, or has gone.
func (f *Floors) countPrefixLocked(s Subject, by int) {
	if !s.begins(prefixMark) {
		return
	}
	n := len(s) - len(prefixMark)
	if f.prefixes[n] += by; f.prefixes[n] == 0 {
		delete(f.prefixes, n)
	}
}
