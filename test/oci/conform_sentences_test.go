package oci

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// specification is runtime-spec's directory, whose text comes with its Go module.
var specification = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/opencontainers/runtime-spec").Output()
	if err != nil {
		return "", fmt.Errorf("where is runtime-spec: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
})

var (
	markdownLink   = regexp.MustCompile(`\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])`)
	markdownAnchor = regexp.MustCompile(`<a [^>]*/>`)
	markdownMarks  = regexp.MustCompile("[`*_\\[\\]]+")
	space          = regexp.MustCompile(`\s+`)
)

// plain is text without Markdown.
func plain(text string) string {
	text = markdownLink.ReplaceAllString(markdownAnchor.ReplaceAllString(text, ""), "$1")
	return strings.TrimSpace(space.ReplaceAllString(markdownMarks.ReplaceAllString(text, ""), " "))
}

// section is the text under a heading, up to the next.
func section(file, heading string) (string, error) {
	dir, err := specification()
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return "", err
	}
	var under strings.Builder
	in, code := false, false
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			code = !code
		}
		if title := strings.TrimLeft(line, "#"); title != line && !code {
			in = plain(title) == heading
			continue
		}
		if in {
			under.WriteString(line)
		}
	}
	if under.Len() == 0 {
		return "", fmt.Errorf("%s has no section %q", file, heading)
	}
	return plain(under.String()), nil
}

// TestSentences: every rule quotes the specification.
func TestSentences(t *testing.T) {
	names := map[string]bool{}
	for _, r := range conformance() {
		if names[r.name] {
			t.Errorf("%s: two rules have this name", r.name)
		}
		names[r.name] = true
		file, heading, ok := strings.Cut(r.in, ", ")
		if !ok {
			t.Errorf("%s: %q is no file and section", r.name, r.in)
			continue
		}
		text, err := section(file, heading)
		if err != nil {
			t.Errorf("%s: %v", r.name, err)
		} else if !strings.Contains(text, plain(r.says)) || r.says == "" {
			t.Errorf("%s: %s has no %q", r.name, r.in, plain(r.says))
		}
	}
	for _, list := range [][]string{slow, slices.Collect(maps.Keys(runcReasons))} {
		for _, name := range list {
			if !names[name] {
				t.Errorf("there is no rule %s", name)
			}
		}
	}
	t.Logf("%d rules", len(names))
}
