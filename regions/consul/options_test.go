package consul

import (
	"math"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"
)

func TestNilOptionsAreMistakes(t *testing.T) {
	err := New("a", nil, WithCheckTTL(math.MinInt64), nil, WithDeregisterAfter(-1)).Validate()
	for _, mistake := range []string{
		"option 0 is nil", "option 2 is nil", "WithCheckTTL: -", "WithDeregisterAfter: -1ns",
	} {
		require.ErrorContains(t, err, mistake)
	}
	for wait, mistake := range map[time.Duration]string{
		-1: "WaitTime is -1ns", math.MaxInt64: "WaitTime is 2562047h",
	} {
		require.ErrorContains(t, New("a", WithConfig(&api.Config{WaitTime: wait})).Validate(), mistake)
	}
}
