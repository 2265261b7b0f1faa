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

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/valid"
)

const (
	healthPath      = "/v1/health/service/profile-api"
	datacentersPath = "/v1/catalog/datacenters"
	coordinatesPath = "/v1/coordinate/datacenters"
)

// instance is the JSON of a good instance of the node n2, with one thing replaced by another.
func instance(old, with string) string {
	const good = `{"Node":{"Node":"machine","Address":"192.0.2.1"},` +
		`"Service":{"ID":"profile-api-n2","Address":"192.0.2.9","Port":7946,"Meta":{"protocol":"1","node":"n2","region":"eu"},"CreateIndex":3},` +
		`"Checks":[{"CheckID":"serfHealth","Status":"passing"}]}`
	if !strings.Contains(good, old) {
		panic(old)
	}
	return strings.Replace(good, old, with, 1)
}

// Whatever is in an answer, the instances beside what is odd are found, this process lives, and a
// good answer after it is taken.
func TestOddAnswers(t *testing.T) {
	const n3 = `{"Node":{"Address":"192.0.2.3"},"Service":{"ID":"n3","Port":1,"Meta":{"protocol":"1","node":"n3"}}}`
	for name, test := range map[string]struct {
		path, body string
		index      string
		want       []string // nodes; nil: as they were
	}{
		"a null check":             {healthPath, instance(`[{`, `[null,{`), "20", []string{"n2", "n3"}},
		"only a null check":        {healthPath, instance(`[{"CheckID":"serfHealth","Status":"passing"}]`, `[null]`), "20", []string{"n2", "n3"}},
		"null checks":              {healthPath, instance(`[{"CheckID":"serfHealth","Status":"passing"}]`, `null`), "20", []string{"n2", "n3"}},
		"a check of no status":     {healthPath, instance(`"Status":"passing"`, `"Status":""`), "20", []string{"n3"}},
		"a check of odd status":    {healthPath, instance(`passing`, `\u0000`), "20", []string{"n3"}},
		"a null instance":          {healthPath, `null`, "20", []string{"n3"}},
		"an empty instance":        {healthPath, `{}`, "20", []string{"n3"}},
		"a null node":              {healthPath, instance(`{"Node":"machine","Address":"192.0.2.1"}`, `null`), "20", []string{"n3"}},
		"a null service":           {healthPath, `{"Node":{},"Service":null,"Checks":[null]}`, "20", []string{"n3"}},
		"a null meta":              {healthPath, instance(`{"protocol":"1","node":"n2","region":"eu"}`, `null`), "20", []string{"n3"}},
		"a null in meta":           {healthPath, instance(`"node":"n2"`, `"node":null`), "20", []string{"n3"}},
		"no region":                {healthPath, instance(`,"region":"eu"`, ``), "20", []string{"n2", "n3"}},
		"port 0":                   {healthPath, instance(`7946`, `0`), "20", []string{"n3"}},
		"port 65536":               {healthPath, instance(`7946`, `65536`), "20", []string{"n3"}},
		"a negative port":          {healthPath, instance(`7946`, `-7946`), "20", []string{"n3"}},
		"a wildcard":               {healthPath, instance(`192.0.2.9`, `0.0.0.0`), "20", []string{"n3"}},
		"an address that is none":  {healthPath, instance(`192.0.2.9`, `192.0.2.9:80`), "20", []string{"n3"}},
		"a name that is not UTF-8": {healthPath, instance(`"node":"n2"`, "\"node\":\"n\xff\""), "20", []string{"n3", "n\uFFFD"}}, // so JSON reads it
		"a long name":              {healthPath, instance(`"node":"n2"`, `"node":"`+strings.Repeat("n", 256)+`"`), "20", []string{"n3"}},
		"a long region":            {healthPath, instance(`"region":"eu"`, `"region":"`+strings.Repeat("n", 256)+`"`), "20", []string{"n3"}},
		"a negative weight":        {healthPath, instance(`"region"`, `"weight":"-1","region"`), "20", []string{"n3"}},
		"a weight of NaN":          {healthPath, instance(`"region"`, `"weight":"NaN","region"`), "20", []string{"n3"}},
		"a huge weight":            {healthPath, instance(`"region"`, `"weight":"1e999","region"`), "20", []string{"n3"}},
		"an ID twice":              {healthPath, instance(``, ``) + "," + instance(`192.0.2.9`, `192.0.2.8`), "20", []string{"n2", "n3"}},
		"index 0":                  {healthPath, instance(``, ``), "0", []string{"n2", "n3"}},
		"no index":                 {healthPath, instance(``, ``), "", []string{"n2", "n3"}},
		"the highest index":        {healthPath, instance(``, ``), strconv.FormatUint(math.MaxUint64, 10), []string{"n2", "n3"}},
		"an index beyond":          {healthPath, instance(``, ``), "18446744073709551616", []string{"n2", "n3"}},
		"an index that is none":    {healthPath, instance(``, ``), "NaN", []string{"n2", "n3"}},
		"a negative index":         {healthPath, instance(``, ``), "-5", []string{"n2", "n3"}},
		"a port that is text":      {healthPath, instance(`7946`, `"7946"`), "20", nil},
		"not closed":               {healthPath, instance(``, ``) + ",{", "20", nil},

		"null datacenters":     {datacentersPath, "null", "", nil},
		"an empty datacenter":  {datacentersPath, `"","eu",""`, "", []string{"n1"}},
		"a datacenter twice":   {datacentersPath, `"eu","eu"`, "", []string{"n1"}},
		"an odd datacenter":    {datacentersPath, `"eu","a/b?dc=eu&x=\u0000"`, "", []string{"n1"}},
		"a number":             {datacentersPath, `1`, "", nil},
		"null coordinates":     {coordinatesPath, "null", "", []string{"n1"}},
		"coordinates of null":  {coordinatesPath, `{"Datacenter":"eu","Coordinates":null},{"Datacenter":"eu","Coordinates":[null,{"Coord":null}]}`, "", []string{"n1"}},
		"no vector":            {coordinatesPath, `{"Datacenter":"eu","Coordinates":[{"Coord":{}},{"Coord":{"Vec":[1]}}]}`, "", []string{"n1"}},
		"huge coordinates":     {coordinatesPath, `{"Datacenter":"eu","Coordinates":[{"Coord":{"Vec":[1e308,-1e308],"Height":1e308}},{"Coord":{"Vec":[-1e308,1e308],"Height":1e308}}]}`, "", []string{"n1"}},
		"negative coordinates": {coordinatesPath, `{"Datacenter":"eu","Coordinates":[{"Coord":{"Vec":[0],"Height":-1e9}}]}`, "", []string{"n1"}},
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

// panics is a body whose reader panics, as a decoder might.
type panics struct{}

func (panics) Read([]byte) (int, error) { panic("in an answer") }
func (panics) Close() error             { return nil }

// spaces is a body without an end, of which nothing is ever decoded.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}
func (spaces) Close() error { return nil }

// Nothing that happens while an answer is read ends the process, and it is over when the answers are good.
func TestPanicsInAnswers(t *testing.T) {
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

		r.fall(nil)
		f.change(func() { f.fault = nil; f.others["eu"] = []*api.ServiceEntry{nodeEntry("n4", "eu")} })
		pass(time.Minute)
		require.Equal(t, []string{"n1", "n4"}, ids(r.last()))
	})
}

func TestAnswersAreBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 256 MiB")
	}
	b := bounded{roundTripper(func(*http.Request) (*http.Response, error) { return &http.Response{Body: spaces{}}, nil })}
	a, err := b.RoundTrip(nil)
	require.NoError(t, err)
	n, err := io.Copy(io.Discard, a.Body)
	require.EqualValues(t, maxAnswer, n)
	require.ErrorContains(t, err, "an answer of more than 268435456 bytes")

	// As large as it may be.
	b = bounded{roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{Body: io.NopCloser(io.LimitReader(spaces{}, 1<<20))}, nil
	})}
	a, err = b.RoundTrip(nil)
	require.NoError(t, err)
	n, err = io.Copy(io.Discard, a.Body)
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, n)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// An agent that does not say where it is would put this process into a region of its own.
func TestAgentWithoutADatacenter(t *testing.T) {
	for body, why := range map[string]string{
		`{}`: "the name is empty", `null`: "the name is empty", `{"Config":null}`: "the name is empty", `{"Config":{"Datacenter":""}}`: "the name is empty",
		`{"Config":{"Datacenter":"` + strings.Repeat("x", 256) + `"}}`: "a name of 256 bytes", `[]`: "cannot unmarshal",
	} {
		f := newFake("eu")
		f.fault = func(*http.Request) *http.Response { return answer(http.StatusOK, body) }
		_, err := New("profile-api", WithConfig(f.config())).Region(t.Context())
		require.ErrorContains(t, err, why, body)
	}
}

