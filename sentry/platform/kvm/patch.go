package kvm

import (
	"bytes"
	"encoding/binary"

	"bulkhead/sentry/platform"
)

// Where SYSCALL traps (user-only hosts: 30 µs), a call site that is hot becomes
// a jump to a trampoline of its own, which jumps on to the stub. What stands at
// a site decides how:
//
//	mov $nr,%eax; syscall       b8 imm32 0f 05         the MOV becomes the jump
//	mov $nr,%rax; syscall       48 c7 c0 imm32 0f 05   the same
//	syscall; <insn>             0f 05 …                both become the jump, if insn is
//	                                                   one that may run elsewhere
//
// In the first two the SYSCALL stays where it is, for whoever has executed the MOV or
// jumps to it. In the third a thread may be about to return to insn, whose
// first bytes are the jump's offset by now: the trampoline is put where that
// offset's second byte is an opcode that 64-bit mode does not have, so that the thread
// traps, and resumePatched sends it on. What a site becomes is one store of an
// aligned word, or is done while the address space has one thread.

const (
	// hotSite is after how many traps a site is patched: it costs some of them.
	hotSite = 4

	// maxSites bounds what an application can make us remember.
	maxSites = 4096

	areaSize  = 64 << 10 // of trampolines: every second byte of an offset can be had
	trampSize = 64

	// In a trampoline: where it goes on after the call, and what it is for.
	trampPost = 32
	trampSite = 48 // address of the site's first byte
	trampKind = 56
)

// Kinds of sites.
const (
	siteMov  = 1 + iota // the jump stands in for a MOV before the SYSCALL
	siteCall            // for the SYSCALL and what follows
)

// sites is what an address space knows of its call sites. addressSpace.sitesMu guards it.
type sites struct {
	hits  map[uint64]uint8 // by return address
	area  uint64           // trampolines, 0: none yet
	taken []bool           // by number
	next  int
}

// site is a place to patch.
type site struct {
	kind int
	at   uint64 // of the jump
	old  []byte // five bytes there
	end  uint64 // behind the SYSCALL
	nr   uint32 // siteMov
	insn []byte // siteCall: what follows the SYSCALL
}

// SetPatcher implements platform.Patchable.
func (as *addressSpace) SetPatcher(p platform.Patcher) { as.patcher = p }

// consider counts a call that trapped, and patches its site when it is hot. The
// call in c goes on as it is.
func (t *thread) consider(c *platform.Context) {
	as := t.v.as
	if !t.p.userStub || as.patcher == nil || c.Rip >= half {
		return
	}
	as.sitesMu.Lock()
	defer as.sitesMu.Unlock()
	s := &as.sites
	if s.hits == nil {
		s.hits = map[uint64]uint8{}
	}
	n, known := s.hits[c.Rip]
	if n >= hotSite || !known && len(s.hits) >= maxSites {
		return
	}
	s.hits[c.Rip] = n + 1
	if n+1 < hotSite {
		return
	}
	found, ok := as.parseSite(c.Rip, uint32(c.Orig_rax))
	switch {
	case !ok:
		t.p.sites[siteUnknownForm].Add(1)
		return
	case !found.aligned() && !as.alone():
		t.p.sites[siteUnaligned].Add(1)
		return
	}
	tramp, outcome := as.patchLocked(found)
	t.p.sites[outcome].Add(1)
	if outcome == sitePatched && found.kind == siteCall {
		t.v.slot.ret = tramp + trampPost // where the site is no more, for this thread
	}
}

// alone says that one thread at most runs in the address space, the caller's.
func (as *addressSpace) alone() bool {
	as.mu.Lock()
	defer as.mu.Unlock()
	return len(as.roots) == 1
}

// aligned says that the jump lies in one word.
func (s site) aligned() bool { return s.at%8 <= 3 }

// text reads n bytes at va, all in one page, or fewer.
func (as *addressSpace) text(va uint64, n uint64) []byte {
	n = min(n, pageSize-va%pageSize)
	gpa, pte := as.lookup(va)
	if pte&pteP == 0 {
		return nil
	}
	return bytes.Clone(as.m.host(gpa, n))
}

// parseSite looks at the code around a SYSCALL that ends at end and was made
// with nr in EAX.
func (as *addressSpace) parseSite(end uint64, nr uint32) (site, bool) {
	const before = 10
	if end%pageSize < before {
		return site{}, false
	}
	b := as.text(end-before, before+15)
	if len(b) < before {
		return site{}, false
	}
	return parseSite(b[:before], b[before:], end, nr)
}

