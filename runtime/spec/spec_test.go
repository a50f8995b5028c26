package spec

import (
	"encoding/json"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestMembers: a member that a newer specification adds has a place here.
func TestMembers(t *testing.T) {
	for _, row := range []struct{ theirs, ours reflect.Type }{
		{reflect.TypeFor[specs.Spec](), reflect.TypeFor[whole]()},
		{reflect.TypeFor[specs.Linux](), reflect.TypeFor[linux]()},
	} {
		for i := range row.theirs.NumField() {
			theirs := row.theirs.Field(i)
			ours, there := row.ours.FieldByName(theirs.Name)
			if !there {
				t.Errorf("%v.%s is not read", row.theirs, theirs.Name)
			}
			if there && ours.Tag.Get("json") != theirs.Tag.Get("json") {
				t.Errorf("%v.%s is %q here, want %q", row.theirs, theirs.Name, ours.Tag.Get("json"), theirs.Tag.Get("json"))
			}
		}
	}
}

// fill gives all that v has some value.
func fill(v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Pointer:
		if depth > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), depth)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), depth-1)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, depth)
		fill(value, depth)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	}
}

// TestAsTheirs: what is read is as specs-go reads it, but for what is only there.
func TestAsTheirs(t *testing.T) {
	var full specs.Spec
	fill(reflect.ValueOf(&full).Elem(), 8)
	text, err := json.Marshal(&full)
	if err != nil {
		t.Fatal(err)
	}
	want := new(specs.Spec)
	if err := json.Unmarshal(text, want); err != nil {
		t.Fatal(err)
	}
	want.Solaris, want.Windows, want.VM, want.ZOS, want.FreeBSD = &specs.Solaris{}, &specs.Windows{}, &specs.VM{}, &specs.ZOS{}, &specs.FreeBSD{}
	want.Linux.IntelRdt = &specs.LinuxIntelRdt{}
	got, err := Parse(text)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Parse: %+v, %v\nwant %+v", got, err, want)
	}
	again, err := json.Marshal(struct{ S *Spec }{&Spec{*got}})
	if err != nil {
		t.Fatal(err)
	}
	var back struct{ S *Spec }
	if err := json.Unmarshal(again, &back); err != nil || !reflect.DeepEqual(&back.S.Spec, want) {
		t.Errorf("and back: %+v, %v", back.S, err)
	}
}

func TestParse(t *testing.T) {
	for _, row := range []struct{ text, err string }{
		{`{}`, ""}, {`{"windows":null,"vm":null,"linux":null,"more":[1]}`, ""},
		{``, "unexpected end"}, {`[]`, "cannot unmarshal"}, {`{"process":{"args":1}}`, "process.args"}, {`{"windows":`, "unexpected end"},
	} {
		s, err := Parse([]byte(row.text))
		if row.err == "" && (err != nil || s.Windows != nil || s.VM != nil || s.Linux != nil) {
			t.Errorf("%s: %+v, %v", row.text, s, err)
		}
		if row.err != "" && (err == nil || !strings.Contains(err.Error(), row.err)) {
			t.Errorf("%s: %v, want %s", row.text, err, row.err)
		}
	}
	var w struct{ S *Spec }
	if err := json.Unmarshal([]byte(`{"S":null}`), &w); err != nil || w.S != nil {
		t.Errorf("null: %v, %v", w.S, err)
	}
}

// firstVariable has this test's program read one configuration, as the first that it does.
const firstVariable = "BULKHEAD_SPEC_FIRST"

func TestMain(m *testing.M) {
	text := []byte(`{"ociVersion":"1.2.0","process":{"args":["x"],"cwd":"/"},"root":{"path":"r"},"linux":{}}`)
	var err error
	switch os.Getenv(firstVariable) {
	case "":
		os.Exit(m.Run())
	case "ours":
		_, err = Parse(text)
	case "theirs":
		err = json.Unmarshal(text, new(specs.Spec))
	}
	if err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// BenchmarkFirst runs a program that reads a configuration and ends: reading nothing, with
// Parse, and with encoding/json and specs-go alone.
func BenchmarkFirst(b *testing.B) {
	for _, how := range []string{"nothing", "ours", "theirs"} {
		b.Run(how, func(b *testing.B) {
			for b.Loop() {
				cmd := exec.Command(os.Args[0])
				cmd.Env = []string{firstVariable + "=" + how}
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
