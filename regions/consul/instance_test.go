package consul

import (
	"testing"

	"github.com/geocache/geocache/consistenthash"
	"github.com/geocache/geocache/regions"
	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestAnInstanceIsReadAsTheNodeThatWasRegistered(t *testing.T) {
	d := New("profile-api")
	addresses := rapid.SampledFrom([]string{"192.0.2.7:1", "[2001:db8::1]:65535", "host.example:7946"})
	weights := rapid.OneOf(rapid.Just(0.0),
		rapid.Float64Range(consistenthash.MinWeight, consistenthash.MaxWeight))
	rapid.Check(t, func(t *rapid.T) {
		n := regions.Node{
			ID:      rapid.StringN(1, -1, 255).Draw(t, "id"),
			Region:  rapid.StringN(1, -1, 255).Draw(t, "region"),
			Address: addresses.Draw(t, "address"),
			Weight:  weights.Draw(t, "weight"),
		}
		r, err := d.registration(n)
		require.NoError(t, err)
		list, skipped := nodes("dc", []*api.ServiceEntry{entry(r.ID, r.Address, r.Port, r.Meta)})
		require.Empty(t, skipped)
		require.Equal(t, []regions.Node{n}, list)
	})
}

func TestServiceID(t *testing.T) {
	require.Equal(t, "profile-api-10.0.0.7:7946", serviceID("profile-api", "10.0.0.7:7946"))
	require.Equal(t, "profile-api-a~2fb~25~7e~c3~a4", serviceID("profile-api", "a/b%~ä"))
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.String().Draw(t, "a"), rapid.String().Draw(t, "b")
		require.Equal(t, a == b, serviceID("s", a) == serviceID("s", b))
	})
}
