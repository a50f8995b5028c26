package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/bundle"
	"bulkhead/runtime/container"
	"bulkhead/runtime/features"
	"bulkhead/runtime/program"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// versionText begins as runc's, which docker parses.
func versionText() string {
	return fmt.Sprintf("bulkhead version %s\ncommit: %s\nspec: %s\ngo: %s\n", program.Version, program.Commit, specs.Version, runtime.Version())
}

func (a *app) version() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "version [flags]", Short: "Print versions", Args: cobra.NoArgs,
		Long: `Print versions. With -v also those of this host's kernel, of the kernels that a
container sees, and of every module that is linked in, with its checksum.`,
		RunE: func(*cobra.Command, []string) error {
			fmt.Print(versionText())
			fmt.Printf("agent protocol: %d\n", agent.Version)
			if !all {
				return nil
			}
			return a.allVersions(os.Stdout)
		},
	}
	c.Flags().BoolVarP(&all, "verbose", "v", false, "of kernels and dependencies, too")
	return c
}

// allVersions prints of what else there is one: name: version, a line each.
func (a *app) allVersions(w io.Writer) error {
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return os.NewSyscallError("uname", err)
	}
	fmt.Fprintf(w, "host kernel: %s %s\n", unix.ByteSliceToString(host.Sysname[:]), unix.ByteSliceToString(host.Release[:]))
	if a.Kernel != "" {
		fmt.Fprintf(w, "sentry: %s\n", a.Kernel)
	}
	guest, err := container.GuestKernel()
	if err != nil {
		guest = "none: " + err.Error()
	}
	fmt.Fprintf(w, "guest kernel: %s\n", guest)
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("version: this program does not tell what it was built of")
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		fmt.Fprintf(w, "module %s: %s %s\n", m.Path, m.Version, m.Sum)
	}
	return nil
}

func (a *app) spec() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "spec [flags]",
		Short: "Write a config.json to start from",
		Long:  "Write a config.json that runs a shell in the bundle's directory rootfs.",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			data, err := json.MarshalIndent(bundle.Default(), "", "\t")
			if err != nil {
				return err
			}
			f, err := os.OpenFile(filepath.Join(dir, "config.json"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return fmt.Errorf("spec: %w", err)
			}
			_, err = f.Write(append(data, '\n'))
			return errors.Join(err, f.Close())
		},
	}
	c.Flags().StringVarP(&dir, "bundle", "b", ".", "directory to write to")
	c.Flags().Bool("rootless", false, "for runc's sake: the same configuration serves")
	c.Flags().MarkHidden("rootless")
	return c
}

func (a *app) features() *cobra.Command {
	var fields bool
	c := &cobra.Command{
		Use:   "features [flags]",
		Short: "Print what of the OCI specification is honoured, as JSON",
		Long: `Print what of the OCI specification is honoured, as JSON (features.md of that
specification). With --fields a table for people: each field of a configuration, and
whether it is honoured, refused by its name or means nothing, behind each wall.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if fields {
				return bundle.WriteFields(os.Stdout)
			}
			out := json.NewEncoder(os.Stdout)
			out.SetIndent("", "  ")
			return out.Encode(features.Of())
		},
	}
	c.Flags().BoolVar(&fields, "fields", false, "every field of a configuration, in Markdown")
	return c
}

func (a *app) syscalls() *cobra.Command {
	return &cobra.Command{
		Use: "syscalls", Short: "Print which system calls the Sentry serves", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.Syscalls == nil {
				return errors.New("syscalls: this program has no Sentry linked in")
			}
			return a.Syscalls(os.Stdout)
		},
	}
}