// parseSite is the part that only looks: before ends with the SYSCALL, after follows it.
func parseSite(before, after []byte, end uint64, nr uint32) (site, bool) {
	n := len(before)
	if n < 10 || before[n-2] != 0x0f || before[n-1] != 0x05 {
		return site{}, false
	}
	imm := binary.LittleEndian.Uint32(before[n-6:])
	switch prev := before[n-8]; {
	case before[n-7] == 0xb8 && imm == nr && prev&0xf0 != 0x40 && prev != 0x66:
		return site{kind: siteMov, at: end - 7, old: before[n-7 : n-2], end: end, nr: nr}, true
	case imm == nr && int32(nr) >= 0 && before[n-9] == 0x48 && before[n-8] == 0xc7 && before[n-7] == 0xc0:
		return site{kind: siteMov, at: end - 9, old: before[n-9 : n-4], end: end, nr: nr}, true
	}
	m := movable(after)
	if m == 0 || (end-2)%pageSize > pageSize-5 {
		return site{}, false
	}
	old := append([]byte{0x0f, 0x05}, after[:3]...)
	return site{kind: siteCall, at: end - 2, old: old, end: end, insn: after[:m]}, true
}

// movable is the length of the instruction that b begins with, if it is at
// least three bytes and means the same elsewhere: an operation on registers,
// as compilers and C libraries put behind a call; 0 otherwise.
func movable(b []byte) int {
	if len(b) < 3 || b[0]&0xf8 != 0x48 { // REX.W
		return 0
	}
	n, ext := 0, b[2]>>3&7
	switch register := b[2]>>6 == 3; {
	case b[1] == 0x3d || b[1] == 0x05 || b[1] == 0x25: // cmp, add, and imm32, %rax
		n = 6
	case !register:
	case b[1] == 0x89, b[1] == 0x8b, b[1] == 0x85, b[1] == 0x39, b[1] == 0x3b, b[1] == 0x63, b[1] == 0x31:
		n = 3 // mov mov test cmp cmp movslq xor
	case b[1] == 0x83, b[1] == 0xc1 && (ext == 4 || ext == 5 || ext == 7): // group 1, shl, shr, sar imm8
		n = 4
	case b[1] == 0x81, b[1] == 0xc7 && ext == 0: // group 1, mov imm32
		n = 7
	}
	if n > len(b) {
		return 0
	}
	return n
}

// noOpcode are first bytes that no instruction has in 64-bit mode (APM vol. 3
// table A-1), without those that extensions have since taken.
var noOpcode = [256]bool{0x06: true, 0x07: true, 0x0e: true, 0x16: true, 0x17: true, 0x1e: true, 0x1f: true,
	0x27: true, 0x2f: true, 0x37: true, 0x3f: true, 0x60: true, 0x61: true, 0x82: true, 0x9a: true, 0xce: true,
	0xd4: true, 0xd6: true, 0xea: true}

// patchLocked makes a trampoline for s and the jump to it, and says what became of it.
func (as *addressSpace) patchLocked(s site) (uint64, int) {
	tramp, ok := as.placeLocked(s)
	if !ok {
		return 0, siteNoRoom
	}
	code := trampoline(s, tramp)
	gpa, pte := as.lookup(tramp)
	if pte&pteP == 0 {
		return 0, siteNoRoom
	}
	copy(as.m.host(gpa, trampSize), code)
	jump := binary.LittleEndian.AppendUint32([]byte{0xe9}, uint32(tramp-(s.at+5)))
	if err := as.patcher.PatchText(platform.Addr(s.at), s.old, jump); err != nil {
		return 0, siteRefused // not a mapping to be patched, or it changed: never again
	}
	as.sites.taken[(tramp-as.sites.area)/trampSize] = true
	return tramp, sitePatched
}

// placeLocked finds room for the trampoline of s.
func (as *addressSpace) placeLocked(s site) (uint64, bool) {
	w := &as.sites
	if w.area == 0 || !near(w.area, s.at) {
		at, err := as.patcher.TrampolineArea(platform.Addr(s.at), areaSize)
		if err != nil || !near(uint64(at), s.at) {
			return 0, false
		}
		w.area, w.taken, w.next = uint64(at), make([]bool, areaSize/trampSize), 0
		for p := uint64(0); p < areaSize; p += pageSize {
			gpa, pte := as.lookup(w.area + p)
			if pte&pteP == 0 {
				w.area = 0
				return 0, false
			}
			copy(as.m.host(gpa, trampSize), as.p.cookie[:])
			w.taken[p/trampSize] = true
		}
	}
	for i := range w.taken {
		i = (w.next + i) % len(w.taken)
		tramp := w.area + uint64(i)*trampSize
		if w.taken[i] || s.kind == siteCall && !noOpcode[byte((tramp-(s.at+5))>>8)] {
			continue
		}
		if s.kind == siteMov {
			w.next = i
		}
		return tramp, true
	}
	return 0, false
}

