package report

import (
	"bufio"
	"fmt"
	"io"
	"math"

	"bulkhead/hwtest/cost"
	"bulkhead/hwtest/verdict"
)

// Difference is a row that two reports do not share.
type Difference struct {
	Group, Name string
	A, B        string
	Good        Mood // of B against A
}

// Compare lists where b differs from a. A cost differs if the spreads do not
// touch: what one host itself measures twice within its spread is no difference.
func Compare(a, b *Report) []Difference {
	var list []Difference
	rows := func(r *Report) []Row {
		rows := append([]Row{{"class", "class", string(r.Class), Plain}}, r.walls()...)
		rows = append(rows, r.facts()...)
		rows = append(rows, r.capabilities(true)...)
		return append(rows, r.tried()...)
	}
	list = append(list, differences(rows(a), rows(b))...)
	return append(list, costDifferences(a.Costs, b.Costs)...)
}

func differences(a, b []Row) []Difference {
	type key struct{ group, name string }
	was := map[key]Row{}
	for _, row := range a {
		was[key{row.Group, row.Name}] = row
	}
	var list []Difference
	for _, row := range b {
		k := key{row.Group, row.Name}
		old, both := was[k]
		delete(was, k)
		if !both {
			old.Value = "–"
		}
		if old.Value != row.Value {
			d := Difference{row.Group, row.Name, old.Value, row.Value, Plain}
			if old.Good != row.Good {
				d.Good = row.Good
			}
			list = append(list, d)
		}
	}
	for _, row := range a { // in its order
		if _, gone := was[key{row.Group, row.Name}]; gone {
			list = append(list, Difference{row.Group, row.Name, row.Value, "–", Plain})
		}
	}
	return list
}

func costDifferences(a, b []cost.Cost) []Difference {
	was := map[string]cost.Cost{}
	for _, c := range a {
		was[c.ID] = c
	}
	var list []Difference
	for _, c := range b {
		old, both := was[c.ID]
		if !both || old.Error == "" && c.Error == "" && old.Low <= c.High && c.Low <= old.High || old.Error != "" && c.Error != "" {
			continue
		}
		d := Difference{c.Group, c.Name, figure(old), figure(c), mood(c.Error == "" && c.Median < old.Median || old.Error != "")}
		if old.Error == "" && c.Error == "" {
			d.B += ", " + times(c.Median/old.Median)
		}
		list = append(list, d)
	}
	return list
}

// times says a ratio as people do.
func times(ratio float64) string {
	if math.IsNaN(ratio) || math.IsInf(ratio, 0) || ratio == 0 {
		return "no ratio"
	}
	if ratio < 1 {
		return fmt.Sprintf("%.2g× cheaper", 1/ratio)
	}
	return fmt.Sprintf("%.2g× dearer", ratio)
}

func figure(c cost.Cost) string {
	if c.Error != "" {
		return c.Error
	}
	return verdict.Nanos(c.Median)
}

// WriteComparison writes what differs, with both hosts' names above.
func WriteComparison(out io.Writer, a, b *Report, s Style) error {
	w := bufio.NewWriter(out)
	fmt.Fprintf(w, "A: %s, class %s, %s\nB: %s, class %s, %s\n", s.bold(a.Name()), a.Class, a.Taken.Format("2006-01-02 15:04"),
		s.bold(b.Name()), b.Class, b.Taken.Format("2006-01-02 15:04"))
	list := Compare(a, b)
	var rows []Row
	for _, d := range list {
		rows = append(rows, Row{d.Group, d.Name, d.A + "  →  " + d.B, d.Good})
	}
	s.table(w, rows)
	if len(list) == 0 {
		fmt.Fprintln(w, "nothing differs, but for costs within each other's spread")
	}
	return w.Flush()
}
