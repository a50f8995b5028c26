package install

import (
	"encoding/json"
	"strings"
	"testing"
)

// Whatever stands in a file: an error, or a file that uninstall makes what it was.
func FuzzRoundTrip(f *testing.F) {
	for _, row := range files {
		f.Add(row.text, row.path != docker)
	}
	f.Fuzz(func(t *testing.T, text string, isTOML bool) {
		put, remove := dockerPut, dockerRemove
		if isTOML {
			put, remove = containerdPut, containerdRemove
		}
		h := Host{Program: program}
		old := content{true, text}
		if b, err := findBlock(text); b != nil || err != nil || strings.Contains(text, "bulkhead") {
			put(h, old) // is ours, and need not stay; but nothing panics
			remove(h, old)
			return
		}
		new, _, err := put(h, old)
		if err != nil {
			return
		}
		if again, _, err := put(h, new); err != nil || again != new {
			t.Errorf("%q has become %q, and a second time %q, %v", text, new.text, again.text, err)
		}
		if back, _, err := remove(h, new); err != nil || back != old {
			t.Errorf("%q has become %q, and then %q, %v", text, new.text, back.text, err)
		}
		if !isTOML && !json.Valid([]byte(new.text)) {
			t.Errorf("%q has become %q", text, new.text)
		}
	})
}
