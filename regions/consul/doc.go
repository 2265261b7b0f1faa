// Package consul finds the nodes of a cluster by HashiCorp Consul, through the
// agent that runs beside each process:
//
//	geocache.WithDiscovery(consul.New("profile-api"))
//
// Each process registers itself at its agent as an instance of the named
// service, tagged "geocache", with a TTL check that it keeps alive from its own
// health, and withdraws when it ends. It watches that service in every
// datacenter that Consul knows, and follows datacenters that come and go. A
// region is a datacenter unless the process was given another region's name;
// the name travels in the instance's meta, so that one datacenter can hold
// several regions. Until round trips have been measured, Consul's network
// coordinates say how far the others are.
//
// Promised: what one datacenter fails to answer takes nothing away from what
// it and the others answered before. An agent that has lost its memory is told
// again within a third of the check's TTL. A process that dies without a word
// is offered no longer than that TTL, and its registration is gone some time
// after [WithDeregisterAfter]. No goroutine, connection or registration
// outlives Run, except where the agent cannot be reached to withdraw it.
//
// Not promised: to tell truth from error in an answer that is valid but empty.
// Consul's answers are reported as they are; [regions.Members] decides what to
// believe of them.
//
// With ACLs, the token in the [api.Config] needs service:write on the service,
// service:read on it and node:read on the nodes in every datacenter, and
// agent:read on the agent if Region is to be asked.
package consul
