package geocache

// WithSmallMemory limits what a node remembers of writes: to this many floors in each group, and to
// this many bytes for each region that has not received them.
func WithSmallMemory(floors int, outbox int64) Option {
	return cacheOption(func(c *config) { c.Floors, c.Outbox = floors, outbox })
}
