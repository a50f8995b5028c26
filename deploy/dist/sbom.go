package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The part of SPDX 2.3 that is used (spdx.github.io/spdx-spec/v2.3).
type document struct {
	Version   string `json:"spdxVersion"`
	License   string `json:"dataLicense"`
	ID        string `json:"SPDXID"`
	Name      string `json:"name"`
	Namespace string `json:"documentNamespace"`
	Creation  struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	} `json:"creationInfo"`
	Packages      []spdxPackage  `json:"packages"`
	Relationships []relationship `json:"relationships"`
}

type spdxPackage struct {
	ID        string     `json:"SPDXID"`
	Name      string     `json:"name"`
	Version   string     `json:"versionInfo,omitempty"`
	Download  string     `json:"downloadLocation"`
	Analyzed  bool       `json:"filesAnalyzed"`
	License   string     `json:"licenseDeclared"`
	Checksums []checksum `json:"checksums,omitempty"`
	Refs      []ref      `json:"externalRefs,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type ref struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const unknown = "NOASSERTION"

// sbom writes which modules, by version and sum, are linked into each program below dir, as the
// programs themselves tell (go version -m).
func sbom(path, dir, version string, at time.Time) error {
	d := document{Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: "bulkhead-" + version}
	d.Creation.Created, d.Creation.Creators = at.Format(time.RFC3339), []string{"Tool: bulkhead-dist"}
	modules := map[string]bool{}
	all := sha256.New()
	err := filepath.WalkDir(dir, func(file string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := buildinfo.ReadFile(file)
		if err != nil {
			return nil // no program of Go's
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		all.Write(sum[:])
		program := id("Program", e.Name(), "")
		d.Packages = append(d.Packages, spdxPackage{
			ID: program, Name: e.Name(), Version: version, Download: unknown, License: "Apache-2.0",
			Checksums: []checksum{{"SHA256", hex.EncodeToString(sum[:])}},
		})
		d.Relationships = append(d.Relationships, relationship{d.ID, "DESCRIBES", program})
		add := func(module, version, license string) {
			dependency := id("Module", module, version)
			if !modules[dependency] {
				modules[dependency] = true
				d.Packages = append(d.Packages, spdxPackage{
					ID: dependency, Name: module, Version: version, Download: unknown, License: license,
					Refs: []ref{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + module + "@" + version}},
				})
			}
			d.Relationships = append(d.Relationships, relationship{program, "DEPENDS_ON", dependency})
		}
		add("std", info.GoVersion, "BSD-3-Clause")
		for _, m := range info.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			add(m.Path, m.Version, unknown)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(d.Packages) == 0 {
		return fmt.Errorf("SBOM of %s: there is no program", dir)
	}
	slices.SortStableFunc(d.Packages, func(a, b spdxPackage) int { return strings.Compare(a.ID, b.ID) })
	d.Namespace = "https://bulkhead.dev/spdx/" + hex.EncodeToString(all.Sum(nil))
	out, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(out, '\n'), 0o644)
}

// notID are the characters that an SPDXID must not have.
var notID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func id(kind, name, version string) string {
	return "SPDXRef-" + kind + "-" + strings.Trim(notID.ReplaceAllString(name+"-"+version, "-"), "-")
}
