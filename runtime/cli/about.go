package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/bundle"
	"bulkhead/runtime/container"
	"bulkhead/runtime/program"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"github.com/spf13/cobra"
)

// versionText begins as runc's, which docker parses.
func versionText() string {
	return fmt.Sprintf("bulkhead version %s\ncommit: %s\nspec: %s\ngo: %s\n", program.Version, program.Commit, specs.Version, runtime.Version())
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print versions", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			fmt.Print(versionText())
			fmt.Printf("agent protocol: %d\n", agent.Version)
		},
	}
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

// featuresOf says what we honour (runtime-spec features.md).
func featuresOf() *features.Features {
	yes, no := true, false
	f := &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		MountOptions:  agent.MountWords(),
		Linux: &features.Linux{
			Cgroup: &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &no, Rdma: &no},
			Seccomp: &features.Seccomp{
				Enabled:   &yes,
				Actions:   []string{"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"},
				Operators: []string{"SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"},
				Archs:     []string{"SCMP_ARCH_X86_64"},
			},
			Apparmor:        &features.Apparmor{Enabled: &no},
			Selinux:         &features.Selinux{Enabled: &no},
			IntelRdt:        &features.IntelRdt{Enabled: &no},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &no}},
			NetDevices:      &features.NetDevices{Enabled: &no},
		},
		PotentiallyUnsafeConfigAnnotations: []string{container.AnnotationPrefix},
		Annotations:                        map[string]string{"dev.bulkhead.version": program.Version, "dev.bulkhead.commit": program.Commit},
	}
	for _, k := range bundle.HookKinds(nil) {
		f.Hooks = append(f.Hooks, k.Name)
	}
	for _, ns := range bundle.Namespaces {
		if ns != specs.UserNamespace && ns != specs.TimeNamespace {
			f.Linux.Namespaces = append(f.Linux.Namespaces, string(ns))
		}
	}
	return f
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
			return out.Encode(featuresOf())
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
