package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/internal/valid"
)

const (
	healthPath      = "/v1/health/service/profile-api"
	datacentersPath = "/v1/catalog/datacenters"
	coordinatesPath = "/v1/coordinate/datacenters"
)

// These are parts of what instance returns.
const (
	machine = `{"Node":"machine","Address":"192.0.2.1"}`
	meta    = `{"protocol":"1","node":"n2","region":"eu"}`
	checks  = `[{"CheckID":"serfHealth","Status":"passing"}]`
)

// instance returns the JSON of a valid instance of node n2, with old replaced by with.
func instance(old, with string) string {
	const good = `{"Node":` + machine + `,` +
		`"Service":{"ID":"profile-api-n2","Address":"192.0.2.9","Port":7946,` +
		`"Meta":` + meta + `,"CreateIndex":3},` +
		`"Checks":` + checks + `}`
	if !strings.Contains(good, old) {
		panic(old)
	}
	return strings.Replace(good, old, with, 1)
}

// Whatever an answer contains, the valid instances in it are found, the process survives, and a valid answer
// after it is applied.
func TestInvalidAnswers(t *testing.T) {
	const n3 = `{"Node":{"Address":"192.0.2.3"},` +
		`"Service":{"ID":"n3","Port":1,"Meta":{"protocol":"1","node":"n3"}}}`
	both, rest := []string{"n2", "n3"}, []string{"n3"}
	replaced := []string{"n3", "n\uFFFD"} // JSON decodes invalid UTF-8 to U+FFFD
	n1 := []string{"n1"}
	long := strings.Repeat("n", 256)
	for name, test := range map[string]struct {
		path, body string
		index      string
		want       []string // IDs of the nodes found; nil for no change
	}{
		"a null check":      {healthPath, instance(`[{`, `[null,{`), "20", both},
		"only a null check": {healthPath, instance(checks, `[null]`), "20", both},
		"null checks":       {healthPath, instance(checks, `null`), "20", both},
		"an empty status":   {healthPath, instance(`"Status":"passing"`, `"Status":""`), "20", rest},
		"an unknown status": {healthPath, instance(`passing`, `\u0000`), "20", rest},
		"a null instance":   {healthPath, `null`, "20", rest},
		"an empty instance": {healthPath, `{}`, "20", rest},
		"a null node":       {healthPath, instance(machine, `null`), "20", rest},
		"a null service":    {healthPath, `{"Node":{},"Service":null,"Checks":[null]}`, "20", rest},
		"a null meta":       {healthPath, instance(meta, `null`), "20", rest},
		"a null in meta":    {healthPath, instance(`"node":"n2"`, `"node":null`), "20", rest},
		"no region":         {healthPath, instance(`,"region":"eu"`, ``), "20", both},
		"port 0":            {healthPath, instance(`7946`, `0`), "20", rest},
		"port 65536":        {healthPath, instance(`7946`, `65536`), "20", rest},
		"a negative port":   {healthPath, instance(`7946`, `-7946`), "20", rest},
		"a wildcard":        {healthPath, instance(`192.0.2.9`, `0.0.0.0`), "20", rest},
		"not an address":    {healthPath, instance(`192.0.2.9`, `192.0.2.9:80`), "20", rest},
		"a name not UTF-8":  {healthPath, instance(`"node":"n2"`, "\"node\":\"n\xff\""), "20", replaced},
		"a long name":       {healthPath, instance(`"node":"n2"`, `"node":"`+long+`"`), "20", rest},
		"a long region":     {healthPath, instance(`"region":"eu"`, `"region":"`+long+`"`), "20", rest},
		"a negative weight": {healthPath, instance(`"region"`, `"weight":"-1","region"`), "20", rest},
		"a weight of NaN":   {healthPath, instance(`"region"`, `"weight":"NaN","region"`), "20", rest},
		"a huge weight":     {healthPath, instance(`"region"`, `"weight":"1e999","region"`), "20", rest},
		"an ID twice": {
			healthPath, instance(``, ``) + "," + instance(`192.0.2.9`, `192.0.2.8`), "20", both,
		},
		"index 0":               {healthPath, instance(``, ``), "0", both},
		"no index":              {healthPath, instance(``, ``), "", both},
		"the highest index":     {healthPath, instance(``, ``), strconv.FormatUint(math.MaxUint64, 10), both},
		"an index overflow":     {healthPath, instance(``, ``), "18446744073709551616", both},
		"an index not a number": {healthPath, instance(``, ``), "NaN", both},
		"a negative index":      {healthPath, instance(``, ``), "-5", both},
		"a port as a string":    {healthPath, instance(`7946`, `"7946"`), "20", nil},
		"truncated JSON":        {healthPath, instance(``, ``) + ",{", "20", nil},

		"null datacenters":    {datacentersPath, "null", "", nil},
		"an empty datacenter": {datacentersPath, `"","eu",""`, "", n1},
		"a datacenter twice":  {datacentersPath, `"eu","eu"`, "", n1},
		"an unusual name":     {datacentersPath, `"eu","a/b?dc=eu&x=\u0000"`, "", n1},
		"a number":            {datacentersPath, `1`, "", nil},
		"null coordinates":    {coordinatesPath, "null", "", n1},
		"coordinates of null": {coordinatesPath, `{"Datacenter":"eu","Coordinates":null},` +
			`{"Datacenter":"eu","Coordinates":[null,{"Coord":null}]}`, "", n1},
		"no vector": {
			coordinatesPath, `{"Datacenter":"eu","Coordinates":[{"Coord":{}},{"Coord":{"Vec":[1]}}]}`, "", n1,
		},
		"huge coordinates": {coordinatesPath, `{"Datacenter":"eu","Coordinates":[` +
			`{"Coord":{"Vec":[1e308,-1e308],"Height":1e308}},` +
			`{"Coord":{"Vec":[-1e308,1e308],"Height":1e308}}]}`, "", n1},
		"negative coordinates": {
			coordinatesPath, `{"Datacenter":"eu","Coordinates":[{"Coord":{"Vec":[0],"Height":-1e9}}]}`, "", n1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake("eu")
				r := start(t, f.config(), self)
				pass(time.Minute)
				require.Equal(t, []string{"n1"}, ids(r.last()))

				f.change(func() {
					f.fault = func(r *http.Request) *http.Response {
						if r.URL.Path != test.path {
							return nil
						}
						body := "[" + test.body + "]"
						if test.path == healthPath {
							body = "[" + n3 + "," + test.body + "]"
						}
						a := answer(http.StatusOK, body)
						a.Header.Set("X-Consul-Index", test.index)
						return a
					}
				})
				pass(2 * coordinateInterval)
				want := test.want
				if want == nil {
					want = []string{"n1"}
				}
				require.Equal(t, want, ids(r.last()), r.log)
				require.Zero(t, r.log.Count("panic"), r.log)
				for _, d := range r.last().Distances {
					require.True(t, d >= 0 && d < time.Hour, "%v", d)
				}

				f.change(func() { f.fault = nil; f.others["eu"] = []*api.ServiceEntry{nodeEntry("n4", "eu")} })
				pass(2 * coordinateInterval)
				require.Equal(t, []string{"n1", "n4"}, ids(r.last()), r.log)
			})
		})
	}
}

