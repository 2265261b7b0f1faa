package consul

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/geocache/geocache/consistenthash"
	"github.com/geocache/geocache/internal/valid"
	"github.com/geocache/geocache/regions"
	"github.com/hashicorp/consul/api"
)

// Each node is registered as a service instance with this tag and this metadata.
const (
	tag = "geocache"

	metaProtocol = "protocol" // version of the metadata, see protocol
	metaNode     = "node"     // Node.ID
	metaRegion   = "region"   // Node.Region; defaults to the datacenter
	metaWeight   = "weight"   // Node.Weight; defaults to 1

	// protocol is the version of the metadata. It changes only if an older process would misread a newer
	// one's instance, so not for additions.
	protocol = "1"
)

// registration returns the registration of self.
func (d *Discovery) registration(self regions.Node) (*api.AgentServiceRegistration, error) {
	if err := valid.Name(self.ID); err != nil {
		return nil, fmt.Errorf("ID: %w", err)
	}
	if err := valid.Name(self.Region); err != nil && self.Region != "" {
		return nil, fmt.Errorf("region: %w", err)
	}
	if err := valid.Address(self.Address); err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(self.Address)
	portNumber, _ := strconv.Atoi(port)

	meta := map[string]string{metaProtocol: protocol, metaNode: self.ID}
	if self.Region != "" {
		meta[metaRegion] = self.Region
	}
	if self.Weight != 0 {
		meta[metaWeight] = strconv.FormatFloat(self.Weight, 'g', -1, 64)
	}
	id := serviceID(d.service, self.ID)
	return &api.AgentServiceRegistration{
		ID:      id,
		Name:    d.service,
		Tags:    []string{tag},
		Address: host,
		Port:    portNumber,
		Meta:    meta,
		Check: &api.AgentServiceCheck{
			CheckID:                        "service:" + id,
			Name:                           "geocache node " + self.ID,
			TTL:                            d.checkTTL.String(),
			DeregisterCriticalServiceAfter: d.deregisterAfter.String(),
		},
	}, nil
}

// serviceID returns the ID under which the agent registers a node's instance. It contains the node's ID
// because many processes of a service may share one agent. Bytes that are special in a URL are written as
// ~xx. Percent encoding would not do, because some versions of Consul unescape a path twice.
func serviceID(service, node string) string {
	var b strings.Builder
	b.WriteString(service + "-")
	for _, c := range []byte(node) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '-', c == '_', c == '.', c == ':':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "~%02x", c)
		}
	}
	return b.String()
}

// nodes returns the nodes among a datacenter's instances, by ascending ID, and for each instance that was
// skipped the reason. An instance that cannot be read does not affect the others.
//
// Critical instances are left out silently: the process has said that it cannot serve, has been silent for a
// TTL, or its machine is gone. An instance with a warning, such as a disk that fills up, stays: it still
// serves, and removing it would only make the others load its keys. That is also why the query does not ask
// Consul for passing instances only.
func nodes(datacenter string, entries []*api.ServiceEntry) ([]regions.Node, map[string]string) {
	// A process that moved to another agent may have left its old instance behind: of two instances of a
	// node, the newer one counts.
	slices.SortFunc(entries, func(a, b *api.ServiceEntry) int {
		return cmp.Compare(b.Service.CreateIndex, a.Service.CreateIndex)
	})
	list := make([]regions.Node, 0, len(entries))
	seen := make(map[string]bool)
	skipped := make(map[string]string)
	for _, e := range entries {
		if s := e.Checks.AggregatedStatus(); s != api.HealthPassing && s != api.HealthWarning {
			continue
		}
		n, err := node(datacenter, e)
		if err == nil && seen[n.ID] {
			err = fmt.Errorf("node %q has a newer instance", n.ID)
		}
		if err != nil {
			skipped[e.Node.Node+"/"+e.Service.ID] = err.Error()
			continue
		}
		seen[n.ID] = true
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b regions.Node) int { return cmp.Compare(a.ID, b.ID) })
	return list, skipped
}

// node parses what registration has written. The instance may belong to something else that uses the same
// service name and tag.
func node(datacenter string, e *api.ServiceEntry) (regions.Node, error) {
	meta := e.Service.Meta
	if v := meta[metaProtocol]; v != protocol {
		return regions.Node{}, fmt.Errorf("meta %s is %q, must be %q", metaProtocol, v, protocol)
	}
	n := regions.Node{ID: meta[metaNode], Region: cmp.Or(meta[metaRegion], datacenter)}
	if err := valid.Name(n.ID); err != nil {
		return regions.Node{}, fmt.Errorf("meta %s: %w", metaNode, err)
	}
	if err := valid.Name(n.Region); err != nil {
		return regions.Node{}, fmt.Errorf("meta %s: %w", metaRegion, err)
	}
	if text, ok := meta[metaWeight]; ok {
		w, err := strconv.ParseFloat(text, 64)
		if err != nil || !(w >= consistenthash.MinWeight && w <= consistenthash.MaxWeight) { // also true for NaN
			return regions.Node{}, fmt.Errorf("meta %s is %q, must be a number from %v to %v",
				metaWeight, text, consistenthash.MinWeight, consistenthash.MaxWeight)
		}
		n.Weight = w
	}
	n.Address = net.JoinHostPort(cmp.Or(e.Service.Address, e.Node.Address), strconv.Itoa(e.Service.Port))
	return n, valid.Address(n.Address)
}
