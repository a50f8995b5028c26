package install

import (
	"fmt"
	"slices"
	"strings"
)

// vmSettings is the file of settings of the handler bulkhead-vm (ConfigPath): containerd
// 1.x takes nothing but such a path (pkg/runtimeoptions/v1).
const vmSettings = "/etc/bulkhead/vm.toml"

// criPlugin is the name of containerd's plugin that has runtime handlers, by the version
// of its configuration (containerd, docs/PLUGINS.md; docs/cri/config.md).
var criPlugin = map[string]string{
	"1": "cri",
	"2": "io.containerd.grpc.v1.cri",
	"3": "io.containerd.cri.v1.runtime",
}

// handlers are those of containerd, and what stands in their tables: %s is the table's name.
var handlers = []struct{ name, body string }{
	{handler, `[%[1]s]
  runtime_type = "io.containerd.bulkhead.v1"
  pod_annotations = ["dev.bulkhead.*"]
`},
	{handlerVM, `[%[1]s]
  runtime_type = "io.containerd.bulkhead.v1"
  pod_annotations = ["dev.bulkhead.*"]
  [%[1]s.options]
    ConfigPath = "` + vmSettings + `"
`},
}

// runc's handler is containerd's own, but only where the file has none: tables of ours
// alone would take it away, and with it the default (containerd 1.6 decodes the map of
// runtimes anew; seen by containerd config dump).
const runcBody = `[%[1]s] # the handler that containerd has where a file has none
  runtime_type = "io.containerd.runc.v2"
`

// cri reads the configuration's version and gives the path of the tables of handlers.
func cri(d document) ([]string, error) {
	version := "1" // what containerd takes a file for that does not say
	if v, ok := d.value("version"); ok {
		version = v
	}
	plugin := criPlugin[version]
	if plugin == "" {
		return nil, fmt.Errorf("version = %s is none that is known here (1, 2, 3)", version)
	}
	return []string{"plugins", plugin, "containerd", "runtimes"}, nil
}

// place is where handlers go: the line of the version that the file has or is to have, and the
// path of their table in it. d is what stands in old beside our block.
func place(b *block, old content, d document) (version string, runtimes []string, err error) {
	if version, err = versionLine(b, old); err != nil {
		return "", nil, err
	}
	head, _ := skim(version)
	runtimes, err = cri(append(head, d...))
	return version, runtimes, err
}

func containerdPut(_ Host, old content) (content, []string, error) {
	b, rest, d, err := apart(old)
	if err != nil {
		return old, nil, err
	}
	begin, runtimes, err := place(b, old, d)
	if err != nil {
		return old, nil, err
	}
	var notes []string
	body := ""
	runc := append(slices.Clone(runtimes), "runc")
	if !d.has(runtimes) || b.has(old, runc) && !d.has(runc) {
		body = fmt.Sprintf(runcBody, tableName(runc))
	}
	for _, h := range handlers {
		path := append(slices.Clone(runtimes), h.name)
		if d.has(path) {
			notes = append(notes, "the handler "+h.name+" has settings of your own and stays as it is")
			continue
		}
		if err := d.takesTable(path); err != nil {
			return old, nil, err
		}
		body += fmt.Sprintf(h.body, tableName(path))
	}
	if off, _ := d.value("disabled_plugins"); strings.Contains(off, `"cri"`) || strings.Contains(off, `"`+runtimes[1]+`"`) {
		notes = append(notes, "disabled_plugins has the CRI plugin: Kubernetes finds no handlers; ctr and nerdctl need none")
	}
	if from, _ := d.value("imports"); strings.ContainsAny(from, `"'`) {
		notes = append(notes, "has imports: if one of those files has a table of "+runtimes[1]+", that may stand in this one's place")
	}
	if body == "" {
		return rest, notes, nil
	}
	return b.put(old, begin, body), notes, nil
}

// versionLine is what a file of ours begins with: 2, which every containerd from 1.3 on
// reads, or what has been made of it. It is empty where the file is somebody's.
func versionLine(b *block, old content) (string, error) {
	switch {
	case !old.there:
		return "version = 2\n", nil
	case b == nil || b.mark != blockNew:
		return "", nil
	}
	d, err := skim(old.text)
	if err != nil {
		return "", err
	}
	if v, ok := d.value("version"); ok {
		return "version = " + v + "\n", nil
	}
	return "", nil
}

func containerdRemove(_ Host, old content) (content, []string, error) {
	b, rest, d, err := apart(old)
	if err != nil {
		return old, nil, err
	}
	begin, runtimes, err := place(b, old, d)
	if err != nil {
		return old, nil, err
	}
	var notes []string
	for _, h := range handlers {
		stays := false
		for _, plugin := range criPlugin {
			stays = stays || d.has([]string{"plugins", plugin, "containerd", "runtimes", h.name})
		}
		if stays {
			notes = append(notes, "the handler "+h.name+" is not from bulkhead install and stays")
		} else if b != nil && d.isDefault(h.name) {
			return old, nil, fmt.Errorf("%s is the default_runtime_name; choose another first", h.name)
		}
	}
	if rest.there {
		rest.text = begin + rest.text // others' tables are in a file of ours now, and need it
	}
	if runc := append(runtimes, "runc"); b.has(old, runc) && d.has(runtimes) && !d.has(runc) {
		if !strings.HasSuffix(rest.text, "\n") {
			rest.text += "\n"
		}
		rest.text += fmt.Sprintf(runcBody, tableName(runc)) // handlers have come that would take it away
	}
	return rest, notes, nil
}

func settingsPut(_ Host, old content) (content, []string, error) {
	b, err := findBlock(old.text)
	if err != nil {
		return old, nil, err
	}
	if old.there && b == nil {
		return old, []string{`is there already and stays as it is; the handler bulkhead-vm wants isolation = "vm" in it`}, nil
	}
	return b.put(old, "", "isolation = \"vm\"\n"), nil, nil
}

func settingsRemove(_ Host, old content) (content, []string, error) {
	b, err := findBlock(old.text)
	if err != nil {
		return old, nil, err
	}
	return b.without(old), nil, nil
}
