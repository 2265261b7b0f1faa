package wire

import (
	"bytes"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/geocache/geocache/expiry"
)

// TestLayout pins the encoding of every part: it is part of the protocol.
func TestLayout(t *testing.T) {
	stamp := expiry.Stamp{Generation: 0x0102030405060708, Origin: 0x090a0b0c0d0e0f10}
	for what, c := range map[string]struct{ want, got []byte }{
		"uint16":     {[]byte{1, 2}, AppendUint16(nil, 0x0102)},
		"uint32":     {[]byte{1, 2, 3, 4}, AppendUint32(nil, 0x01020304)},
		"uint64":     {[]byte{1, 2, 3, 4, 5, 6, 7, 8}, AppendUint64(nil, 0x0102030405060708)},
		"count":      {[]byte{0, 0, 1, 44}, AppendCount(nil, 300)},
		"string8":    {[]byte("\x02ab"), AppendString8(nil, "ab")},
		"string16":   {[]byte("\x00\x02ab"), AppendString16(nil, "ab")},
		"bytes32":    {[]byte("\x00\x00\x00\x02ab"), AppendBytes32(nil, []byte("ab"))},
		"generation": {[]byte{1, 2, 3, 4, 5, 6, 7, 8}, AppendGeneration(nil, stamp.Generation)},
		"stamp":      {[]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, AppendStamp(nil, stamp)},
		"instant":    {[]byte{0, 0, 0, 0, 0, 0, 1, 44}, AppendInstant(nil, 300)},
		"micros":     {[]byte{0, 0, 0, 0, 0, 0, 1, 44}, AppendMicros(nil, 300*time.Microsecond)},
		"flags":      {[]byte{0b101}, AppendFlags(nil, true, false, true)},
		"all flags":  {[]byte{0xff}, AppendFlags(nil, true, true, true, true, true, true, true, true)},
		"no flags":   {[]byte{0}, AppendFlags(nil)},
	} {
		require.Equal(t, c.want, c.got, what)
	}
}

// TestDurations: they are rounded as the name says, and kept in range.
func TestDurations(t *testing.T) {
	const us = time.Microsecond
	longest := time.Duration(maxMicros) * us
	for d, want := range map[time.Duration]struct{ down, up time.Duration }{
		0:             {0, 0},
		1:             {0, us},
		us - 1:        {0, us},
		us:            {us, us},
		us + 1:        {us, 2 * us},
		-1:            {0, 0},
		-time.Second:  {0, 0},
		math.MinInt64: {0, 0},
		math.MaxInt64: {longest, longest},
	} {
		down, up := NewReader(AppendMicros(nil, d)), NewReader(AppendMicrosUp(nil, d))
		require.Equal(t, want.down, down.Micros(), "%v", d)
		require.Equal(t, want.up, up.Micros(), "%v", d)
		require.NoError(t, down.End())
		require.NoError(t, up.End())
	}
	past := NewReader(AppendInstant(nil, -1))
	require.Zero(t, past.Instant())
	require.NoError(t, past.End())
}

// TestRoundTrip: what is read is what was appended, whatever was there before.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u8, u16 := rapid.Uint8().Draw(t, "u8"), rapid.Uint16().Draw(t, "u16")
		u32, u64 := rapid.Uint32().Draw(t, "u32"), rapid.Uint64().Draw(t, "u64")
		s8, s16 := rapid.StringN(0, 60, 255).Draw(t, "s8"), rapid.String().Draw(t, "s16")
		b32 := rapid.SliceOf(rapid.Byte()).Draw(t, "b32")
		stamp := expiry.Stamp{Generation: expiry.Generation(u64), Origin: rapid.Uint64().Draw(t, "origin")}
		instant := expiry.Instant(rapid.Int64Range(0, math.MaxInt64).Draw(t, "instant"))
		micros := time.Duration(rapid.Uint64Range(0, maxMicros).Draw(t, "micros")) * time.Microsecond
		x, y := rapid.Bool().Draw(t, "x"), rapid.Bool().Draw(t, "y")
		rest := rapid.SliceOf(rapid.Byte()).Draw(t, "rest")

		before := []byte("before")
		b := AppendUint16(append(bytes.Clone(before), u8), u16)
		b = AppendUint64(AppendUint32(b, u32), u64)
		b = AppendBytes32(AppendString16(AppendString8(b, s8), s16), b32)
		b = AppendInstant(AppendStamp(AppendGeneration(b, stamp.Generation), stamp), instant)
		b = AppendFlags(AppendMicrosUp(AppendMicros(b, micros), micros), x, y)
		b = append(AppendCount(b, len(rest)), rest...)
		require.Equal(t, before, b[:len(before)])

		r := NewReader(b[len(before):])
		require.Equal(t, u8, r.Uint8())
		require.Equal(t, u16, r.Uint16())
		require.Equal(t, u32, r.Uint32())
		require.Equal(t, u64, r.Uint64())
		require.Equal(t, s8, r.String8())
		require.Equal(t, s16, r.String16())
		require.True(t, bytes.Equal(b32, r.Bytes32()))
		require.Equal(t, stamp.Generation, r.Generation())
		require.Equal(t, stamp, r.Stamp())
		require.Equal(t, instant, r.Instant())
		require.Equal(t, micros, r.Micros())
		require.Equal(t, micros, r.Micros())
		var x2, y2 bool
		r.Flags(&x2, &y2)
		require.Equal(t, []bool{x, y}, []bool{x2, y2})
		require.Equal(t, len(rest), r.Count(1))
		require.NoError(t, r.Err())
		require.True(t, bytes.Equal(rest, r.Rest()))
		require.NoError(t, r.End())
	})
}

