package syscalls

import "testing"

// TestTable holds the promise of the compatibility page: how many calls are
// really done, and that what is not says why.
func TestTable(t *testing.T) {
	done := 0
	for nr, c := range Table {
		if c.Number != nr || c.Name != names[nr] {
			t.Errorf("row %d is %d %s", nr, c.Number, c.Name)
		}
		if c.Do != nil && c.Name == "" {
			t.Errorf("row %d has a handler and no name", nr)
		}
		if c.Do != nil && c.Support != Full && c.Note == "" {
			t.Errorf("%s is %s and does not say what is missing", c.Name, c.Support)
		}
		if c.Support == Full || c.Support == Partial && len(c.Note) > 0 && c.Note[:min(7, len(c.Note))] != "refused" {
			done++
		}
	}
	t.Logf("%d of %d calls are served", done, len(Table))
	if done < 200 {
		t.Errorf("%d calls are served, want 200", done)
	}
}
