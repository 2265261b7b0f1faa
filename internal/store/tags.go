package store

import "unsafe"

// MaxTag is how long a tag may be, in bytes, and MaxTags how many an entry may have.
const (
	MaxTag  = 255
	MaxTags = 255
)

// AppendTags appends what comes before the value of an entry that is Tagged: how many
// tags there are, and each with its length.
func AppendTags(b []byte, tags []string) []byte {
	b = append(b, byte(len(tags)))
	for _, tag := range tags {
		b = append(append(b, byte(len(tag))), tag...)
	}
	return b
}

// CutTags returns the tags and the value of what AppendTags has begun. It reports false
// if value has not come from there.
func CutTags(value []byte) (tags, rest []byte, ok bool) {
	if len(value) == 0 {
		return nil, nil, false
	}
	n, at := int(value[0]), 1
	for range n {
		if at >= len(value) {
			return nil, nil, false
		}
		at += 1 + int(value[at])
	}
	if at > len(value) {
		return nil, nil, false
	}
	return value[1:at], value[at:], true
}

// IsTagged reports whether value has been begun by AppendTags.
func IsTagged(value []byte) bool {
	_, _, ok := CutTags(value)
	return ok
}

// Tags returns the entry's tags, or nil if it has none.
func (e *Entry) Tags() []string {
	if !e.Tagged() {
		return nil
	}
	rest, _, _ := CutTags(e.Value())
	if len(rest) == 0 { // none, or malformed
		return nil
	}
	tags := make([]string, 0, e.Value()[0])
	for len(rest) > 0 {
		end := 1 + int(rest[0])
		tags = append(tags, unsafe.String(unsafe.SliceData(rest[1:end]), end-1)) // it never changes
		rest = rest[end:]
	}
	return tags
}

// Payload returns the encoded value, without the tags that may come before it.
func (e *Entry) Payload() []byte { return Payload(e.Value(), e.Tagged()) }

// Payload returns value without the tags that come before it if it is tagged.
func Payload(value []byte, tagged bool) []byte {
	if !tagged {
		return value
	}
	_, rest, _ := CutTags(value)
	return rest
}
