package geocache

// WithSmallMemory has a node remember little of writes: so many floors of each group, and so
// manyKeys bytes for each region that has not heard.
func WithSmallMemory(floors int, outbox int64) Option {
	return cacheOption(func(c *config) { c.Floors, c.Outbox = floors, outbox })
}
