package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

const readable = platform.Read

// Types of notes (include/uapi/linux/elf.h).
const (
	ntPRStatus = 1
	ntFPRegs   = 2
	ntPRPSInfo = 3
	ntAuxv     = 6
	ntXState   = 0x202
	ntSigInfo  = 0x53494749
	ntFile     = 0x46494c45
)

const (
	elfHeaderSize  = 64
	programHdrSize = 56
	maxFileNote    = 4 << 20 // bytes (kernel.core_file_note_size_limit)
)

// prstatus is struct elf_prstatus (include/linux/elfcore.h).
type prstatus struct {
	Signo, Code, Errno           int32
	Cursig                       int16
	_                            [2]byte
	Pending, Held                uint64
	PID, PPID, PGRP, SID         int32
	User, System, CUser, CSystem [2]int64 // struct timeval
	Registers                    platform.Registers
	FPValid                      int32
	_                            [4]byte
}

// prpsinfo is struct elf_prpsinfo.
type prpsinfo struct {
	State                byte
	Name                 byte
	Zombie, Nice         int8
	_                    [4]byte
	Flag                 uint64
	UID, GID             uint32
	PID, PPID, PGRP, SID int32
	File                 [16]byte
	Args                 [80]byte
}

// core is a file that is being written: no more than limit bytes, holes not counted.
type core struct {
	t     *Task
	f     *vfs.Description
	at    int64
	limit uint64
	end   int64 // up to where something was written
}

// segment is a piece of memory and how much of it is in the file.
type segment struct {
	memory.VMA
	size uint64
}

// writeCore writes t's process to f: notes, then memory. The threads in d have stopped
// for good, so that memory changes only by others who share it.
func (t *Task) writeCore(f *vfs.Description, limit uint64, d *dump, info *SigInfo) error {
	var segs []segment
	filter := t.group.DumpFilter.Load()
	vmas := t.mm.VMAs()
	for i := range vmas {
		segs = append(segs, segment{vmas[i], coreSize(t.mm, &vmas[i], filter)})
	}
	notes := t.coreNotes(d, info, vmas)
	c := &core{t: t, f: f, limit: limit}
	if err := c.write(coreHeaders(segs, uint64(len(notes)))); err != nil {
		return err
	}
	if err := c.write(notes); err != nil {
		return err
	}
	c.at = int64(pageUp(uint64(c.at)))
	for i := range segs {
		if err := c.memory(&segs[i]); err != nil {
			return err
		}
	}
	if c.at > c.end { // what is a hole at the end is part of the file
		c.at--
		return c.write([]byte{0})
	}
	return nil
}

func pageUp(n uint64) uint64 { return (n + memory.PageSize - 1) &^ (memory.PageSize - 1) }

// write appends b, or as much of it as the limit lets (dump_emit).
func (c *core) write(b []byte) error {
	if uint64(len(b)) > c.limit {
		return unix.EFBIG
	}
	for len(b) > 0 {
		if c.t.dying() {
			return unix.EINTR // SIGKILL does not wait for a core file
		}
		n, err := c.f.Pwrite(c.t, memory.Buffers{b[:min(len(b), 1<<20)]}, c.at)
		if err != nil {
			return err
		}
		if n == 0 {
			return unix.EIO
		}
		b, c.at, c.limit = b[n:], c.at+int64(n), c.limit-uint64(n)
		c.end = c.at
	}
	return nil
}

// memory writes a segment. Pages that are not there become holes, and are not made for
// this.
func (c *core) memory(s *segment) error {
	const piece = 64 * memory.PageSize
	buf := make([]byte, piece)
	for off := uint64(0); off < s.size; {
		at := s.Start + memory.Addr(off)
		n := min(s.size-off, piece)
		in, err := c.t.mm.Mincore(at, n)
		if err != nil {
			in = make([]byte, n/memory.PageSize) // unmapped by who shares the memory
		}
		if c.t.dying() {
			return unix.EINTR
		}
		for i := 0; i < len(in); {
			j := i
			for j < len(in) && in[j]&1 == in[i]&1 {
				j++
			}
			run := buf[:uint64(j-i)*memory.PageSize]
			got := 0
			if in[i]&1 != 0 {
				got, _ = c.t.mm.Peek(at+memory.Addr(i)*memory.PageSize, run)
			}
			if err := c.write(run[:got]); err != nil {
				return err
			}
			c.at += int64(len(run) - got)
			i = j
		}
		off += n
	}
	return nil
}

// coreHeaders are the ELF header and a program header for the notes and each segment.
func coreHeaders(segs []segment, notes uint64) []byte {
	var b bytes.Buffer
	le := binary.LittleEndian
	count := len(segs) + 1 // at most vm.max_map_count, below PN_XNUM
	h := elf.Header64{Type: uint16(elf.ET_CORE), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: elfHeaderSize,
		Ehsize: elfHeaderSize, Phentsize: programHdrSize, Phnum: uint16(count)}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	binary.Write(&b, le, &h)
	off := uint64(elfHeaderSize + count*programHdrSize)
	binary.Write(&b, le, &elf.Prog64{Type: uint32(elf.PT_NOTE), Off: off, Filesz: notes, Align: 4})
	off = pageUp(off + notes)
	for i := range segs {
		s := &segs[i]
		p := elf.Prog64{Type: uint32(elf.PT_LOAD), Off: off, Vaddr: uint64(s.Start), Filesz: s.size, Memsz: uint64(s.End - s.Start), Align: memory.PageSize}
		for _, r := range []struct {
			a platform.Access
			f elf.ProgFlag
		}{{platform.Read, elf.PF_R}, {platform.Write, elf.PF_W}, {platform.Exec, elf.PF_X}} {
			if s.Access&r.a != 0 {
				p.Flags |= uint32(r.f)
			}
		}
		binary.Write(&b, le, &p)
		off += s.size
	}
	return b.Bytes()
}

