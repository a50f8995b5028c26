package agent

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"bulkhead/runtime/agent/rpc"
)

// container is one in the guest. Its fields are server.mu's.
type container struct {
	name     string
	ordinary bool // signals end its init as they end any process
	group    *group
	filter   *rpc.Filter // that its programs are under, or nil
	domain   specs.LinuxPersonalityDomain
	flush    bool     // it writes to a disk that outlives the guest
	slots    []device // with disks that came with it
	share    []string // namespaces that are first's: ipc, uts, pid
	first    *container
	init     *process
	others   []*process // started by Exec and not yet waited for
}

// forget drops what one Wait has taken. Init stays: it stands for the container.
func (c *container) forget(p *process) {
	c.others = slices.DeleteFunc(c.others, func(o *process) bool { return o == p })
}
