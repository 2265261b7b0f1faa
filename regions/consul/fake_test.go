package consul

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/geocache/geocache/regions"
	"github.com/hashicorp/consul/api"
)

// A fake is an in-memory Consul agent, for tests of what a real agent cannot be made to do and tests that
// take hours of virtual time. It is an HTTP transport and not a server because network connections do not
// work with synctest.
type fake struct {
	home string // the agent's datacenter

	mu          sync.Mutex // guards the fields below
	datacenters []string
	services    map[string]*api.AgentServiceRegistration
	health      map[string][2]string                // by check ID: status and output
	others      map[string][]*api.ServiceEntry      // by datacenter, in addition to services
	index       uint64                              // rises with every change
	changed     chan struct{}                       // closed at every change
	fault       func(*http.Request) *http.Response  // if not nil, replaces answers that it does not leave nil
	coordinates []*api.CoordinateDatacenterMap      // nil if disabled
	requests    map[string]int                      // by path
	indexes     []string                            // of the blocking queries
	filtered    bool                                // answers are filtered by ACLs
	registering func(*api.AgentServiceRegistration) // called before a registration takes effect
}

func newFake(datacenters ...string) *fake {
	return &fake{
		home:        datacenters[0],
		datacenters: datacenters,
		services:    make(map[string]*api.AgentServiceRegistration),
		health:      make(map[string][2]string),
		others:      make(map[string][]*api.ServiceEntry),
		index:       10,
		changed:     make(chan struct{}),
		requests:    make(map[string]int),
	}
}

// config returns the argument for WithConfig.
func (f *fake) config() *api.Config {
	return &api.Config{Address: "fake", HttpClient: &http.Client{Transport: f}}
}

// change changes the fake's state and wakes the blocking queries.
func (f *fake) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	f.wakeLocked()
}

func (f *fake) wakeLocked() {
	f.index++
	close(f.changed)
	f.changed = make(chan struct{})
}

// look reads the fake's state.
func (f *fake) look(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// count returns the number of requests for path.
func (f *fake) count(path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests[path]
}

func (f *fake) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.requests[r.URL.Path]++
	fault := f.fault
	f.mu.Unlock()
	if fault != nil {
		if answer := fault(r); answer == refused {
			return nil, fmt.Errorf("connection refused %d", time.Now().UnixNano())
		} else if answer != nil {
			answer.Request = r
			return answer, nil
		}
	}
	id := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	switch path := r.URL.Path; {
	case path == "/v1/agent/self":
		return answer(http.StatusOK, map[string]any{"Config": map[string]any{"Datacenter": f.home}}), nil
	case path == "/v1/catalog/datacenters":
		f.mu.Lock()
		defer f.mu.Unlock()
		return answer(http.StatusOK, f.datacenters), nil
	case path == "/v1/coordinate/datacenters":
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.coordinates == nil {
			return answer(http.StatusUnauthorized, "Coordinate support disabled"), nil
		}
		return answer(http.StatusOK, f.coordinates), nil
	case path == "/v1/agent/service/register":
		return f.register(r)
	case strings.HasPrefix(path, "/v1/agent/service/deregister/"):
		f.change(func() { delete(f.services, id) })
		return answer(http.StatusOK, nil), nil
	case strings.HasPrefix(path, "/v1/agent/check/update/"):
		return f.update(r, id)
	case strings.HasPrefix(path, "/v1/health/service/"):
		return f.query(r)
	}
	return answer(http.StatusNotFound, "no such endpoint"), nil
}

// register completes a registration even if the request is cancelled meanwhile, as an agent does.
func (f *fake) register(r *http.Request) (*http.Response, error) {
	var s api.AgentServiceRegistration
	if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
		return nil, err
	}
	f.mu.Lock()
	hook := f.registering
	f.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if hook != nil {
			hook(&s)
		}
		f.change(func() {
			f.services[s.ID] = &s
			f.health[s.Check.CheckID] = [2]string{s.Check.Status, ""}
		})
	}()
	select {
	case <-done:
		return answer(http.StatusOK, nil), nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

func (f *fake) update(r *http.Request, checkID string) (*http.Response, error) {
	var u struct{ Status, Output string }
	if err := json.NewDecoder(r.Body).Decode(&u); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.services[strings.TrimPrefix(checkID, "service:")] == nil {
		return answer(http.StatusNotFound, "Unknown check ID"), nil
	}
	if now := [2]string{u.Status, u.Output}; f.health[checkID] != now {
		f.health[checkID] = now
		f.wakeLocked()
	}
	return answer(http.StatusOK, nil), nil
}

// query answers a blocking query.
func (f *fake) query(r *http.Request) (*http.Response, error) {
	asked, _ := strconv.ParseUint(r.FormValue("index"), 10, 64)
	milliseconds, _ := strconv.Atoi(strings.TrimSuffix(r.FormValue("wait"), "ms"))
	wait := time.NewTimer(time.Duration(milliseconds) * time.Millisecond)
	defer wait.Stop()
	f.mu.Lock()
	f.indexes = append(f.indexes, r.FormValue("index"))
	for over := asked == 0; !over && f.index <= asked; {
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-wait.C:
			over = true
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		f.mu.Lock()
	}
	defer f.mu.Unlock()

	dc := r.FormValue("dc")
	entries := slices.Clone(f.others[dc])
	if dc == f.home {
		for _, id := range slices.Sorted(maps.Keys(f.services)) {
			s := f.services[id]
			e := entry(s.ID, s.Address, s.Port, s.Meta)
			e.Checks[0].Status = f.health[s.Check.CheckID][0]
			entries = append(entries, e)
		}
	}
	a := answer(http.StatusOK, entries)
	a.Header.Set("X-Consul-Index", strconv.FormatUint(f.index, 10))
	if f.filtered {
		a = answer(http.StatusOK, []any{})
		a.Header.Set("X-Consul-Results-Filtered-By-ACLs", "true")
	}
	return a, nil
}

// refused stands for a refused connection.
var refused = new(http.Response)

// answer returns an HTTP response. A string is the body as it is; anything else is encoded as JSON.
func answer(status int, body any) *http.Response {
	var b []byte
	if text, ok := body.(string); ok {
		b = []byte(text)
	} else {
		b, _ = json.Marshal(body)
	}
	return &http.Response{
		StatusCode: status,
		Status:     http.StatusText(status),
		Header:     http.Header{"X-Consul-Lastcontact": {"0"}},
		Body:       io.NopCloser(bytes.NewReader(b)),
	}
}

// entry returns a passing instance as Consul lists it.
func entry(id, host string, port int, meta map[string]string) *api.ServiceEntry {
	return &api.ServiceEntry{
		Node:    &api.Node{Node: "machine", Address: "192.0.2.1"},
		Service: &api.AgentService{ID: id, Address: host, Port: port, Meta: meta},
		Checks:  api.HealthChecks{{CheckID: "serfHealth", Status: api.HealthPassing}},
	}
}

// nodeEntry returns a passing instance of a geocache node at port 7946.
func nodeEntry(id, region string) *api.ServiceEntry {
	meta := map[string]string{metaProtocol: protocol, metaNode: id, metaRegion: region}
	return entry("profile-api-"+id, "192.0.2.9", 7946, meta)
}

// ids returns the IDs of a view's nodes in order.
func ids(v regions.View) []string {
	list := []string{}
	for _, n := range v.Nodes {
		list = append(list, n.ID)
	}
	return list
}
