package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

// checkpoint and restore exist for engines that ask for them.
func (a *app) checkpoint() *cobra.Command { return refused("checkpoint") }
func (a *app) restore() *cobra.Command    { return refused("restore") }

func refused(verb string) *cobra.Command {
	return &cobra.Command{
		Use:    verb + " ID",
		Short:  "Not supported yet",
		Hidden: true,
		// Whatever flags an engine gives, the answer is the same.
		DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return errors.New(verb + " is not supported yet: the Sentry's state cannot be saved")
		},
	}
}
