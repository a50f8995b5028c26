package cli

import (
	"bufio"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) logs() *cobra.Command {
	var kernel bool
	c := &cobra.Command{
		Use:   "logs [flags] ID",
		Short: "Print what a container's sandbox, or its kernel, has logged",
		Long: `Print the log of a container's sandbox process, or with --kernel what the kernel
of its machine has printed on its console (--isolation=vm), up to 1 MiB. What the
container's program prints is with whoever started it.`,
		Example:           "  bulkhead logs --kernel my-container",
		Args:              exactly("ID"),
		ValidArgsFunction: a.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.rt.Open(args[0])
			if err != nil {
				return err
			}
			path, err := c.Log(kernel)
			if err == nil {
				err = printFile(cmd.OutOrStdout(), path)
			}
			return on(args[0], err)
		},
	}
	c.Flags().BoolVar(&kernel, "kernel", false, "the kernel's, of a container in a machine")
	return c
}

// printFile prints a file's lines without what a container could have put there for
// a terminal to obey.
func printFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := r.ReadSlice('\n') // in pieces where it is long
		if len(line) > 0 {
			text, ended := strings.CutSuffix(string(line), "\n")
			text = printable(strings.ReplaceAll(strings.TrimSuffix(text, "\r"), "\t", "    "))
			if ended {
				text += "\n"
			}
			if _, err := io.WriteString(w, text); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil && err != bufio.ErrBufferFull {
			return err
		}
	}
}
