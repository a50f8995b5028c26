package install

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A document of TOML (toml.io/en/v1.0.0), skimmed: which tables and keys it has and where
// it is malformed, but values stay text. What two definitions of one key mean together is
// left to the engines.
type document []statement

// statement is the header of a table, or a key with its value.
type statement struct {
	path   []string // whole: the table's and the key's
	header bool
	array  bool   // a header in [[ ]]
	value  string // as written
}

// has says whether anything is at path or below it.
func (d document) has(path []string) bool {
	return slices.ContainsFunc(d, func(s statement) bool {
		return len(s.path) >= len(path) && slices.Equal(s.path[:len(path)], path)
	})
}

// value is that of a key at the top.
func (d document) value(key string) (string, bool) {
	for _, s := range d {
		if !s.header && len(s.path) == 1 && s.path[0] == key {
			return s.value, true
		}
	}
	return "", false
}

// isDefault says whether a default_runtime_name is name.
func (d document) isDefault(name string) bool {
	return slices.ContainsFunc(d, func(s statement) bool {
		return !s.header && s.path[len(s.path)-1] == "default_runtime_name" && (s.value == strconv.Quote(name) || s.value == "'"+name+"'")
	})
}

// takesTable says why a table path cannot be put at the document's end.
func (d document) takesTable(path []string) error {
	for _, s := range d {
		if len(s.path) > len(path) || !slices.Equal(s.path, path[:len(s.path)]) || s.header && !s.array {
			continue
		}
		return fmt.Errorf("%s is no table that [%s] could stand below, as it is written; put that there by hand", tableName(s.path), tableName(path))
	}
	return nil
}

// tableName is path as a header has it.
func tableName(path []string) string {
	parts := make([]string, len(path))
	for i, part := range path {
		if parts[i] = part; part == "" || strings.ContainsFunc(part, func(r rune) bool { return !isBare(r) }) {
			parts[i] = quoted(part)
		}
	}
	return strings.Join(parts, ".")
}

func isBare(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-'
}

// deepest is how far arrays and inline tables may stand in each other, and how many parts
// a key may have.
const deepest = 64

// skim reads text. An error names the line that is no TOML.
func skim(text string) (document, error) {
	if !utf8.ValidString(text) {
		return nil, errors.New("is not TOML: it is not UTF-8")
	}
	s := &skimmer{text: strings.ReplaceAll(text, "\r\n", "\n")}
	d, err := s.document()
	if err != nil {
		return nil, fmt.Errorf("line %d is not TOML: %w", 1+strings.Count(s.text[:s.at], "\n"), err)
	}
	return d, nil
}

type skimmer struct {
	text string
	at   int
}

// next is the byte to be read, 0 at the end; a 0 in the text is refused as any other byte
// that nothing begins with.
func (s *skimmer) next() byte {
	if s.at < len(s.text) {
		return s.text[s.at]
	}
	return 0
}

func (s *skimmer) take(word string) bool {
	if strings.HasPrefix(s.text[s.at:], word) {
		s.at += len(word)
		return true
	}
	return false
}

func (s *skimmer) blanks() {
	for s.next() == ' ' || s.next() == '\t' {
		s.at++
	}
}

// lineEnd takes the rest of a line, which says nothing more.
func (s *skimmer) lineEnd() error {
	s.blanks()
	if s.next() == '#' {
		for s.at < len(s.text) && s.text[s.at] != '\n' {
			if control(s.text[s.at]) {
				return errors.New("a control character in a comment")
			}
			s.at++
		}
	}
	if s.at == len(s.text) || s.take("\n") {
		return nil
	}
	return fmt.Errorf("%s is not expected here", s.word())
}

func control(c byte) bool { return c < ' ' && c != '\t' || c == 0x7f }

// word is the next character, for complaints.
func (s *skimmer) word() string {
	if s.at == len(s.text) {
		return "the end"
	}
	r, _ := utf8.DecodeRuneInString(s.text[s.at:])
	return strconv.QuoteRune(r)
}

