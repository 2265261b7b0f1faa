package expiry

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The group's floor is that of a Clear as long as nothing that it covers has come since, and says what it covers
// besides.
func TestTheFloorOfAClear(t *testing.T) {
	groupFloor := func(f *Floors) (r RaisedFloor) {
		f.Visit("another", nil, func(raised RaisedFloor) bool { r = raised; return true })
		return r
	}
	for name, test := range map[string]struct {
		before, after func(f *Floors)
		clear         bool
		covers        Generation
	}{
		"a Clear alone":            {nil, nil, true, 0},
		"a write before":           {func(f *Floors) { f.Raise(Key("k"), Removal(70), 0, 0) }, nil, true, 70},
		"two, the later first":     {func(f *Floors) { f.Raise(Key("k"), Removal(70), 0, 0); f.Raise(Key("l"), Removal(60), 0, 0) }, nil, true, 70},
		"a write by a clock ahead": {func(f *Floors) { f.Raise(Key("k"), Removal(170), 0, 0) }, nil, true, 170},
		"a late write before":      {func(f *Floors) { f.Raise(Key("k"), Removal(70), 0, 0); f.Raise(Key("k"), Removal(60), 0, 0) }, nil, true, 70},
		"a Clear before":           {func(f *Floors) { f.Clear(80, 0, 0) }, nil, true, 80},
		"another group's floor":    {func(f *Floors) { f.RaiseGroup(80, 0) }, nil, true, 80},
		"the same again":           {nil, func(f *Floors) { f.Clear(100, 0, 0) }, true, 0},
		"a write after":            {nil, func(f *Floors) { f.Raise(Key("k"), Removal(101), 0, 0) }, true, 0},
		"a late write":             {nil, func(f *Floors) { f.Raise(Key("k"), Removal(99), 0, 0) }, false, 0},
		"a late tag":               {nil, func(f *Floors) { f.Raise(Tag("t"), Removal(99), 0, 0) }, false, 0},
		"a late Clear":             {nil, func(f *Floors) { f.Clear(99, 0, 0) }, false, 0},
		"a late group's floor":     {nil, func(f *Floors) { f.RaiseGroup(99, 0) }, false, 0},
		"a group's floor after":    {nil, func(f *Floors) { f.RaiseGroup(101, 0) }, false, 0},
		"floors collapsed": {nil, func(f *Floors) {
			for i := range 4 {
				f.Raise(Key(string(rune('a'+i))), Removal(Generation(200+i)), 0, 0)
			}
		}, false, 0},
	} {
		f := NewFloors(3)
		if test.before != nil {
			test.before(f)
		}
		f.Clear(100, 0, 0)
		if test.after != nil {
			test.after(f)
		}
		r := groupFloor(f)
		require.Equal(t, test.clear, r.Clear, name)
		if test.clear {
			require.Equal(t, Removal(100), r.Floor, name)
			require.Equal(t, test.covers, f.BeforeClear(), name)
		}
	}
}
