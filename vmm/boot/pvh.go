package boot

import "fmt"

// xen/include/public/arch-x86/hvm/start_info.h
const (
	startMagic   = 0x336ec578
	startVersion = 1 // the first with a memory map
	startSize    = 56
)

func (l *loader) writePVH() error {
	modules := 0
	var list []byte
	if s := l.entry.Initrd; s.End > 0 {
		modules = 1
		for _, v := range []uint64{s.Start, s.Size(), 0, 0} { // no command line, reserved
			list = le.AppendUint64(list, v)
		}
	}
	b := le.AppendUint32(nil, startMagic)
	b = le.AppendUint32(b, startVersion)
	b = le.AppendUint32(b, 0) // flags
	b = le.AppendUint32(b, uint32(modules))
	for _, v := range []uint64{startAt + startSize, cmdlineAt, l.RSDP, paramsAt} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, uint32(len(l.Map)))
	b = le.AppendUint32(b, 0)

	var rows []byte
	for _, r := range l.Map {
		rows = le.AppendUint64(rows, r.Start)
		rows = le.AppendUint64(rows, r.Size)
		rows = le.AppendUint32(rows, uint32(r.Kind))
		rows = le.AppendUint32(rows, 0)
	}
	if err := l.write(startAt, append(b, list...)); err != nil {
		return fmt.Errorf("write hvm_start_info: %w", err)
	}
	return l.write(paramsAt, rows)
}
