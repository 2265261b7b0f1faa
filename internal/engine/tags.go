package engine

import "github.com/geocache/geocache/internal/store"

// WithTags returns value prefixed with tags, or value itself if there are none. The tags must be valid.
func WithTags(tags []string, value []byte) []byte {
	if len(tags) == 0 {
		return value
	}
	size := 1
	for _, tag := range tags {
		size += 1 + len(tag)
	}
	return append(store.AppendTags(make([]byte, 0, size+len(value)), tags), value...)
}
