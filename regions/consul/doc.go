// Package consul discovers the nodes of a cluster through HashiCorp Consul, using the agent that runs beside
// each process:
//
//	geocache.WithDiscovery(consul.New("profile-api"))
//
// Each process registers with its agent as an instance of the named service, tagged "geocache", with a TTL
// check that it updates from its own health. It deregisters when it stops. It watches the service in every
// datacenter that Consul lists, and follows datacenters as they join and leave.
//
// A region is a datacenter, unless the process was given another region name. The name is part of the
// instance's metadata, so one datacenter can hold several regions. Until round trips have been measured,
// distances come from Consul's network coordinates.
//
// Promised:
//
//   - A datacenter that does not answer keeps the nodes it last reported, and affects no other datacenter.
//   - An agent that has lost its data gets the registration again within a third of the check's TTL.
//   - A process that dies without deregistering is listed for at most that TTL, and its registration is
//     removed some time after [WithDeregisterAfter].
//   - No goroutine, connection or registration outlives Run, except a registration with an agent that
//     cannot be reached.
//
// Not promised: detecting a wrong answer that is valid but empty. Consul's answers are reported as they are;
// [regions.Members] decides whether to trust them.
//
// With ACLs, the token in the [api.Config] needs service:write on the service, plus service:read on it and
// node:read on the nodes in every datacenter. If Region is called, it also needs agent:read on the agent.
package consul
