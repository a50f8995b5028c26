package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// An object of JSON as it stands in its text, so that a member can be put in or taken out
// and all else stays to the byte.
type object struct {
	at      int // the opening brace
	members []member
}

// member is a key with its value; at, valueAt and end are offsets in the text.
type member struct {
	key, value       string // value as written
	at, valueAt, end int
	before           string // the space before the key
}

func (m member) String() string { return quoted(m.key) + ": " + m.value }

// quoted is s as a string of JSON, which is one of TOML as well.
func quoted(s string) string {
	text, _ := json.Marshal(s) // of a string, it cannot fail
	return string(text)
}

// unquoted is the string that text is, "" if it is none.
func unquoted(text string) (s string) {
	if json.Unmarshal([]byte(text), &s) != nil {
		return ""
	}
	return s
}

// checkJSON says where text is not JSON.
func checkJSON(text string) error {
	var any json.RawMessage
	err := json.Unmarshal([]byte(text), &any)
	if wrong := (*json.SyntaxError)(nil); errors.As(err, &wrong) {
		at := min(int(wrong.Offset), len(text))
		return fmt.Errorf("line %d is not JSON: %w", 1+strings.Count(text[:at], "\n"), err)
	}
	return err
}

// parseObject reads the object at text[at:], where space may stand first. The text has
// passed checkJSON. Two members of one name are an error: which of them counts is the
// reader's whim.
func parseObject(text string, at int) (*object, error) {
	at = skipSpace(text, at)
	if text[at] != '{' {
		return nil, errors.New("it is no object")
	}
	o := &object{at: at}
	seen := map[string]bool{}
	for at++; ; at++ { // behind a brace or a comma
		m := member{at: skipSpace(text, at)}
		if text[m.at] == '}' {
			return o, nil
		}
		m.before = text[at:m.at]
		keyEnd := skipValue(text, m.at)
		m.key = unquoted(text[m.at:keyEnd])
		m.valueAt = skipSpace(text, skipSpace(text, keyEnd)+1)
		m.end = skipValue(text, m.valueAt)
		m.value = text[m.valueAt:m.end]
		if seen[m.key] {
			return nil, fmt.Errorf("%q stands there twice", m.key)
		}
		seen[m.key] = true
		o.members = append(o.members, m)
		if at = skipSpace(text, m.end); text[at] == '}' {
			return o, nil
		}
	}
}

func skipSpace(text string, at int) int {
	for at < len(text) && strings.IndexByte(" \t\r\n", text[at]) >= 0 {
		at++
	}
	return at
}

// skipValue is the end of the value that begins at text[at].
func skipValue(text string, at int) int {
	depth := 0
	for at < len(text) {
		switch text[at] {
		case '"':
			for at++; text[at] != '"'; at++ {
				if text[at] == '\\' {
					at++
				}
			}
			at++
		case '{', '[':
			depth++
			at++
		case '}', ']':
			if depth == 0 {
				return at // of what a number or a word stands in
			}
			depth--
			at++
		case ',', ':', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return at
			}
			at++
			continue
		default: // a number or a word
			at++
			if at < len(text) && strings.IndexByte(",:]} \t\r\n", text[at]) < 0 {
				continue
			}
		}
		if depth == 0 {
			return at
		}
	}
	return at
}

// find is the index of a key, -1 if it is not there.
func (o *object) find(key string) int {
	for i, m := range o.members {
		if m.key == key {
			return i
		}
	}
	return -1
}

// lead is the space to put before a further member: a new line as far in as the others,
// or none where they stand on one line.
func (o *object) lead(text string) string {
	var before string
	if n := len(o.members); n > 0 {
		before = o.members[n-1].before
	} else if before = text[o.at+1 : skipSpace(text, o.at+1)]; strings.Contains(before, "\n") {
		return "\n    "
	}
	i := strings.LastIndexByte(before, '\n')
	if i < 0 {
		return ""
	}
	if i > 0 && before[i-1] == '\r' {
		i--
	}
	return before[i:]
}

// insert gives text with m as the object's last member; first is the space before it
// where it is the only one.
func (o *object) insert(text string, m member, first string) string {
	n := len(o.members)
	if n == 0 {
		return text[:o.at+1] + first + m.String() + text[o.at+1:]
	}
	lead := o.lead(text)
	if lead == "" {
		lead = " "
	}
	end := o.members[n-1].end
	return text[:end] + "," + lead + m.String() + text[end:]
}

// remove gives text without the object's member i; it undoes insert.
func (o *object) remove(text string, i int) string {
	m := o.members[i]
	switch {
	case i > 0:
		return text[:o.members[i-1].end] + text[m.end:]
	case len(o.members) > 1:
		return text[:m.at] + text[o.members[1].at:]
	}
	return text[:o.at+1] + text[m.end:]
}
