package bundle

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "rewrite docs/oci.md")

// paths lists every field below t: of a struct its members by their JSON names, [] for the
// elements of an array of structs and {} for those of a map.
func paths(t reflect.Type, at string) (all []string) {
	switch {
	case t.Kind() == reflect.Pointer:
		return paths(t.Elem(), at)
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		return paths(t.Elem(), at+"[]")
	case t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct:
		return paths(t.Elem(), at+"{}")
	case t.Kind() != reflect.Struct:
		return []string{at}
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			all = append(all, paths(f.Type, at)...)
		case at == "":
			all = append(all, paths(f.Type, name)...)
		default:
			all = append(all, paths(f.Type, at+"."+name)...)
		}
	}
	return all
}

// covers says that the row is about the field.
func (f Field) covers(path string) bool {
	rest, ok := strings.CutPrefix(path, f.Path)
	return ok && (rest == "" || strings.ContainsAny(rest[:1], ".[{"))
}

// TestFields: every field that the specification has, and a newer one adds, has one row.
func TestFields(t *testing.T) {
	fields := Fields()
	all := paths(reflect.TypeFor[specs.Spec](), "")
	for _, path := range all {
		var rows []string
		for _, f := range fields {
			if f.covers(path) {
				rows = append(rows, f.Path)
			}
		}
		if len(rows) != 1 {
			t.Errorf("%s has the rows %q, want one", path, rows)
		}
	}
	for _, f := range fields {
		if !slices.ContainsFunc(all, f.covers) {
			t.Errorf("%s is no field", f.Path)
		}
		for _, v := range []Verdict{f.Sentry, f.VM} {
			if !slices.Contains([]Verdict{Honoured, Refused, Meaningless}, v) || v != Honoured && f.Note == "" {
				t.Errorf("%s: %s, %q", f.Path, v, f.Note)
			}
		}
	}
}

// TestRefusedFields: what the table says to be refused is, by its name.
func TestRefusedFields(t *testing.T) {
	examples := map[string]func(*specs.Spec){
		"mounts[].uidMappings": func(s *specs.Spec) { s.Mounts[0].UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"mounts[].gidMappings": func(s *specs.Spec) { s.Mounts[0].GIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"solaris":              func(s *specs.Spec) { s.Solaris = &specs.Solaris{} },
		"windows":              func(s *specs.Spec) { s.Windows = &specs.Windows{} },
		"vm":                   func(s *specs.Spec) { s.VM = &specs.VM{} },
		"zos":                  func(s *specs.Spec) { s.ZOS = &specs.ZOS{} },
		"freebsd":              func(s *specs.Spec) { s.FreeBSD = &specs.FreeBSD{} },
		"linux.uidMappings":    func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"linux.gidMappings":    func(s *specs.Spec) { s.Linux.GIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"linux.netDevices":     func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}} },
		"linux.intelRdt":       func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} },
		"linux.memoryPolicy": func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolDefault}
		},
		"linux.personality.flags": func(s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux, Flags: []specs.LinuxPersonalityFlag{"X"}}
		},
		"linux.resources.memory.disableOOMKiller": func(s *specs.Spec) {
			yes := true
			s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{DisableOOMKiller: &yes}}
		},
		"process.scheduler.priority": scheduler(func(s *specs.Scheduler) { s.Priority = 1 }),
		"process.scheduler.flags":    scheduler(func(s *specs.Scheduler) { s.Flags = []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork} }),
		"process.scheduler.runtime":  scheduler(func(s *specs.Scheduler) { s.Runtime = 1 }),
		"process.scheduler.deadline": scheduler(func(s *specs.Scheduler) { s.Deadline = 1 }),
		"process.scheduler.period":   scheduler(func(s *specs.Scheduler) { s.Period = 1 }),
	}
	for _, f := range Fields() {
		if f.Sentry != Refused {
			continue
		}
		example, ok := examples[f.Path]
		if !ok {
			t.Errorf("%s has no example here", f.Path)
			continue
		}
		s, err := Parse([]byte(edit(t, example)))
		if err != nil {
			t.Fatal(err)
		}
		name := strings.ReplaceAll(f.Path, "[]", "[0]")
		if strings.HasPrefix(name, "mounts[0].") {
			name = "mounts[0]" // the options say it too
		}
		if err := Check(s); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("%s: %v", f.Path, err)
		}
	}
}

func scheduler(change func(*specs.Scheduler)) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther}
		change(s.Process.Scheduler)
	}
}

// TestFieldsPage: docs/oci.md is the table.
func TestFieldsPage(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "oci.md")
	var want bytes.Buffer
	want.WriteString("# What becomes of a configuration's fields\n\n" +
		"Those of OCI's runtime-spec " + specs.Version + ", behind either wall. `bulkhead features --fields` prints this table, and\n" +
		"`go test ./runtime/bundle -run TestFieldsPage -update` writes it here, both from runtime/bundle/fields.go, by which\n" +
		"bulkhead refuses. A field that neither this specification nor a newer one of 1.x has is passed over.\n\n")
	if err := WriteFields(&want); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is not what the table says (%v): go test ./runtime/bundle -run TestFieldsPage -update", path, err)
	}
}

// TestCheckMachine: what a machine alone cannot have is refused by its name.
func TestCheckMachine(t *testing.T) {
	s := Default()
	if err := CheckMachine(s); err != nil {
		t.Error(err)
	}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1}}
	if err := Check(s); err != nil {
		t.Error(err)
	}
	if err := CheckMachine(s); err == nil || !strings.HasPrefix(err.Error(), "linux.timeOffsets: ") {
		t.Error(err)
	}
}
