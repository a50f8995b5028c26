package spec

import (
	"fmt"
	"strconv"
	"strings"
)

// mostCPU is above any CPU's number (include/linux/threads.h, NR_CPUS).
const mostCPU = 8191

// ParseCPUs reads a list of CPUs as control groups have it, 0-2,7, in its order (cpuset(7),
// "List format"). "" is none.
func ParseCPUs(list string) (cpus []int, err error) {
	seen := map[int]bool{}
	for _, part := range strings.Split(strings.TrimSpace(list), ",") {
		if part == "" && list == "" {
			return nil, nil
		}
		low, high, span := strings.Cut(part, "-")
		if !span {
			high = low
		}
		from, err := strconv.ParseUint(low, 10, 16)
		to, err2 := strconv.ParseUint(high, 10, 16)
		if err != nil || err2 != nil || from > to || to > mostCPU {
			return nil, fmt.Errorf("%q is no list of CPUs, as 0-2,7", list)
		}
		for n := int(from); n <= int(to); n++ {
			if !seen[n] {
				seen[n] = true
				cpus = append(cpus, n)
			}
		}
	}
	return cpus, nil
}
