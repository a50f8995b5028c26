package oci

import (
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func itoa(n int) string { return strconv.Itoa(n) }

// schema judges JSON by runtime-spec's JSON Schemas (draft 4), as far as they go: every
// keyword that one of them has is known here, and another is an error.
type schema struct {
	dir   string
	files map[string]map[string]any
}

// adheres demands that text keeps to a schema of the specification's.
func (x *trial) adheres(name, text string) {
	dir, err := specification()
	if err != nil {
		x.Fatal(err)
	}
	s := &schema{dir: filepath.Join(dir, "schema"), files: map[string]map[string]any{}}
	var value any
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		x.fatalf("no JSON: %v\n%s", err, text)
	}
	for _, complaint := range s.check(value, s.load(name), name, "") {
		x.errorf("against %s: %s", name, complaint)
	}
}

func (s *schema) load(file string) map[string]any {
	if s.files[file] == nil {
		text, err := os.ReadFile(filepath.Join(s.dir, file))
		if err != nil {
			panic(err)
		}
		var whole map[string]any
		if err := json.Unmarshal(text, &whole); err != nil {
			panic(err)
		}
		s.files[file] = whole
	}
	return s.files[file]
}

// resolve follows "file.json#/definitions/name".
func (s *schema) resolve(ref, in string) (map[string]any, string) {
	file, pointer, _ := strings.Cut(ref, "#")
	if file == "" {
		file = in
	}
	at := s.load(file)
	for step := range strings.SplitSeq(strings.Trim(pointer, "/"), "/") {
		if step != "" {
			at = at[step].(map[string]any)
		}
	}
	return at, file
}

func (s *schema) check(value any, rules map[string]any, in, at string) (complaints []string) {
	complain := func(format string, args ...any) {
		complaints = append(complaints, at+": "+fmt.Sprintf(format, args...))
	}
	object, isObject := value.(map[string]any)
	list, isList := value.([]any)
	text, isText := value.(string)
	number, isNumber := value.(json.Number)
	for keyword, rule := range rules {
		switch keyword {
		case "description", "$schema", "id", "definitions", "title", "format":
		case "$ref":
			to, file := s.resolve(rule.(string), in)
			complaints = append(complaints, s.check(value, to, file, at)...)
		case "type":
			if !hasType(value, rule) {
				complain("%v is no %v", value, rule)
			}
		case "enum":
			if !slices.ContainsFunc(rule.([]any), func(one any) bool { return reflect.DeepEqual(one, value) }) {
				complain("%v is none of %v", value, rule)
			}
		case "pattern":
			if isText && !regexp.MustCompile(rule.(string)).MatchString(text) {
				complain("%q does not match %s", text, rule)
			}
		case "minLength":
			if isText && float64(len(text)) < rule.(float64) {
				complain("%q is too short", text)
			}
		case "minimum", "maximum":
			if isNumber {
				n, _, _ := big.ParseFloat(number.String(), 10, 100, big.ToNearestEven)
				if c := n.Cmp(big.NewFloat(rule.(float64))); keyword == "minimum" && c < 0 || keyword == "maximum" && c > 0 {
					complain("%v is beyond the %s of %v", number, keyword, rule)
				}
			}
		case "minItems":
			if isList && float64(len(list)) < rule.(float64) {
				complain("has %d entries", len(list))
			}
		case "required":
			for _, key := range rule.([]any) {
				if _, ok := object[key.(string)]; isObject && !ok {
					complain("%s is missing", key)
				}
			}
		case "properties":
			for key, to := range rule.(map[string]any) {
				if one, ok := object[key]; ok {
					complaints = append(complaints, s.check(one, to.(map[string]any), in, at+"."+key)...)
				}
			}
		case "patternProperties":
			for pattern, to := range rule.(map[string]any) {
				for key, one := range object {
					if regexp.MustCompile(pattern).MatchString(key) {
						complaints = append(complaints, s.check(one, to.(map[string]any), in, at+"."+key)...)
					}
				}
			}
		case "additionalProperties":
			for key, one := range object {
				properties, _ := rules["properties"].(map[string]any)
				if _, known := properties[key]; known || rule == true {
					continue
				}
				if to, ok := rule.(map[string]any); ok {
					complaints = append(complaints, s.check(one, to, in, at+"."+key)...)
				} else {
					complain("%s is one property too many", key)
				}
			}
		case "items":
			for i, one := range list {
				complaints = append(complaints, s.check(one, rule.(map[string]any), in, fmt.Sprintf("%s[%d]", at, i))...)
			}
		case "allOf", "anyOf", "oneOf":
			fit := 0
			var why []string
			for _, one := range rule.([]any) {
				said := s.check(value, one.(map[string]any), in, at)
				if len(said) == 0 {
					fit++
				}
				why = append(why, said...)
			}
			all := len(rule.([]any))
			if keyword == "allOf" && fit < all || keyword == "anyOf" && fit == 0 || keyword == "oneOf" && fit != 1 {
				complaints = append(complaints, why...)
				complain("%d of %d in %s fit", fit, all, keyword)
			}
		case "not":
			if len(s.check(value, rule.(map[string]any), in, at)) == 0 {
				complain("fits what it must not")
			}
		default:
			complain("the schema's keyword %q is not known here", keyword)
		}
	}
	return complaints
}

func hasType(value, want any) bool {
	if many, ok := want.([]any); ok {
		return slices.ContainsFunc(many, func(one any) bool { return hasType(value, one) })
	}
	switch v := value.(type) {
	case nil:
		return want == "null"
	case bool:
		return want == "boolean"
	case string:
		return want == "string"
	case []any:
		return want == "array"
	case map[string]any:
		return want == "object"
	case json.Number:
		_, err := v.Int64()
		return want == "number" || want == "integer" && (err == nil || !strings.ContainsAny(v.String(), ".eE"))
	}
	return false
}
