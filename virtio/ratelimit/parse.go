package ratelimit

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Parse reads limits as a person writes them: bytes=10M/s,ops=1000/s,burst=64M,
// ops-burst=200. K, M, G and T are powers of 1024 for bytes and of 1000 for
// operations; "/s" may be left out. A burst that is not given is a tenth of a
// second's worth. The empty string limits nothing.
func Parse(s string) (Limits, error) {
	var l Limits
	words := map[string]struct {
		to   *uint64
		kilo uint64
		rate bool
	}{
		"bytes":     {&l.Bytes.PerSecond, 1024, true},
		"burst":     {&l.Bytes.Burst, 1024, false},
		"ops":       {&l.Ops.PerSecond, 1000, true},
		"ops-burst": {&l.Ops.Burst, 1000, false},
	}
	if s == "" {
		return l, nil
	}
	for field := range strings.SplitSeq(s, ",") {
		name, value, ok := strings.Cut(field, "=")
		word, known := words[name]
		switch {
		case !known:
			return Limits{}, fmt.Errorf("rate limit %q: unknown word %q; give bytes=, ops=, burst= (bytes) or ops-burst=", s, name)
		case !ok:
			return Limits{}, fmt.Errorf("rate limit %q: %s has no value, as in %s=1000", s, name, name)
		case *word.to != 0:
			return Limits{}, fmt.Errorf("rate limit %q: %s is given twice", s, name)
		}
		if word.rate {
			value = strings.TrimSuffix(value, "/s")
		}
		n, err := quantity(value, word.kilo)
		if err != nil {
			return Limits{}, fmt.Errorf("rate limit %q: %s: %w", s, name, err)
		}
		*word.to = n
	}
	for name, rate := range map[string]*Rate{"bytes": &l.Bytes, "ops": &l.Ops} {
		if rate.PerSecond == 0 && rate.Burst != 0 {
			return Limits{}, fmt.Errorf("rate limit %q: a burst without a rate; add %s=", s, name)
		}
		if rate.PerSecond != 0 && rate.Burst == 0 {
			rate.Burst = max(1, rate.PerSecond/10)
		}
	}
	return l, nil
}

// quantity is a whole number above 0 with an optional suffix.
func quantity(s string, kilo uint64) (uint64, error) {
	digits, unit := s, uint64(1)
	if s != "" {
		for _, suffix := range []string{"K", "M", "G", "T"} {
			unit *= kilo
			if strings.EqualFold(s[len(s)-1:], suffix) {
				digits = s[:len(s)-1]
				break
			}
		}
	}
	if digits == s {
		unit = 1
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is not a number with K, M, G or T behind it", s)
	case n == 0:
		return 0, fmt.Errorf("%q lets nothing through; leave it out for no limit", s)
	case n > math.MaxInt64/unit:
		return 0, fmt.Errorf("%q is too large", s)
	}
	return n * unit, nil
}

// String is what Parse reads.
func (l Limits) String() string {
	var fields []string
	for _, f := range []struct {
		format string
		n      uint64
	}{
		{"bytes=%d/s", l.Bytes.PerSecond},
		{"burst=%d", l.Bytes.Burst},
		{"ops=%d/s", l.Ops.PerSecond},
		{"ops-burst=%d", l.Ops.Burst},
	} {
		if f.n != 0 {
			fields = append(fields, fmt.Sprintf(f.format, f.n))
		}
	}
	return strings.Join(fields, ",")
}
