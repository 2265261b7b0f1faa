package history

import "github.com/geocache/geocache"

// groupOptions returns the options of the group that c asks for.
func groupOptions(c *Config) []geocache.GroupOption {
	opts := []geocache.GroupOption{
		geocache.WithRefreshAhead(c.RefreshAhead),
		geocache.WithStaleWhileRevalidate(c.Revalidate),
	}
	if c.Home != "" {
		opts = append(opts, geocache.WithHomeRegion(c.Home))
	}
	if c.LoadTimeout > 0 {
		opts = append(opts, geocache.WithLoadTimeout(c.LoadTimeout))
	}
	return opts
}