// near says that a jump reaches from one to the other.
func near(a, b uint64) bool {
	const reach = 1<<31 - 1<<20
	return a-b+reach < 2*reach
}

// trampoline assembles what a patched site runs, at address at:
//
//	siteMov                     siteCall
//	mov  $nr, %eax              lea post(%rip), %rcx
//	lea  end(%rip), %rcx        mov %rcx, slot.ret
//	mov  $patched, %r11         lea end(%rip), %rcx
//	jmp  *%r11                  mov $patched2, %r11
//	                            jmp *%r11
//	                      post: insn
//	                            jmp end+len(insn)
//
// RCX and R11 are SYSCALL's to change, and the stub sets them as it would.
func trampoline(s site, at uint64) []byte {
	var b []byte
	rel := func(op []byte, to uint64) {
		b = append(b, op...)
		b = binary.LittleEndian.AppendUint32(b, uint32(to-(at+uint64(len(b))+4)))
	}
	abs := func(op []byte, v uint64) { // sign-extended
		b = append(b, op...)
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	lea, mov11 := []byte{0x48, 0x8d, 0x0d}, []byte{0x49, 0xc7, 0xc3}
	if s.kind == siteMov {
		abs([]byte{0xb8}, uint64(s.nr))
		rel(lea, s.end)
		abs(mov11, patchedAt)
		b = append(b, 0x41, 0xff, 0xe3)
	} else {
		rel(lea, at+trampPost)
		abs([]byte{0x48, 0x89, 0x0c, 0x25}, slotAt+offRet-1)
		rel(lea, s.end)
		abs(mov11, patched2At)
		b = append(b, 0x41, 0xff, 0xe3)
		b = append(b, s.insn...)
		rel([]byte{0xe9}, s.end+uint64(len(s.insn)))
	}
	b = append(b, make([]byte, trampSize-len(b))...)
	binary.LittleEndian.PutUint64(b[trampSite:], s.at)
	binary.LittleEndian.PutUint32(b[trampKind:], uint32(s.kind)|uint32(len(s.insn))<<8|uint32(s.end-s.at)<<16)
	return b
}

// readTrampoline is the site of the trampoline that rip lies in. It is read
// back from memory, for a child process has its parent's trampolines. An application
// that forges one moves its own RIP.
func (as *addressSpace) readTrampoline(rip uint64) (s site, at uint64, ok bool) {
	if as.patcher == nil {
		return s, 0, false
	}
	at = rip &^ (trampSize - 1)
	page := as.text(rip&^(pageSize-1), trampSize)
	b := as.text(at, trampSize)
	if len(b) < trampSize || !bytes.HasPrefix(page, as.p.cookie[:]) || at%pageSize == 0 {
		return s, 0, false
	}
	info := binary.LittleEndian.Uint32(b[trampKind:])
	s.kind, s.at = int(info&0xff), binary.LittleEndian.Uint64(b[trampSite:])
	s.end = s.at + uint64(info>>16)
	s.insn = make([]byte, info>>8&0xff)
	return s, at, s.kind == siteMov || s.kind == siteCall
}

// original is where the application believes to be at rip: in a trampoline it is at
// the site.
func (t *thread) original(rip uint64) uint64 {
	s, at, ok := t.v.as.readTrampoline(rip)
	switch {
	case !ok:
		return rip
	case s.kind == siteMov || rip < at+trampPost:
		return s.at
	case rip == at+trampPost:
		return s.end
	}
	return s.end + uint64(len(s.insn))
}

// resumePatched sends a thread on that met the inside of a jump at rip, behind what was
// a SYSCALL.
func (t *thread) resumePatched(rip uint64) bool {
	as := t.v.as
	if as.patcher == nil || rip < 2 {
		return false
	}
	b := as.text(rip-2, 5)
	if len(b) < 5 || b[0] != 0xe9 || !noOpcode[b[2]] {
		return false
	}
	to := rip + 3 + uint64(int64(int32(binary.LittleEndian.Uint32(b[1:]))))
	s, at, ok := as.readTrampoline(to)
	if !ok || at != to || s.kind != siteCall || s.end != rip {
		return false
	}
	t.v.frame.rip = at + trampPost
	return true
}
