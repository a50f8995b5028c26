package linux

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestUnmet(t *testing.T) {
	config := "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\nCONFIG_D=5\n"
	fragment := "# why\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_B2=n\nCONFIG_B=y\nCONFIG_C=n\nCONFIG_D=6\n"
	want := []string{"CONFIG_B=y", "CONFIG_C=n", "CONFIG_D=6"}
	if got := unmet(fragment, config); !slices.Equal(got, want) {
		t.Errorf("unmet: %q, want %q", got, want)
	}
}

// TestFragments: each says first what it is for, and no two speak of one option.
func TestFragments(t *testing.T) {
	option := regexp.MustCompile(`^CONFIG_[A-Z0-9_]+=(y|n|-?[0-9]+)$`)
	owner := map[string]string{}
	count := 0
	err := eachFragment(func(name, text string) error {
		count++
		if !strings.HasPrefix(text, "# ") {
			t.Errorf("%s does not begin with its purpose", name)
		}
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if strings.HasPrefix(line, "# ") {
				continue
			}
			if !option.MatchString(line) {
				t.Errorf("%s: %q is no option", name, line)
			}
			key, _, _ := strings.Cut(line, "=")
			if owner[key] != "" {
				t.Errorf("%s: %s is in %s too", name, key, owner[key])
			}
			owner[key] = name
		}
		return nil
	})
	if err != nil || count < 5 {
		t.Errorf("%d fragments, %v", count, err)
	}
}

// TestBuilt: the kernel that was built has all that the fragments ask for.
func TestBuilt(t *testing.T) {
	image, found, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	if !found {
		t.Skip("our kernel is not built: make kernel")
	}
	config, err := os.ReadFile(image.Config)
	if err != nil {
		t.Fatal(err)
	}
	err = eachFragment(func(name, text string) error {
		for _, line := range unmet(text, string(config)) {
			t.Errorf("%s asks for %s in vain", name, line)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