// With port 0 advertised, the port that was bound is what Consul is told, and others come by it.
func TestOpenWithPortZero(t *testing.T) {
	f := newFake("eu")
	open := func(opts ...geocache.Option) *geocache.Cache {
		cache, err := geocache.Open(t.Context(), append(opts, geocache.WithDiscovery(New("profile-api", WithConfig(f.config()))))...)
		require.NoError(t, err)
		t.Cleanup(func() { cache.Close() })
		return cache
	}
	first := open(geocache.WithListen("127.0.0.1:0"), geocache.WithAdvertise("localhost:0"))
	second := open(geocache.WithListen("127.0.0.1:0"))
	require.Equal(t, 2, second.Stats().Regions[0].Nodes, "%v", second.Stats())
	f.look(func() {
		for _, s := range f.services {
			require.NotZero(t, s.Port)
		}
		require.Len(t, f.services, 2)
	})
	require.Regexp(t, `^localhost:\d+$`, first.Node().Address)

	for _, address := range []string{":0", "host:99999", "0.0.0.0:7946"} {
		_, err := geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"), geocache.WithAdvertise(address),
			geocache.WithDiscovery(New("profile-api", WithConfig(f.config()))))
		require.ErrorContains(t, err, "WithAdvertise(")
	}
	f.look(func() { require.Len(t, f.services, 2, "who cannot be reached is not announced") })
}

func TestNilOptionsAreMistakes(t *testing.T) {
	err := New("a", nil, WithCheckTTL(math.MinInt64), nil, WithDeregisterAfter(-1)).Validate()
	for _, mistake := range []string{"option 0 is nil", "option 2 is nil", "WithCheckTTL: -", "WithDeregisterAfter: -1ns"} {
		require.ErrorContains(t, err, mistake)
	}
	require.ErrorContains(t, New("a", WithConfig(&api.Config{WaitTime: -1})).Validate(), "WaitTime of -1ns")
	require.ErrorContains(t, New("a", WithConfig(&api.Config{WaitTime: math.MaxInt64})).Validate(), "WaitTime of 2562047h")
}

// What is made of any answer can be dialled and told apart, and is in order.
func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{
		`[` + instance(``, ``) + `]`, `[` + instance(`[{`, `[null,{`) + `]`, `[null]`, `[{}]`, `{}`, `null`, `[[null]]`,
		`[` + instance(`"region"`, `"weight":"1e-2","region"`) + `,` + instance(`n2`, `n3`) + `]`,
		`[{"Datacenter":"eu","Coordinates":[{"Coord":{"Vec":[1,2],"Height":1,"Adjustment":-9}},{"Coord":{"Vec":[1e308,2]}},null]},null]`,
	} {
		f.Add([]byte(seed), "eu")
	}
	f.Fuzz(func(t *testing.T, body []byte, datacenter string) {
		var entries []*api.ServiceEntry
		if json.Unmarshal(body, &entries) == nil {
			list, skipped := nodes(datacenter, whole(entries))
			require.LessOrEqual(t, len(list)+len(skipped), len(entries))
			for i, n := range list {
				require.NoError(t, valid.Name(n.ID))
				require.NoError(t, valid.Name(n.Region))
				require.NoError(t, valid.Address(n.Address))
				require.True(t, i == 0 || list[i-1].ID < n.ID)
			}
			b := newBoard("n1")
			b.set(context.Background(), datacenter, list)
			require.Len(t, b.view().Nodes, len(list))
		}
		var all []*api.CoordinateDatacenterMap
		if json.Unmarshal(body, &all) == nil {
			for _, d := range roundTrips(datacenter, all) {
				require.True(t, d >= 0 && d <= time.Hour)
			}
		}
		// The same over the client, with whatever that does.
		agent := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"X-Consul-Index": {datacenter}}, Body: io.NopCloser(bytes.NewReader(body))}, nil
		})}
		region, err := New("a", WithConfig(&api.Config{Address: "fake", HttpClient: agent})).Region(context.Background())
		require.False(t, errors.Is(err, context.Canceled))
		require.Equal(t, err == nil, valid.Name(region) == nil)
	})
}