// panics is a response body that panics when read, as a decoder might.
type panics struct{}

func (panics) Read([]byte) (int, error) { panic("in an answer") }
func (panics) Close() error             { return nil }

// spaces is an endless response body that never decodes to anything.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}
func (spaces) Close() error { return nil }

// A panic while an answer is read does not end the process, and valid answers after it are applied.
func TestPanicsWhileReadingAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu")
		f.fault = func(*http.Request) *http.Response {
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: panics{}}
		}
		_, err := New("profile-api", WithConfig(f.config())).Region(t.Context())
		require.ErrorContains(t, err, "panic: in an answer")

		r := start(t, f.config(), self)
		pass(time.Minute)
		require.Empty(t, r.all())
		require.NotZero(t, r.log.Count("listing Consul's datacenters failed", "panic: in an answer"), r.log)
		f.change(func() { f.fault = nil })
		pass(time.Minute)
		require.Equal(t, []string{"n1"}, ids(r.last()))

		f.change(func() {
			f.fault = func(r *http.Request) *http.Response {
				if r.URL.Path != healthPath {
					return nil
				}
				return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: panics{}}
			}
		})
		pass(2 * time.Minute)
		require.NotZero(t, r.log.Count("watching a datacenter failed", "panic: in an answer"), r.log)
		require.Equal(t, []string{"n1"}, ids(r.last()))

		r.setHealth(nil)
		f.change(func() { f.fault = nil; f.others["eu"] = []*api.ServiceEntry{nodeEntry("n4", "eu")} })
		pass(time.Minute)
		require.Equal(t, []string{"n1", "n4"}, ids(r.last()))
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Whatever an answer contains, the nodes read from it are valid, distinct and sorted.
func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{
		`[` + instance(``, ``) + `]`, `[` + instance(`[{`, `[null,{`) + `]`,
		`[null]`, `[{}]`, `{}`, `null`, `[[null]]`,
		`[` + instance(`"region"`, `"weight":"1e-2","region"`) + `,` + instance(`n2`, `n3`) + `]`,
		`[{"Datacenter":"eu","Coordinates":[{"Coord":{"Vec":[1,2],"Height":1,"Adjustment":-9}},` +
			`{"Coord":{"Vec":[1e308,2]}},null]},null]`,
	} {
		f.Add([]byte(seed), "eu")
	}
	f.Fuzz(func(t *testing.T, body []byte, datacenter string) {
		var entries []*api.ServiceEntry
		if json.Unmarshal(body, &entries) == nil {
			list, skipped := nodes(datacenter, complete(entries))
			require.LessOrEqual(t, len(list)+len(skipped), len(entries))
			for i, n := range list {
				require.NoError(t, valid.Name(n.ID))
				require.NoError(t, valid.Name(n.Region))
				require.NoError(t, valid.Address(n.Address))
				require.True(t, i == 0 || list[i-1].ID < n.ID)
			}
			b := newAggregator("n1")
			b.set(context.Background(), datacenter, list)
			require.Len(t, b.view().Nodes, len(list))
		}
		var all []*api.CoordinateDatacenterMap
		if json.Unmarshal(body, &all) == nil {
			for _, d := range roundTrips(datacenter, all) {
				require.True(t, d >= 0 && d <= time.Hour)
			}
		}
		// The same answer read through the client.
		agent := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{
				StatusCode: http.StatusOK,
				Header:     http.Header{"X-Consul-Index": {datacenter}},
				Body:       io.NopCloser(bytes.NewReader(body)),
			}, nil
		})}
		config := &api.Config{Address: "fake", HttpClient: agent}
		region, err := New("a", WithConfig(config)).Region(context.Background())
		require.False(t, errors.Is(err, context.Canceled))
		require.Equal(t, err == nil, valid.Name(region) == nil)
	})
}
