// Package report is what hwtest hands over: one structure, as JSON (schema.json),
// as a table for a terminal, as a page for a browser, and two of them side by side.
package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"bulkhead/hwtest/cost"
	"bulkhead/hwtest/guest"
	"bulkhead/hwtest/probe"
	"bulkhead/hwtest/verdict"
)

// Schema is the version of the structure; a reader refuses another.
const Schema = 1

// Report is everything about one host at one time.
type Report struct {
	Schema       int            `json:"schema"`
	Tool         string         `json:"tool"` // "hwtest", by which a reader knows it
	Commit       string         `json:"commit"`
	Taken        time.Time      `json:"taken"`
	TookMS       int64          `json:"took_ms"`
	Load         Load           `json:"load"`
	Class        verdict.Class  `json:"class"`
	ClassMeaning string         `json:"class_meaning"`
	Ring0        verdict.Ring0  `json:"ring0"`
	Walls        []verdict.Wall `json:"walls"`
	Host         probe.Facts    `json:"host"`
	Modes        []guest.Trial  `json:"modes"`
	Instructions []guest.Trial  `json:"instructions"`
	Behaviours   []guest.Trial  `json:"behaviours"`
	Costs        []cost.Cost    `json:"costs"`
}

// Load is how busy the host was: a busy one has no costs worth a name.
type Load struct {
	CPUs   int     `json:"cpus"`
	Before float64 `json:"before"` // the average over the last minute
}

// Busy tells whether others were waiting for the processors.
func (l Load) Busy() bool { return l.Before > 0.7*float64(l.CPUs) }

// Name is a line for the host.
func (r *Report) Name() string {
	where := "bare metal"
	if m := r.Host.Machine; m.Cloud != "" {
		where = m.Cloud
	} else if m.Virtual {
		where = m.Hypervisor
	}
	model := r.Host.CPU.Model
	if model == "" {
		model = r.Host.CPU.Vendor
	}
	return fmt.Sprintf("%s, %d CPUs, Linux %s, %s", model, r.Load.CPUs, r.Host.Kernel.Release, where)
}

// why says what the class stands on.
func (r *Report) why() string {
	switch {
	case !r.Host.KVM.Present:
		return r.Host.KVM.Error
	case r.Ring0.Error != "":
		return r.Ring0.Error
	}
	return r.Ring0.Reason
}

// WriteJSON writes r for programs.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// The lines around a report on a serial console (hwtest gcp-script).
const (
	Begin = "-----BEGIN HWTEST REPORT-----"
	End   = "-----END HWTEST REPORT-----"
)

// Read parses a report, also one in the log of a serial console.
func Read(text []byte) (*Report, error) {
	if _, after, found := bytes.Cut(text, []byte(Begin)); found {
		text, _, found = bytes.Cut(after, []byte(End))
		if !found {
			return nil, fmt.Errorf("the report on the console is cut short: no line %q", End)
		}
	}
	r := &Report{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("not a report of hwtest: %w", err)
	}
	if r.Tool != "hwtest" {
		return nil, fmt.Errorf("not a report of hwtest: tool is %q", r.Tool)
	}
	if r.Schema != Schema {
		return nil, fmt.Errorf("a report of schema %d; this hwtest reads schema %d", r.Schema, Schema)
	}
	return r, nil
}

// ReadFile reads one.
func ReadFile(path string) (*Report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	r, err := Read(text)
	if err != nil {
		return nil, fmt.Errorf("report %s: %w", path, err)
	}
	return r, nil
}
