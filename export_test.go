package geocache

// WithLimits limits what a node remembers of writes, to this many floors in each group, and to this many
// bytes for each region that has not received them; and to how many nodes of each other region it connects.
// 0 is the default.
func WithLimits(floors int, outbox int64, watched int) Option {
	return cacheOption(func(c *config) { c.Floors, c.Outbox, c.Watched = floors, outbox, watched })
}