// TestMalformed: each mistake is found and said.
func TestMalformed(t *testing.T) {
	flag := func(r *Reader) { r.Flags(new(bool)) }
	for what, c := range map[string]struct {
		message []byte
		read    func(r *Reader)
		problem string
	}{
		"a number cut":      {make([]byte, 7), func(r *Reader) { r.Uint64() }, "ends too early"},
		"a string cut":      {[]byte("\x03ab"), func(r *Reader) { r.String8() }, "ends too early"},
		"a long string cut": {[]byte("\x00\x03ab"), func(r *Reader) { r.String16() }, "ends too early"},
		"a value cut":       {[]byte("\xff\xff\xff\xffab"), func(r *Reader) { r.Bytes32() }, "ends too early"},
		"left over":         {[]byte{1, 2}, func(r *Reader) { r.Uint8() }, "left over"},
		"an unknown flag":   {[]byte{2}, flag, "flag has no meaning"},
		"a long time": {AppendUint64(nil, maxMicros+1),
			func(r *Reader) { r.Micros() }, "duration is out of range"},
		"a late instant": {AppendUint64(nil, math.MaxInt64+1),
			func(r *Reader) { r.Instant() }, "instant is out of range"},
		"too many elements": {append(AppendCount(nil, 3), make([]byte, 5)...),
			func(r *Reader) { r.Count(2) }, "fewer elements"},
		"a caller's rule": {nil, func(r *Reader) { r.Fail("it is not allowed") }, "it is not allowed"},
	} {
		r := NewReader(c.message)
		c.read(&r)
		err := r.End()
		require.ErrorIs(t, err, ErrMalformed, what)
		require.ErrorContains(t, err, c.problem, what)
	}
	fits := NewReader(append(AppendCount(nil, 3), make([]byte, 6)...))
	require.Equal(t, 3, fits.Count(2))
	require.NoError(t, fits.Err())
}

// TestFirstProblem: a Reader that has failed returns zero from then on, although
// there were bytes, and its error stays the first.
func TestFirstProblem(t *testing.T) {
	r := NewReader(bytes.Repeat([]byte{1}, 100))
	r.Fail("first")
	r.Fail("second")
	flag := true
	r.Flags(&flag)
	require.False(t, flag)
	require.Zero(t, r.Uint8())
	require.Zero(t, r.Uint16())
	require.Zero(t, r.Uint32())
	require.Zero(t, r.Uint64())
	require.Zero(t, r.Count(1))
	require.Zero(t, r.Stamp())
	require.Zero(t, r.Instant())
	require.Zero(t, r.Micros())
	require.Empty(t, r.String8())
	require.Empty(t, r.String16())
	require.Nil(t, r.Bytes32())
	require.Nil(t, r.Bytes(0))
	require.Nil(t, r.Rest())
	require.EqualError(t, r.Err(), "malformed message: first")
	require.EqualError(t, r.End(), "malformed message: first")
}

// TestAliases: what is returned as bytes cannot be appended to over what comes
// after it, and no bytes are not nil.
func TestAliases(t *testing.T) {
	message := []byte("\x02abcd\x00\x00\x00\x00")
	r := NewReader(message)
	_ = append(r.Bytes8(), '#')
	require.Equal(t, "cd", string(r.Bytes(2)))
	require.NotNil(t, r.Bytes32())
	require.NoError(t, r.End())
}

// TestNoAllocations: neither encoding nor decoding allocates but for strings.
func TestNoAllocations(t *testing.T) {
	b := make([]byte, 0, 200)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		b = AppendFlags(AppendString16(AppendString8(b[:0], "group"), "key"), true, false)
		b = AppendBytes32(AppendMicros(AppendStamp(b, expiry.Stamp{Generation: 1}), time.Second), nil)
		r := NewReader(b)
		var x, y bool
		r.Bytes8()
		r.Bytes16()
		r.Flags(&x, &y)
		r.Stamp()
		r.Micros()
		r.Bytes32()
		if r.End() != nil {
			panic(r.End())
		}
	}))
}
