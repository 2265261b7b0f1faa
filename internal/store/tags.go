package store

import "unsafe"

const (
	MaxTag  = 255 // the maximum length of a tag, in bytes
	MaxTags = 255 // the maximum number of tags of an entry
)

// AppendTags appends the encoded tags, which precede the value of a tagged entry: the number of tags, then
// each tag with its length. The caller checks MaxTag and MaxTags.
func AppendTags(b []byte, tags []string) []byte {
	b = append(b, byte(len(tags)))
	for _, tag := range tags {
		b = append(append(b, byte(len(tag))), tag...)
	}
	return b
}

// cutTags splits a tagged value into its tags, still encoded but without their number, and the rest. ok is
// false if value does not begin with well-formed tags.
func cutTags(value []byte) (tags, rest []byte, ok bool) {
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

// IsTagged reports whether value begins with well-formed tags.
func IsTagged(value []byte) bool {
	_, _, ok := cutTags(value)
	return ok
}

// Tags returns the entry's tags, or nil if it has none. They share the entry's memory.
func (e *Entry) Tags() []string {
	if !e.Tagged() {
		return nil
	}
	rest, _, _ := cutTags(e.Value())
	if len(rest) == 0 { // no tags, or malformed ones
		return nil
	}
	tags := make([]string, 0, e.Value()[0])
	for len(rest) > 0 {
		end := 1 + int(rest[0])
		tags = append(tags, unsafe.String(unsafe.SliceData(rest[1:end]), end-1)) // safe: a value never changes
		rest = rest[end:]
	}
	return tags
}

// Payload returns the encoded value without the tags that may precede it. It must not be modified.
func (e *Entry) Payload() []byte { return Payload(e.Value(), e.Tagged()) }

// Payload returns value without its tags, if it is tagged. It is empty if the tags are malformed.
func Payload(value []byte, tagged bool) []byte {
	if !tagged {
		return value
	}
	_, rest, _ := cutTags(value)
	return rest
}
