// Program kernels makes guest kernels: `make kernel` and `make kernel-debian`
// call it. It prints what it made as lines of a name and a path.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"

	"golang.org/x/sys/unix"

	"bulkhead/kernels/debian"
	"bulkhead/kernels/linux"
)

const usage = `usage: kernels build|debian
  build   build our guest kernel from Debian's linux-source: ELF and bzImage
  debian  unpack Debian's cloud kernel: a bzImage, and a cpio with its modules`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case slices.Equal(args, []string{"build"}):
		image, err := linux.Build(ctx, os.Stderr)
		if err != nil {
			return err
		}
		fmt.Printf("elf     %s\nbzImage %s\nconfig  %s\n", image.ELF, image.BzImage, image.Config)
	case slices.Equal(args, []string{"debian"}):
		guest, err := debian.FetchGuest(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("bzImage %s\nmodules %s\n", guest.Image, guest.Modules)
	default:
		return fmt.Errorf("no such command: %q\n%s", args, usage)
	}
	return nil
}
