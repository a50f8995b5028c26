package report

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"bulkhead/hwtest/guest"
)

// Style is how a table is written.
type Style struct {
	Colour  bool // for a terminal
	Verbose bool // every row, not only what differs from a good host
}

func (s Style) paint(text string, m Mood) string {
	if !s.Colour || m == Plain {
		return text
	}
	return map[Mood]string{Glad: "\x1b[32m", Sad: "\x1b[31m"}[m] + text + "\x1b[0m"
}

func (s Style) bold(text string) string {
	if !s.Colour {
		return text
	}
	return "\x1b[1m" + text + "\x1b[0m"
}

// WriteText writes r for people.
func (r *Report) WriteText(out io.Writer, s Style) error {
	w := bufio.NewWriter(out)
	fmt.Fprintf(w, "%s\n", s.bold(r.Name()))
	fmt.Fprintf(w, "class %s: %s\n", s.bold(string(r.Class)), r.ClassMeaning)
	if why := r.why(); why != "" {
		fmt.Fprintf(w, "%s\n", why)
	}
	s.table(w, r.walls())
	for _, a := range r.advice() {
		fmt.Fprintf(w, "  → %s: %s\n", a.Name, a.Value)
	}
	s.table(w, slices.DeleteFunc(r.facts(), func(row Row) bool { return !s.Verbose && row.Value == "Not affected" }))
	if r.Host.KVM.Present {
		s.table(w, r.capabilities(s.Verbose))
	}
	s.tried(w, r)
	if len(r.Costs) > 0 {
		fmt.Fprintf(w, "\n%s (median, tenth … ninetieth percentile)\n", s.bold("COSTS"))
		if r.Load.Busy() {
			fmt.Fprintf(w, "%s\n", s.paint(fmt.Sprintf("the host was busy (load %.1f on %d CPUs): they are higher than on a quiet one", r.Load.Before, r.Load.CPUs), Sad))
		}
		rows := r.costs()
		if !s.Verbose && !r.Host.KVM.Present { // each says the same then
			rows = slices.DeleteFunc(rows, func(row Row) bool { return strings.HasSuffix(row.Value, r.Host.KVM.Error) })
		}
		s.table(w, rows)
	}
	return w.Flush()
}

// tried writes the trials; what works is only counted, unless it has something to say.
func (s Style) tried(w io.Writer, r *Report) {
	if len(r.Modes)+len(r.Behaviours)+len(r.Instructions) == 0 {
		return
	}
	rows := r.tried()
	if !s.Verbose {
		rows = slices.DeleteFunc(rows, func(row Row) bool {
			return row.Value == "works" || strings.HasPrefix(row.Value, string(guest.Absent))
		})
	}
	summaries := []Row{
		{"micro-guests", modesGroup, counts(r.Modes), Plain},
		{"micro-guests", behavioursGroup, counts(r.Behaviours), Plain},
		{"micro-guests", instructionsGroup, counts(r.Instructions), Plain},
	}
	s.table(w, append(summaries, rows...))
	if !s.Verbose {
		fmt.Fprintf(w, "  (what works without a word, or is not offered, is left out: --verbose shows it)\n")
	}
}

// table writes rows, aligned, a heading a group.
func (s Style) table(w io.Writer, rows []Row) {
	width := 0
	for _, row := range rows {
		width = max(width, utf8.RuneCountInString(row.Name))
	}
	group := ""
	for _, row := range rows {
		if row.Group != group {
			group = row.Group
			fmt.Fprintf(w, "\n%s\n", s.bold(strings.ToUpper(group)))
		}
		pad := strings.Repeat(" ", width-utf8.RuneCountInString(row.Name))
		fmt.Fprintf(w, "  %s%s  %s\n", row.Name, pad, s.paint(row.Value, row.Good))
	}
}
