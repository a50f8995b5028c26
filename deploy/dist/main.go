// Command dist makes what goes into a package beside the programs, of the programs: manual
// pages and completions of their commands, and an SBOM of what is linked into them. What it
// writes depends on nothing else: two runs give the same bytes. scripts/dist calls it.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	hwtest "bulkhead/hwtest/cli"
	bulkhead "bulkhead/runtime/cli"
	vmm "bulkhead/vmm/cli"
)

func main() {
	root := pflag.String("root", "", "the package's root, which has usr/bin already")
	version := pflag.String("version", "unknown", "the package's version")
	epoch := pflag.Int64("epoch", 0, "the time of everything, in seconds since 1970")
	pflag.Parse()
	if err := make(*root, *version, time.Unix(*epoch, 0).UTC()); err != nil {
		fmt.Fprintln(os.Stderr, "dist:", err)
		os.Exit(1)
	}
}

func make(root, version string, at time.Time) error {
	for _, command := range []*cobra.Command{bulkhead.Command(), vmm.Command(), hwtest.Command()} {
		if err := pages(filepath.Join(root, "usr/share/man/man1"), command, version, at); err != nil {
			return err
		}
		if err := completions(root, command); err != nil {
			return err
		}
	}
	return sbom(filepath.Join(root, "usr/share/doc/bulkhead/sbom.spdx.json"), filepath.Join(root, "usr"), version, at)
}

// completions go where each shell looks for a package's (bash-completion's README,
// zshcompsys(1), fish's "Where to put completions").
func completions(root string, c *cobra.Command) error {
	name := c.Name()
	for _, shell := range []struct {
		path  string
		write func(string) error
	}{
		{"usr/share/bash-completion/completions/" + name, func(p string) error { return c.GenBashCompletionFileV2(p, true) }},
		{"usr/share/zsh/vendor-completions/_" + name, c.GenZshCompletionFile},
		{"usr/share/fish/vendor_completions.d/" + name + ".fish", func(p string) error { return c.GenFishCompletionFile(p, true) }},
	} {
		path := filepath.Join(root, shell.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := shell.write(path); err != nil {
			return err
		}
	}
	return nil
}
