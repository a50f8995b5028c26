package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bulkhead/hwtest/report"
	"bulkhead/hwtest/verdict"
)

// hwtest runs the program.
func hwtest(t *testing.T, args ...string) (status int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	status = (&app{out: &o, errs: &e}).main(t.Context(), args)
	return status, o.String(), e.String()
}

// quick is a report of this host, made once, as text.
var quick = sync.OnceValue(func() string {
	var o bytes.Buffer
	(&app{out: &o, errs: io.Discard}).main(context.Background(), []string{"--quick", "--json"})
	return o.String()
})

// TestReport makes one of this host and reads it in every form.
func TestReport(t *testing.T) {
	dir := t.TempDir()
	here, page := filepath.Join(dir, "here.json"), filepath.Join(dir, "here.html")
	status, out, errs := hwtest(t, "--json", "--html", page, "--budget", "5ms")
	if status != 0 || errs != "" {
		t.Fatalf("status %d: %s", status, errs)
	}
	if err := os.WriteFile(here, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := report.Read([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range conform(t, []byte(out)) {
		t.Error("against schema.json: " + problem)
	}
	if html, err := os.ReadFile(page); err != nil || !bytes.Contains(html, []byte("<svg")) {
		t.Errorf("the page: %d bytes, %v", len(html), err)
	}
	if r.Class == verdict.None && r.Host.KVM.Present {
		t.Errorf("a host with KVM is of no class: %+v", r.Ring0)
	}
	if status, out, errs = hwtest(t, "--from", here); status != 0 || !strings.Contains(out, "class "+string(r.Class)) {
		t.Errorf("the table: status %d, %s\n%s", status, errs, out)
	}
	if status, out, errs = hwtest(t, "--compare", here, here); status != 0 || !strings.Contains(out, "nothing differs") {
		t.Errorf("a report against itself: status %d, %s\n%s", status, errs, out)
	}
	if status, out, errs = hwtest(t, "--compare", here, "--quick"); status != 0 || !strings.Contains(out, "\nB: ") {
		t.Errorf("a report against this host: status %d, %s\n%s", status, errs, out)
	}
}

// TestLabels: what the labels say is what the report says.
func TestLabels(t *testing.T) {
	here := filepath.Join(t.TempDir(), "here.json")
	for _, row := range []struct{ change, want string }{
		{`"class":"none","walls":[{"name":"sentry-kvm","yes":false},{"name":"sentry-ptrace","yes":true},{"name":"vm","yes":false}]`,
			"bulkhead.dev/class=none\nbulkhead.dev/sentry=ptrace\nbulkhead.dev/vm=false\n"},
		{`"class":"full","walls":[{"name":"sentry-kvm","yes":true},{"name":"sentry-ptrace","yes":true},{"name":"vm","yes":true}]`,
			"bulkhead.dev/class=full\nbulkhead.dev/sentry=kvm\nbulkhead.dev/vm=true\n"},
		{`"class":"none","walls":[]`, "bulkhead.dev/class=none\nbulkhead.dev/sentry=none\nbulkhead.dev/vm=false\n"},
	} {
		text := `{"schema":1,"tool":"hwtest",` + row.change + `}`
		if err := os.WriteFile(here, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if status, out, errs := hwtest(t, "--from", here, "--labels"); status != 0 || out != row.want {
			t.Errorf("%s: status %d, %q, %s", row.change, status, out, errs)
		}
	}
}

func TestRequire(t *testing.T) {
	r, err := report.Read([]byte(quick()))
	if err != nil {
		t.Fatal(err)
	}
	asked := map[bool]bool{}
	for _, w := range r.Walls {
		if asked[w.Yes] {
			continue // one that can stand and one that cannot
		}
		asked[w.Yes] = true
		status, out, _ := hwtest(t, "--require", w.Name)
		if (status == 0) != w.Yes || status > refused || !strings.HasPrefix(out, w.Title+": ") {
			t.Errorf("--require %s: status %d, %q; the report says %v", w.Name, status, out, w.Yes)
		}
	}
	if status, out, errs := hwtest(t, "--require", "xen"); status != failed || out != "" || !strings.Contains(errs, "want one of sentry-kvm, ") {
		t.Errorf("--require xen: status %d, %q, %q", status, out, errs)
	}
}

// TestWrong is what a person gets wrong: one line, and status 2.
func TestWrong(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		args []string
		want string
	}{
		{[]string{"frobnicate"}, "frobnicate"},
		{[]string{"--frobnicate"}, "unknown flag"},
		{[]string{"--from", "/no/such"}, "no such file"},
		{[]string{"--from", bad}, "not a report of hwtest"},
		{[]string{"--compare", bad, bad}, "not a report of hwtest"},
		{[]string{"--compare", "a", "b", "c"}, "two reports"},
		{[]string{"--compare", "a", "--from", "b", "c"}, "leave one out"},
		{[]string{"--budget", "0s"}, "more than nothing"},
		{[]string{"gcp-script"}, "either --from URL or --embed"},
		{[]string{"gcp-script", "--from", "ftp://x"}, "gs://… or https://…"},
		{[]string{"--from", bad, "--html", "/no/such/dir/x"}, "not a report"},
	} {
		status, out, errs := hwtest(t, row.args...)
		if status != failed || !strings.Contains(errs, row.want) || strings.Count(errs, "\n") != 1 || out != "" {
			t.Errorf("%v: status %d, out %q, errors %q; want %q in one line", row.args, status, out, errs, row.want)
		}
	}
}

func TestHelp(t *testing.T) {
	status, out, _ := hwtest(t, "--help")
	for _, want := range append(verdict.Names(), "user-only", "Exit status: 0", "--compare", "gcp-script", "lab") {
		if status != 0 || !strings.Contains(out, want) {
			t.Errorf("--help lacks %q", want)
		}
	}
}

// TestScript runs the script for Google Cloud with a program that it carries.
func TestScript(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("needs bash: apt-get install bash")
	}
	out := quick()
	dir := t.TempDir()
	data, program, script, serial := filepath.Join(dir, "data"), filepath.Join(dir, "program"), filepath.Join(dir, "script"), filepath.Join(dir, "serial")
	text := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = --json ] && cat %s || echo table\n", data)
	for _, f := range []struct{ path, text string }{{data, out}, {program, text}, {serial, "[ 0.0] booting\n"}} {
		if err := os.WriteFile(f.path, []byte(f.text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := writeScript(&b, gcpOptions{}, program); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(script, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	// No modprobe and no dmesg of this host's: the script does without.
	run := exec.CommandContext(ctx, "bash", "-c", "modprobe() { :; }; dmesg() { :; }; . "+script)
	run.Env = append(os.Environ(), "HWTEST_SERIAL="+serial, "TMPDIR="+dir)
	if said, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	if r, err := report.ReadFile(serial); err != nil || r.Tool != "hwtest" {
		log, _ := os.ReadFile(serial)
		t.Errorf("%v in the console's log:\n%.300s", err, log)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "tmp.*")); left != nil {
		t.Errorf("the script left %v", left)
	}
}

// TestScriptFetches checks the other kind without a network: bash reads it, and
// a URL with a quote in it stays one word.
func TestScriptFetches(t *testing.T) {
	var b bytes.Buffer
	if err := writeScript(&b, gcpOptions{From: "gs://b/it's $(reboot)", PowerOff: true}, ""); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if !strings.Contains(text, `fetch 'gs://b/it'\''s $(reboot)' "$work/hwtest"`) || strings.Contains(text, "PROGRAM") || !strings.Contains(text, "poweroff") {
		t.Error(text)
	}
	check := exec.Command("bash", "-n")
	check.Stdin = strings.NewReader(text)
	if said, err := check.CombinedOutput(); err != nil {
		t.Errorf("bash: %v: %s", err, said)
	}
}

func TestProgress(t *testing.T) {
	var quiet, loud bytes.Buffer
	for _, row := range []struct {
		to       *bytes.Buffer
		terminal bool
	}{{&quiet, false}, {&loud, true}} {
		p := newProgress(row.to, row.terminal)
		p.say("first")
		p.show() // as the timer does
		p.say("second")
		p.end()
		p.say("third")
	}
	if quiet.Len() != 0 {
		t.Errorf("where nobody looks: %q", quiet.String())
	}
	if want := "\r\x1b[Kfirst …\r\x1b[Ksecond …\r\x1b[K"; loud.String() != want {
		t.Errorf("got %q, want %q", loud.String(), want)
	}
}

// conform checks text against schema.json, as far as that file uses JSON Schema.
func conform(t *testing.T, text []byte) []string {
	t.Helper()
	file, err := os.ReadFile("../schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	var value any
	if err := json.Unmarshal(file, &schema); err != nil {
		t.Fatalf("schema.json: %v", err)
	}
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	s := checker{root: schema}
	s.check("", schema, value)
	return s.problems
}

type checker struct {
	root     map[string]any
	problems []string
}

func (c *checker) fail(at, format string, args ...any) {
	c.problems = append(c.problems, at+": "+fmt.Sprintf(format, args...))
}

func (c *checker) check(at string, schema map[string]any, value any) {
	if ref, ok := schema["$ref"].(string); ok {
		schema = c.root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
	}
	if want, ok := schema["const"]; ok && fmt.Sprint(want) != fmt.Sprint(value) {
		c.fail(at, "%v, want %v", value, want)
	}
	if list, ok := schema["enum"].([]any); ok && !slices.Contains(list, value) {
		c.fail(at, "%v is none of %v", value, list)
	}
	if least, ok := schema["minimum"].(float64); ok && value.(float64) < least {
		c.fail(at, "%v is less than %v", value, least)
	}
	switch kind := schema["type"]; v := value.(type) {
	case map[string]any:
		if kind != "object" {
			c.fail(at, "an object, want %v", kind)
			return
		}
		c.object(at, schema, v)
	case []any:
		if kind != "array" {
			c.fail(at, "an array, want %v", kind)
			return
		}
		for i, item := range v {
			c.check(fmt.Sprintf("%s[%d]", at, i), schema["items"].(map[string]any), item)
		}
	case string:
		if kind != nil && kind != "string" {
			c.fail(at, "a string, want %v", kind)
		}
	case bool:
		if kind != nil && kind != "boolean" {
			c.fail(at, "a boolean, want %v", kind)
		}
	case float64:
		if kind == "integer" && v != float64(int64(v)) || kind != nil && kind != "integer" && kind != "number" {
			c.fail(at, "%v, want %v", v, kind)
		}
	case nil:
		c.fail(at, "null, want %v", kind)
	}
}

func (c *checker) object(at string, schema map[string]any, v map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	for _, name := range required {
		if _, there := v[name.(string)]; !there {
			c.fail(at, "no %v", name)
		}
	}
	for name, field := range v {
		if p, known := properties[name].(map[string]any); known {
			c.check(at+"."+name, p, field)
			continue
		}
		switch more := schema["additionalProperties"].(type) {
		case map[string]any:
			c.check(at+"."+name, more, field)
		case bool:
			if !more {
				c.fail(at, "%s is not in the schema", name)
			}
		}
	}
}

// TestConform: the check itself finds what is wrong.
func TestConform(t *testing.T) {
	out := quick()
	for _, change := range [][2]string{
		{`"class": "`, `"class": "x`}, {`"took_ms": `, `"took_ms": -`}, {`"yes": `, `"yes": 1, "no": `}, {`"walls": [`, `"wall": [`}, {`"modules": [`, `"modules": null, "x": [`},
	} {
		if !strings.Contains(out, change[0]) {
			t.Fatalf("no %q to change", change[0])
		}
		if problems := conform(t, []byte(strings.Replace(out, change[0], change[1], 1))); len(problems) == 0 {
			t.Errorf("%q passes the schema", change[1])
		}
	}
}