func (s *skimmer) document() (d document, err error) {
	var table []string
	for s.at < len(s.text) {
		s.blanks()
		if c := s.next(); c != '#' && c != '\n' && s.at < len(s.text) {
			var found statement
			if c == '[' {
				if found, err = s.header(); err == nil {
					table = found.path
				}
			} else {
				found, err = s.pair(table, 0)
			}
			if err != nil {
				return nil, err
			}
			d = append(d, found)
		}
		if err := s.lineEnd(); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (s *skimmer) header() (statement, error) {
	h := statement{header: true}
	end := "]"
	if s.at++; s.take("[") {
		h.array, end = true, "]]"
	}
	var err error
	if h.path, err = s.key(); err != nil {
		return h, err
	}
	if !s.take(end) {
		return h, fmt.Errorf("%s where the header of a table should end", s.word())
	}
	return h, nil
}

// pair is a key = value of a table.
func (s *skimmer) pair(table []string, depth int) (statement, error) {
	key, err := s.key()
	if err != nil {
		return statement{}, err
	}
	if !s.take("=") {
		return statement{}, fmt.Errorf("%s where a = should be", s.word())
	}
	s.blanks()
	begin := s.at
	if err := s.value(depth); err != nil {
		return statement{}, err
	}
	return statement{path: slices.Concat(table, key), value: s.text[begin:s.at]}, nil
}

// key is a dotted one, with the blanks around it.
func (s *skimmer) key() (path []string, err error) {
	for {
		s.blanks()
		begin := s.at
		var part string
		switch s.next() {
		case '"', '\'':
			if err := s.line(s.next()); err != nil {
				return nil, err
			}
			if part, err = unescape(s.text[begin:s.at]); err != nil {
				return nil, err
			}
		default:
			for isBare(rune(s.next())) {
				s.at++
			}
			if part = s.text[begin:s.at]; part == "" {
				return nil, fmt.Errorf("%s where a key should be", s.word())
			}
		}
		if path = append(path, part); len(path) > deepest { // each statement below it keeps a copy
			return nil, errors.New("a key has too many parts")
		}
		if s.blanks(); !s.take(".") {
			return path, nil
		}
	}
}

// line takes a string of one line, with its quotes.
func (s *skimmer) line(quote byte) error {
	for s.at++; s.at < len(s.text) && !control(s.text[s.at]); s.at++ {
		switch c := s.text[s.at]; {
		case c == quote:
			s.at++
			return nil
		case c == '\\' && quote == '"':
			s.at++
			if s.at == len(s.text) || control(s.text[s.at]) {
				return errors.New("a string has no end")
			}
		}
	}
	return errors.New("a string has no end")
}

// lines takes a string of several lines, whose three quotes are taken.
func (s *skimmer) lines(quotes string) error {
	for s.at < len(s.text) {
		switch c := s.text[s.at]; {
		case s.take(quotes):
			for range 2 { // quotes at its end are its own
				s.take(quotes[:1])
			}
			return nil
		case c == '\\' && quotes[0] == '"':
			s.at = min(s.at+2, len(s.text))
		case control(c) && c != '\n':
			return errors.New("a control character in a string")
		default:
			s.at++
		}
	}
	return errors.New("a string has no end")
}

// unescape is what a string of one line means.
func unescape(text string) (string, error) {
	inner := text[1 : len(text)-1]
	if text[0] == '\'' || !strings.Contains(inner, `\`) {
		return inner, nil
	}
	var b strings.Builder
	for i := 0; i < len(inner); i++ {
		if inner[i] != '\\' {
			b.WriteByte(inner[i])
			continue
		}
		i++ // line has seen to it that something stands there
		if at := strings.IndexByte(`btnfr"\`, inner[i]); at >= 0 {
			b.WriteByte("\b\t\n\f\r\"\\"[at])
			continue
		}
		size := map[byte]int{'u': 4, 'U': 8}[inner[i]]
		if size == 0 || len(inner)-i-1 < size {
			return "", fmt.Errorf("%s has an escape that is none", text)
		}
		n, err := strconv.ParseUint(inner[i+1:i+1+size], 16, 32)
		if err != nil || !utf8.ValidRune(rune(n)) {
			return "", fmt.Errorf("%s has an escape that is none", text)
		}
		b.WriteRune(rune(n))
		i += size
	}
	return b.String(), nil
}

func (s *skimmer) value(depth int) error {
	if depth > deepest {
		return errors.New("arrays or tables stand in each other too deep")
	}
	switch c := s.next(); {
	case s.take(`"""`):
		return s.lines(`"""`)
	case s.take(`'''`):
		return s.lines(`'''`)
	case c == '"' || c == '\'':
		return s.line(c)
	case c == '[':
		return s.array(depth)
	case c == '{':
		return s.inline(depth)
	}
	return s.scalar()
}

func (s *skimmer) array(depth int) error {
	s.at++
	for {
		if err := s.gap(); err != nil {
			return err
		}
		if s.take("]") {
			return nil
		}
		if err := s.value(depth + 1); err != nil {
			return err
		}
		if err := s.gap(); err != nil {
			return err
		}
		if !s.take(",") && s.next() != ']' {
			return fmt.Errorf("%s in an array", s.word())
		}
	}
}

// gap takes what may stand between the values of an array: blanks, ends of lines, comments.
func (s *skimmer) gap() error {
	for {
		s.blanks()
		if c := s.next(); c != '#' && c != '\n' {
			return nil
		}
		if err := s.lineEnd(); err != nil {
			return err
		}
	}
}

func (s *skimmer) inline(depth int) error {
	s.at++
	if s.blanks(); s.take("}") {
		return nil
	}
	for {
		if _, err := s.pair(nil, depth+1); err != nil {
			return err
		}
		s.blanks()
		if s.take("}") {
			return nil
		}
		if !s.take(",") {
			return fmt.Errorf("%s in an inline table", s.word())
		}
	}
}

// scalar takes a number, a date or a word.
func (s *skimmer) scalar() error {
	begin := s.at
	for isBare(rune(s.next())) || strings.IndexByte("+.:", s.next()) >= 0 && s.next() != 0 {
		s.at++
		// A blank may stand between a date and a time of day.
		if s.at-begin == len("2006-01-02") && s.next() == ' ' && s.text[begin+4] == '-' && s.at+1 < len(s.text) && s.text[s.at+1] >= '0' && s.text[s.at+1] <= '9' {
			s.at++
		}
	}
	switch word := s.text[begin:s.at]; {
	case word == "":
		return fmt.Errorf("%s where a value should be", s.word())
	case word == "true", word == "false", word == "inf", word == "nan":
	case strings.IndexByte("+-0123456789", word[0]) < 0:
		return fmt.Errorf("%q is no value (strings have quotes)", word)
	}
	return nil
}
