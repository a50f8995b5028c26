// Package hook runs the programs that an OCI specification hangs onto a
// container's life (runtime-spec config.md, "POSIX-platform Hooks").
package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Run runs the hooks one after the other, with the container's state on their
// standard input, and stops at the first that fails. name is the list's name.
func Run(ctx context.Context, name string, hooks []specs.Hook, state *specs.State) error {
	return each(ctx, name, hooks, state, false)
}

// RunAll goes on after a failure, and gives all of them: "the remaining hooks and
// lifecycle continue as if the hook had succeeded" (runtime.md, "Lifecycle").
func RunAll(ctx context.Context, name string, hooks []specs.Hook, state *specs.State) error {
	return each(ctx, name, hooks, state, true)
}

func each(ctx context.Context, name string, hooks []specs.Hook, state *specs.State, all bool) error {
	if len(hooks) == 0 {
		return nil
	}
	stdin, err := json.Marshal(state)
	if err != nil {
		return err
	}
	var failed []error
	for i := range hooks {
		if err := run(ctx, &hooks[i], stdin); err != nil {
			failed = append(failed, fmt.Errorf("hook %s[%d], %s: %w", name, i, hooks[i].Path, err))
			if !all {
				break
			}
		}
	}
	return errors.Join(failed...)
}

// outputLimit is how much of a failed hook's output is worth repeating.
const outputLimit = 512 // bytes

func run(ctx context.Context, h *specs.Hook, stdin []byte) error {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args // argv[0] included, as execv(3) has it
	}
	cmd.Env = h.Env
	if cmd.Env == nil {
		cmd.Env = []string{} // the specification gives a hook no environment but its own
	}
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = &output, &output
	// A grandchild that holds the output open must not hold us.
	cmd.WaitDelay = 100 * time.Millisecond
	err := cmd.Run()
	if ctx.Err() == context.DeadlineExceeded {
		return fmt.Errorf("took longer than its %d s", *h.Timeout)
	}
	if err != nil {
		said := strings.Join(strings.Fields(output.String()), " ")
		if len(said) > outputLimit {
			said = said[:outputLimit] + "…"
		}
		if said != "" {
			return fmt.Errorf("%w: %s", err, said)
		}
	}
	return err
}
