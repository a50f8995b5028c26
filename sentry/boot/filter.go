package boot

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"bulkhead/jail/profile"
	"bulkhead/sentry/bpf"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/syscalls"
)

// compileFilter makes a bundle's linux.seccomp the filter of every process of the
// container's. How seccomp(2) would take it changes nothing here: what is logged is
// logged by the action, and no processor speculates past the Sentry.
func compileFilter(p *specs.LinuxSeccomp) (*kernel.Filter, error) {
	compiled, err := profile.Compile(p, syscalls.Number)
	if err != nil {
		return nil, err
	}
	prog, err := bpf.Parse(compiled.Code)
	if err != nil {
		return nil, err
	}
	return kernel.MakeFilter(prog), nil
}