// note appends one (Elf64_Nhdr: sizes, type; name and descriptor padded to four).
func note(b *bytes.Buffer, name string, kind uint32, desc []byte) {
	var h [12]byte
	le := binary.LittleEndian
	le.PutUint32(h[0:], uint32(len(name)+1))
	le.PutUint32(h[4:], uint32(len(desc)))
	le.PutUint32(h[8:], kind)
	b.Write(h[:])
	b.WriteString(name + "\x00")
	b.Write(make([]byte, -(len(name)+1)&3))
	b.Write(desc)
	b.Write(make([]byte, -len(desc)&3))
}

func packed(v any) []byte {
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, v)
	return b.Bytes()
}

// coreNotes are in the order of fill_note_info: the thread that took the signal, the
// process, then the other threads.
func (t *Task) coreNotes(d *dump, info *SigInfo, vmas []memory.VMA) []byte {
	var b bytes.Buffer
	k := t.k
	k.mu.Lock()
	others := append([]*Task(nil), d.threads...)
	k.mu.Unlock()
	note(&b, "CORE", ntPRStatus, packed(t.prstatus(info)))
	note(&b, "CORE", ntPRPSInfo, packed(t.prpsinfo()))
	note(&b, "CORE", ntSigInfo, info[:])
	if s := t.Start(); s != nil {
		note(&b, "CORE", ntAuxv, s.Auxv)
	}
	if files := fileNote(vmas); files != nil {
		note(&b, "CORE", ntFile, files)
	}
	t.fpNotes(&b)
	for _, x := range others {
		note(&b, "CORE", ntPRStatus, packed(x.prstatus(info)))
		x.fpNotes(&b)
	}
	return b.Bytes()
}

func (t *Task) fpNotes(b *bytes.Buffer) {
	const fxsave = 512
	x := t.Xstate()
	if len(x) < fxsave {
		return
	}
	legacy := append([]byte(nil), x[:fxsave]...)
	clear(legacy[fpReserved:])
	note(b, "CORE", ntFPRegs, legacy)
	note(b, "LINUX", ntXState, x)
}

func (t *Task) prstatus(info *SigInfo) *prstatus {
	k, g := t.k, t.group
	sig := info.Signo()
	s := &prstatus{Signo: int32(sig), Cursig: int16(sig), Registers: t.ctx.Registers, FPValid: 1}
	if !t.haveSyscall {
		s.Registers.Orig_rax = ^uint64(0)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s.Pending, s.Held = uint64(t.pending.set), uint64(t.mask)
	ns := t.ID().ns
	s.PID = t.ID().In(ns)
	s.PPID, s.PGRP, s.SID = g.relativesLocked(ns)
	u, sys := t.CPUTime()
	if t == g.leader {
		u, sys = g.cpuTimeLocked()
	}
	s.User, s.System, s.CUser, s.CSystem = timeval(u), timeval(sys), timeval(g.childCPU[0]), timeval(g.childCPU[1])
	return s
}

func timeval(d time.Duration) [2]int64 {
	return [2]int64{int64(d / time.Second), int64(d % time.Second / time.Microsecond)}
}

// relativesLocked are the numbers of g's parent, job and session in ns.
func (g *ThreadGroup) relativesLocked(ns *PIDNamespace) (parent, job, session int32) {
	if g.parent != nil {
		parent = g.parent.id.In(ns)
	}
	if g.jobs != nil {
		job, session = g.jobs.id.In(ns), g.jobs.session.id.In(ns)
	}
	return
}

func (t *Task) prpsinfo() *prpsinfo {
	k, g := t.k, t.group
	c := t.Creds()
	p := &prpsinfo{Name: 'R', Nice: int8(t.Nice.Load()), UID: c.User.ShowUID(c.UID), GID: c.User.ShowGID(c.GID)}
	copy(p.File[:15], t.Comm())
	if s := t.Start(); s != nil && s.ArgEnd > s.ArgStart {
		args := make([]byte, min(uint64(s.ArgEnd-s.ArgStart), uint64(len(p.Args)-1)))
		n, _ := t.mm.Read(s.ArgStart, args)
		for i, ch := range args[:n] { // fill_psinfo
			if ch == 0 {
				args[i] = ' '
			}
		}
		copy(p.Args[:], args[:n])
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	ns := t.ID().ns
	p.PID = g.id.In(ns)
	p.PPID, p.PGRP, p.SID = g.relativesLocked(ns)
	return p
}

// fileNote is fill_files_note: which files are mapped where, or nil if there are none or
// their names are too long.
func fileNote(vmas []memory.VMA) []byte {
	var rows, names bytes.Buffer
	count := uint64(0)
	for i := range vmas {
		v := &vmas[i]
		if v.Anonymous || v.Name == "" || v.Name[0] == '[' {
			continue
		}
		count++
		binary.Write(&rows, binary.LittleEndian, [3]uint64{uint64(v.Start), uint64(v.End), v.Offset / memory.PageSize})
		names.WriteString(v.Name + "\x00")
	}
	if count == 0 || rows.Len()+names.Len() > maxFileNote {
		return nil
	}
	head := packed([2]uint64{count, memory.PageSize})
	return append(append(head, rows.Bytes()...), names.Bytes()...)
}
