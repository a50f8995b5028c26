package boot

import (
	"bulkhead/jail/profile"
	"bulkhead/sentry/bpf"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/syscalls"
)

// compileFilter makes a bundle's linux.seccomp, if it has one, the filter of every process
// of the container's. How seccomp(2) would take it changes nothing here: what is logged is
// logged by the action, and no processor speculates past the Sentry.
func (c *container) compileFilter() error {
	p := c.config.Spec.Linux.Seccomp
	if p == nil {
		return nil
	}
	compiled, err := profile.Compile(p, syscalls.Number)
	if err != nil {
		return err
	}
	prog, err := bpf.Parse(compiled.Code)
	if err != nil {
		return err
	}
	c.filter = kernel.MakeFilter(prog)
	return nil
}
