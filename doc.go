// Package geocache is a cache that the processes of a service share, across regions. A service embeds it;
// there is no server to run.
//
// [Open] makes the process a node of the cluster, [NewGroupFunc] adds a key space with the function that
// loads it, and [Group.Get] reads through it:
//
//	cache, err := geocache.Open(ctx,
//		geocache.WithListen("10.0.3.7:7946"),
//		geocache.WithTLS(tlsConfig),
//		geocache.WithDiscovery(consul.New("profile-cache")))
//	if err != nil {
//		return err
//	}
//	defer cache.Close()
//
//	profiles, err := geocache.NewGroupFunc(cache, "profiles", loadProfile,
//		geocache.WithTTL(5*time.Minute))
//
//	p, err := profiles.Get(ctx, "ada")
//
// A read is answered from this process's memory, else by the node that owns the key in this region, else
// by the function, else by another region, nearest first. Nodes find each other through a
// regions.Discovery, such as Consul. Without one, and without a listener, a Cache is alone and everything
// works.
//
// # What it promises
//
// Bounded staleness: no node serves a value whose load began longer ago than the group's time to live.
// Ages are measured, not computed from different machines' clocks, and include the time that a value
// spent on the way.
//
// One load: while the nodes of a region are steady, a key is loaded once per region and expiry, whatever
// the number of callers and nodes; with [WithOriginRegion] once in the world. While they change, at most
// once more for each node that took the key over.
//
// Availability: losing any node, the origin of a whole region, every other region, or the discovery leaves
// reads working. With [WithStaleIfError] so does losing every origin, with values marked as stale.
//
// Writes: when [Group.Set], Remove or Clear returns nil, no node of this region serves an older value, and
// every other region has the write one network delay later, whatever fails on the way. What began to load
// before is never seen afterwards. Of concurrent writes the same one stays everywhere. [Group.Update] is
// atomic.
//
// The README has all of it, with the exceptions, and what happens when things fail.
//
// # What it does not promise
//
// It is a cache: a value may be dropped at any moment. It is not linearizable: two regions may hold values
// of different age, both within the time to live.
//
// # Compatibility
//
// Nodes of this version and of later ones with the same major version work in one cluster. Packages peers,
// expiry and consistenthash are not part of the compatibility promise: they are the parts that this one is
// made of. The wire format is documented in package peers.
package geocache
