package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// entry is a runtime of daemon.json (dockerd(8), --add-runtime; moby, api/types/system/runtime.go).
type entry struct {
	Path string   `json:"path"`
	Args []string `json:"runtimeArgs,omitempty"`
}

// dockerEntries are those that we write.
func dockerEntries(program string) []member {
	path := quoted(program)
	return []member{
		{key: handler, value: `{"path": ` + path + `}`},
		{key: handlerVM, value: `{"path": ` + path + `, "runtimeArgs": ["--isolation=vm"]}`},
	}
}

// ours tells an entry that looks like one that we write from one that somebody wrote.
func ours(m member) bool {
	var e entry
	in := json.NewDecoder(strings.NewReader(m.value))
	in.DisallowUnknownFields()
	if in.Decode(&e) != nil || filepath.Base(e.Path) != "bulkhead" {
		return false
	}
	return m.key == handler && len(e.Args) == 0 || m.key == handlerVM && slices.Equal(e.Args, []string{"--isolation=vm"})
}

// newJSON begins a file of ours. Two spaces are what tells it, when it is to go, from one
// that had been empty (dockerPut indents by four there).
const newJSON = "{\n  \"runtimes\": {\n    \"" + handler + `": `

func dockerPut(h Host, old content) (content, []string, error) {
	entries := dockerEntries(h.Program)
	if !old.there {
		return content{true, newJSON + entries[0].value + ",\n    " + entries[1].String() + "\n  }\n}\n"}, nil, nil
	}
	text := old.text
	_, runtimes, err := dockerObjects(text)
	if err != nil {
		return old, nil, err
	}
	if runtimes == nil {
		return content{true, dockerBegin(text, entries)}, nil, nil
	}
	var notes []string
	for _, e := range entries {
		if _, runtimes, err = dockerObjects(text); err != nil {
			return old, nil, err
		}
		switch i := runtimes.find(e.key); {
		case i < 0:
			text = runtimes.insert(text, e, "")
		case ours(runtimes.members[i]):
			var is, want entry
			m := runtimes.members[i]
			json.Unmarshal([]byte(m.value), &is) // ours has read it
			json.Unmarshal([]byte(e.value), &want)
			if is.Path != want.Path {
				text = text[:m.valueAt] + e.value + text[m.end:]
			}
		default:
			notes = append(notes, "the runtime "+e.key+" has settings of your own and stays as it is")
		}
	}
	return content{true, text}, notes, nil
}

// dockerBegin puts runtimes where there are none. What it writes between the brace and
// the first entry, dockerRemove knows again.
func dockerBegin(text string, entries []member) string {
	top, _ := parseObject(text, 0)
	lead, inner := top.lead(text), ""
	if i := strings.LastIndexByte(lead, '\n'); i >= 0 {
		inner = lead + lead[i+1:]
		if lead[i+1:] == "" {
			inner = lead + "    "
		}
	}
	value := "{" + inner + entries[0].String() + "," + inner + entries[1].String() + lead + "}"
	if inner == "" {
		value = "{ " + entries[0].String() + ", " + entries[1].String() + " }"
	}
	return top.insert(text, member{key: "runtimes", value: value}, lead)
}

func dockerRemove(_ Host, old content) (content, []string, error) {
	if !old.there {
		return old, nil, nil
	}
	text := old.text
	top, runtimes, err := dockerObjects(text)
	if err != nil || runtimes == nil {
		return old, nil, err
	}
	begun := runtimes.at+1 < len(text) && strings.IndexByte(" \t\r\n", text[runtimes.at+1]) >= 0
	var notes []string
	for _, key := range []string{handler, handlerVM} {
		i := runtimes.find(key)
		if i < 0 {
			continue
		}
		if !ours(runtimes.members[i]) {
			notes = append(notes, "the runtime "+key+" has settings of your own and stays")
			continue
		}
		if d := top.find("default-runtime"); d >= 0 && unquoted(top.members[d].value) == key {
			return old, nil, fmt.Errorf("%s is docker's default-runtime; choose another first", key)
		}
		text = runtimes.remove(text, i)
		if top, runtimes, err = dockerObjects(text); err != nil {
			return old, nil, err
		}
	}
	if text == old.text {
		return old, notes, nil
	}
	if begun && len(runtimes.members) == 0 {
		text = top.remove(text, top.find("runtimes"))
	}
	if text == "{\n}\n" && strings.HasPrefix(old.text, newJSON) {
		return content{}, notes, nil
	}
	return content{true, text}, notes, nil
}

// dockerObjects are the whole of daemon.json and the object runtimes in it, nil if none.
func dockerObjects(text string) (top, runtimes *object, err error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil, errors.New("is empty; remove it, or write {} to it")
	}
	if err := checkJSON(text); err != nil {
		return nil, nil, err
	}
	if top, err = parseObject(text, 0); err != nil {
		return nil, nil, fmt.Errorf("is no object of JSON: %w", err)
	}
	i := top.find("runtimes")
	if i < 0 {
		return top, nil, nil
	}
	if runtimes, err = parseObject(text, top.members[i].valueAt); err != nil {
		return nil, nil, fmt.Errorf("runtimes: %w", err)
	}
	return top, runtimes, nil
}
