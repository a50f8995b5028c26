package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"bulkhead/runtime/console"

	"github.com/spf13/cobra"
)

// Of a frame, as tcpdump(8) has it: enough for what was put together of many segments.
const (
	snapLength     = 256 << 10
	mostSnapLength = 1 << 20
)

func (a *app) tcpdump() *cobra.Command {
	var name, file string
	var count, length int
	c := &cobra.Command{
		Use:   "tcpdump [flags] ID",
		Short: "Write the frames that pass a container's interface as a pcap file",
		Long: `Write the frames that pass an interface of a container's, both ways, as a pcap file
to FILE or to the standard output, until the container ends or you interrupt. It is looked at
from the host, behind the wall, whichever that is: nothing inside can see it, hide from it, or is in
its way. Loopback is the sandbox's own and not seen. What is sent may not have its checksums
yet, and large frames are cut only by the interface.`,
		Example: "  bulkhead tcpdump web | tcpdump -n -r - port 80\n" +
			"  bulkhead tcpdump -w web.pcap -c 1000 web",
		Args:              exactly("ID"),
		ValidArgsFunction: a.ids,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if length < 1 || length > mostSnapLength || count < 0 {
				return fmt.Errorf("tcpdump: --snapshot-length is 1 to %d and --count not negative", mostSnapLength)
			}
			c, err := a.rt.Open(args[0])
			if err != nil {
				return on(args[0], err)
			}
			to := io.Writer(os.Stdout)
			if file != "-" {
				f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
				if err != nil {
					return on(args[0], err)
				}
				defer func() {
					if closed := f.Close(); err == nil {
						err = closed
					}
				}()
				to = f
			} else if console.IsTerminal(os.Stdout) {
				return errors.New("tcpdump: a pcap file is nothing for a terminal: give --write FILE, or pipe it, as in: bulkhead tcpdump " + args[0] + " | tcpdump -n -r -")
			}
			n, err := c.Capture(cmd.Context(), name, length, count, to, func(name string) {
				fmt.Fprintf(os.Stderr, "bulkhead: capturing on %s of %s\n", printable(name), args[0])
			})
			if err != nil {
				return on(args[0], err)
			}
			fmt.Fprintf(os.Stderr, "bulkhead: %d frames captured, %d dropped by the kernel\n", n.Captured, n.Dropped)
			return nil
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVarP(&name, "interface", "i", "", "the interface (default: the first)")
	f.StringVarP(&file, "write", "w", "-", "write to `FILE`")
	f.IntVarP(&count, "count", "c", 0, "end after this many frames")
	f.IntVarP(&length, "snapshot-length", "s", snapLength, "keep this many bytes of a frame")
	return c
}
