package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
	"unicode/utf8"

	"bulkhead/hwtest/cost"
	"bulkhead/hwtest/verdict"
)

//go:embed page.html
var page string

// The geometry of a chart, in SVG units: names, bars, figures.
const (
	chartNames  = 290
	chartBars   = 470
	chartFigure = 200
	chartRow    = 30
	chartTop    = 26 // for the scale's labels
)

// chart is a group of costs as bars on a logarithmic scale: they span six decades.
type chart struct {
	Name          string
	Width, Height int
	Ticks         []tick
	Bars          []bar
	Missing       []cost.Cost
}

type tick struct {
	X     float64
	Label string
}

type bar struct {
	cost.Cost
	Y          int
	X, W       float64 // of the median
	Low, High  float64 // of the spread
	Figure     string
	Spread     string
	ForScale   bool // the host's own, beside the guests'
	LabelX     float64
	LabelMid   int
	WhiskerMid int
}

// newChart lays out costs, all of one group.
func newChart(name string, costs []cost.Cost) chart {
	c := chart{Name: name, Width: chartNames + chartBars + chartFigure}
	least, most := math.Inf(1), math.Inf(-1)
	for _, one := range costs {
		if one.Error != "" {
			c.Missing = append(c.Missing, one)
			continue
		}
		least, most = min(least, onScale(one.Low)), max(most, onScale(one.High))
	}
	if math.IsInf(least, 1) {
		return c
	}
	first, last := math.Floor(math.Log10(least)-0.2), math.Ceil(math.Log10(most))
	if first == last {
		last++
	}
	at := func(ns float64) float64 {
		share := (math.Log10(max(onScale(ns), math.Pow(10, first))) - first) / (last - first)
		return math.Round((chartNames+share*chartBars)*10) / 10
	}
	for decade := first; decade <= last; decade++ {
		c.Ticks = append(c.Ticks, tick{at(math.Pow(10, decade)), short(math.Pow(10, decade))})
	}
	for _, one := range costs {
		if one.Error != "" {
			continue
		}
		y := chartTop + len(c.Bars)*chartRow
		x := at(one.Median)
		c.Bars = append(c.Bars, bar{
			Cost: one, Y: y + 6, X: chartNames, W: max(x-chartNames, 1), Low: at(one.Low), High: at(one.High),
			Figure: verdict.Nanos(one.Median), Spread: verdict.Nanos(one.Low) + " … " + verdict.Nanos(one.High),
			ForScale: strings.Contains(one.Name, "native"), LabelX: chartNames + chartBars + 12, LabelMid: y + 20, WhiskerMid: y + 15,
		})
	}
	c.Height = chartTop + len(c.Bars)*chartRow + 6
	return c
}

// onScale is ns, or the end of the scale beyond which no cost lies: a report from
// elsewhere may say zero, or more decades than there is paper.
func onScale(ns float64) float64 {
	const shortest, longest = 0.01, 1e15
	if !(ns > shortest) { // NaN too
		return shortest
	}
	return min(ns, longest)
}

// short is a power of ten of nanoseconds.
func short(ns float64) string {
	s := verdict.Nanos(ns)
	number, unit, _ := strings.Cut(s, " ")
	if strings.Contains(number, ".") {
		number = strings.TrimRight(strings.TrimRight(number, "0"), ".")
	}
	return number + " " + unit
}

// view is what the page shows.
type view struct {
	*Report
	Charts       []chart
	Facts        []group
	Capabilities []group
	Tried        []group
	Counts       []Row
	Advices      []Row
	Why          string
	When         string
}

// group is rows under one heading.
type group struct {
	Name string
	Rows []Row
}

func groups(rows []Row) []group {
	var list []group
	for _, row := range rows {
		if len(list) == 0 || list[len(list)-1].Name != row.Group {
			list = append(list, group{Name: row.Group})
		}
		last := &list[len(list)-1]
		last.Rows = append(last.Rows, row)
	}
	return list
}

// WriteHTML writes one page that needs nothing beside itself.
func (r *Report) WriteHTML(w io.Writer) error {
	v := view{Report: r, Facts: groups(r.facts()), Capabilities: groups(r.capabilities(true)), Tried: groups(r.tried()),
		Counts: []Row{
			{"", modesGroup, counts(r.Modes), Plain},
			{"", behavioursGroup, counts(r.Behaviours), Plain},
			{"", instructionsGroup, counts(r.Instructions), Plain},
		},
		Advices: r.advice(), Why: r.why(),
		When: r.Taken.Format("2 January 2006, 15:04 MST"),
	}
	for _, name := range cost.Groups {
		var costs []cost.Cost
		for _, c := range r.Costs {
			if c.Group == name {
				costs = append(costs, c)
			}
		}
		if len(costs) > 0 {
			v.Charts = append(v.Charts, newChart(name, costs))
		}
	}
	t, err := template.New("page").Funcs(template.FuncMap{
		"mood":  func(m Mood) string { return [...]string{"plain", "glad", "sad"}[m] },
		"title": title,
		"plain": func(line string) string { return strings.TrimPrefix(strings.TrimPrefix(line, "yes"), ", ") },
	}).Parse(page)
	if err != nil {
		return fmt.Errorf("report: the page's template: %w", err)
	}
	return t.Execute(w, v)
}

// title has a capital.
func title(s string) string {
	first, size := utf8.DecodeRuneInString(s)
	return strings.ToUpper(string(first)) + s[size:]
}
