package expiry

// A scope is a set of values that are removed together: those with a tag, or those whose
// keys begin with a prefix. Its floor is kept where those of keys are, under a name that
// Tag or Prefix makes, and so it gets wherever a key's floor gets, and is bounded,
// folded and forgotten with them. A user's key that looks like a name has
// its floor raised with the scope's, which costs a miss.

// What begins the names of scopes. No text in UTF-8 begins so.
const (
	tagMark    = "\xfft"
	prefixMark = "\xffp"
)

// Tag returns the name of the scope of all values that have the tag.
func Tag(tag string) string { return tagMark + tag }

// Prefix returns the name of the scope of all keys that begin with the prefix.
func Prefix(prefix string) string { return prefixMark + prefix }

func isScope(key string) bool {
	return len(key) >= len(tagMark) && (key[:len(tagMark)] == tagMark || key[:len(prefixMark)] == prefixMark)
}

// Scoped returns the moment after the last raise of a scope's floor. It takes no lock.
func (f *Floors) Scoped() Mark { return Mark(f.scoped.Load()) }

// Over passes all floors to visit that a value of key with these tags must not be below,
// until visit returns false. visit must not call f.
func (f *Floors) Over(key string, tags []string, visit func(Raised) bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.Group() > 0 && !visit(f.last) {
		return
	}
	if r, ok := f.keys[key]; ok && !visit(r.Raised) {
		return
	}
	if !f.overPrefixesLocked(key, visit) {
		return
	}
	var name []byte // maps are asked by it without making a string
	for _, tag := range tags {
		name = append(append(name[:0], tagMark...), tag...)
		if r, ok := f.keys[string(name)]; ok && !visit(r.Raised) {
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
		if r, ok := f.keys[string(name)]; ok && !visit(r.Raised) {
			return false
		}
	}
	return true
}

// countPrefixLocked notes that a floor of this name has come, or has gone.
func (f *Floors) countPrefixLocked(name string, by int) {
	if len(name) < len(prefixMark) || name[:len(prefixMark)] != prefixMark {
		return
	}
	n := len(name) - len(prefixMark)
	if f.prefixes[n] += by; f.prefixes[n] == 0 {
		delete(f.prefixes, n)
	}
}
