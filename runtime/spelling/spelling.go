// Package spelling finds what was meant by a name that is not there.
package spelling

// Nearest is the name that differs least from what was written, "" if none is near
// enough to be meant: two letters, or a third of a longer name.
func Nearest(written string, names []string) string {
	found, best := "", 0
	for _, name := range names {
		limit := max(2, max(len(written), len(name))/3)
		if d := distance(written, name, limit); d <= limit && (found == "" || d < best) {
			best, found = d, name
		}
	}
	return found
}

// distance is Levenshtein's: the letters to put in, take out or change. Beyond limit it
// is any number above that.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner = row[j+1]
			row[j+1] = min(change, corner+1, row[j]+1)
		}
	}
	return row[len(b)]
}
