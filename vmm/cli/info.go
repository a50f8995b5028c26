package cli

import (
	"fmt"
	"strings"

	"bulkhead/kvm"
	"bulkhead/vmm/machine"
	"bulkhead/vmm/ring0"

	"github.com/spf13/cobra"
)

func info() *cobra.Command {
	return &cobra.Command{
		Use: "info", Short: "Say whether this host can run guests, and what they can have", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			w := c.OutOrStdout()
			sys, err := kvm.Open()
			if err != nil {
				return fmt.Errorf("%w; see `hwtest`", err)
			}
			defer sys.Close()
			native, reason, err := ring0.Native(sys)
			if err != nil {
				return err
			}
			missing, err := sys.Missing(kvm.VMM)
			if err != nil {
				return err
			}
			verdict := "yes"
			if !native || len(missing) > 0 {
				verdict = "no"
			}
			fmt.Fprintf(w, "runs Linux guests: %s (%s)\n", verdict, reason)
			for _, m := range missing {
				fmt.Fprintf(w, "missing: KVM_CAP_%s, for %s; since Linux %s\n", m.Name, m.Why, m.Since)
			}
			fmt.Fprintf(w, "CPUs: 1 to %d\n", machine.MostCPUs)
			fmt.Fprintf(w, "virtio devices: up to %d\n", machine.MostDevices)
			_, err = fmt.Fprintf(w, "CPU features that --cpu-without takes: %s\n", strings.Join(machine.FeatureNames(), " "))
			return err
		},
	}
}
