package machine

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"os"

	"bulkhead/kvm"
	"bulkhead/vmm/snapshot"
)

// Keeping is a snapshot whose machine goes on before it is whole: what its guest writes to
// meanwhile, those that are copies of it will write to as well. They have these pages made
// at once, where each would cost three exits of the guest's: one to read it, and two to
// write to what KVM maps for reading.
type Keeping struct {
	m     *Machine
	file  *snapshot.Draft
	state *state
}

// extent is pages of the memory that lie together, counted from its begin.
type extent struct{ From, To uint32 }

// mostExtents is what a state has room for; a container's start writes to some 300.
const mostExtents = 4096

// KeepTo begins one in a file that is open and empty, which it takes over, and of which nothing
// is forced to the disk. It leaves the machine paused, and to be resumed.
func (m *Machine) KeepTo(f *os.File) (_ *Keeping, err error) {
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	m.control.Lock()
	defer m.control.Unlock()
	if err := m.pauseLocked(); err != nil {
		return nil, err
	}
	s, err := m.state()
	if err != nil {
		return nil, fmt.Errorf("machine: keep: %w", err)
	}
	s.Next = make([]extent, mostExtents)
	b, err := json.Marshal(s) // which says how much room it takes
	if err != nil {
		return nil, fmt.Errorf("machine: keep: %w", err)
	}
	s.Next = nil
	draft, err := snapshot.Begin(f, len(b), m.mem.Bytes(), m.mem.Used())
	if err == nil {
		err = m.logWrites(kvm.LogDirty)
	}
	if err != nil {
		return nil, fmt.Errorf("machine: keep: %w", err)
	}
	return &Keeping{m, draft, s}, nil
}

// logWrites has KVM note which pages the guest writes to, or no longer.
func (m *Machine) logWrites(flags kvm.MemFlags) error {
	for i, r := range m.mem.Regions() {
		if err := m.vm.SetMemory(uint32(i), r.At, r.Host, flags); err != nil {
			return err
		}
	}
	return nil
}

// Finish makes the snapshot whole, and closes it in any case.
func (k *Keeping) Finish() error {
	defer k.file.Close()
	k.m.control.Lock()
	defer k.m.control.Unlock()
	err := k.finish()
	if err != nil {
		err = fmt.Errorf("machine: keep: %w", err)
	}
	return err
}

func (k *Keeping) finish() error {
	first := 0
	for i, r := range k.m.mem.Regions() {
		pages := len(r.Host) / kvm.PageSize
		written := make([]uint64, (pages+63)/64)
		if err := k.m.vm.DirtyLog(uint32(i), written); err != nil {
			return err
		}
		k.state.Next = appendExtents(k.state.Next, first, written)
		first += pages
	}
	k.state.Next = k.state.Next[:min(len(k.state.Next), mostExtents)]
	if err := k.m.logWrites(0); err != nil {
		return err
	}
	b, err := json.Marshal(k.state)
	if err != nil {
		return err
	}
	return k.file.Finish(b)
}

// appendExtents appends the runs of ones in a bitmap whose first bit stands for page first.
func appendExtents(all []extent, first int, bitmap []uint64) []extent {
	for i, word := range bitmap {
		for word != 0 {
			from := bits.TrailingZeros64(word)
			n := bits.TrailingZeros64(^(word >> from))
			e := extent{uint32(first + 64*i + from), uint32(first + 64*i + from + n)}
			if last := len(all) - 1; last >= 0 && all[last].To == e.From {
				all[last].To = e.To
			} else {
				all = append(all, e)
			}
			if n == 64 {
				break
			}
			word &^= (1<<n - 1) << from
		}
	}
	return all
}

// checkNext finds pages that a memory does not have.
func checkNext(next []extent, memory uint64) error {
	for _, e := range next {
		if e.From >= e.To || uint64(e.To) > memory/kvm.PageSize {
			return fmt.Errorf("pages %d to %d of a memory of %d", e.From, e.To, memory/kvm.PageSize)
		}
	}
	return nil
}
