package cli

import "github.com/spf13/cobra"

func (a *app) delete() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:               "delete [flags] ID…",
		Short:             "Delete what a container leaves on the host",
		Long:              "Delete a container that has stopped or was never started: its control group and\nits state. With --force it is killed first, whatever it is doing.",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			var first error
			for _, id := range args {
				if err := on(id, a.rt.Delete(cmd.Context(), id, force)); err != nil {
					if first != nil {
						a.report(first)
					}
					first = err
				}
			}
			return first
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "kill it if it runs; one that does not exist is no error")
	return c
}
