package loader

import (
	"crypto/rand"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
)

// auxv are the values of the auxiliary vector that the files decide.
type auxv struct {
	phdr, base, entry, vdso uint64
	phnum                   int
}

// Auxiliary vector tags (include/uapi/linux/auxvec.h) that x/sys lacks.
const (
	atNull, atPhdr, atPhent, atPhnum, atPagesz, atBase, atFlags, atEntry = 0, 3, 4, 5, 6, 7, 8, 9
	atUID, atEUID, atGID, atEGID, atPlatform, atHWCap, atClkTck          = 11, 12, 13, 14, 15, 16, 17
	atSecure, atRandom, atHWCap2, atExecFn, atSysinfoEHdr, atMinSigStack = 23, 25, 26, 31, 33, 51
)

// stackGuess is how much of the stack is there from the start; it grows.
const stackGuess = 132 << 10 // stack_expand

// stack builds the first stack: strings at the top, below them the vectors
// (fs/binfmt_elf.c, create_elf_tables). It returns the stack pointer.
func (l *load) stack(prog *program, aux auxv) (uint64, error) {
	top := uint64(l.mm.StackTop())
	limit := l.p.Limits[unix.RLIMIT_STACK].Cur
	strings := 0
	for _, s := range l.p.Args {
		strings += len(s) + 1
	}
	for _, s := range l.p.Env {
		strings += len(s) + 1
	}
	vectors := (len(l.p.Args) + len(l.p.Env) + 3 + 2*24) * 8
	need := uint64(strings + vectors + len(l.execfn) + 256)
	if need > limit {
		return 0, unix.E2BIG
	}
	size := (need + stackGuess + page - 1) &^ (page - 1)
	access := platform.Read | platform.Write
	if prog.stackExec {
		access |= platform.Exec
	}
	low := memory.Addr(top - size)
	if _, err := l.mm.Map(memory.MapRequest{
		At: low, Length: size, Fixed: true, NoReplace: true, GrowsDown: true, Name: "[stack]",
		Prot: access, MaxProt: platform.Read | platform.Write | platform.Exec,
	}); err != nil {
		return 0, err
	}
	l.mm.SetStackRange(low, memory.Addr(top))

	b := stackBuilder{top: top, at: top - 8} // a NULL word ends the stack
	execfn := b.text(l.execfn)
	envEnd := b.at
	env := b.texts(l.p.Env)
	argEnd := b.at
	args := b.texts(l.p.Args)
	ends := [4]memory.Addr{memory.Addr(b.at), memory.Addr(argEnd), memory.Addr(argEnd), memory.Addr(envEnd)}
	name := b.text("x86_64")
	seed := make([]byte, 16)
	rand.Read(seed)
	random := b.bytes(seed)
	b.at &^= 15

	c := l.creds
	secure := uint64(0)
	if l.secure {
		secure = 1
	}
	vector := [][2]uint64{
		{atSysinfoEHdr, aux.vdso},
		{atMinSigStack, minSigStack()},
		{atHWCap, hwcap()}, {atPagesz, page}, {atClkTck, 100},
		{atPhdr, aux.phdr}, {atPhent, phdrSize}, {atPhnum, uint64(aux.phnum)},
		{atBase, aux.base}, {atFlags, 0}, {atEntry, aux.entry},
		{atUID, uint64(c.UID)}, {atEUID, uint64(c.EUID)}, {atGID, uint64(c.GID)}, {atEGID, uint64(c.EGID)},
		{atSecure, secure}, {atRandom, random}, {atHWCap2, hwcap2()}, {atExecFn, execfn}, {atPlatform, name},
		{atNull, 0},
	}
	if aux.vdso == 0 {
		vector = vector[1:]
	}
	words := []uint64{uint64(len(args))}
	words = append(append(words, args...), 0)
	words = append(append(words, env...), 0)
	for _, v := range vector {
		words = append(words, v[0], v[1])
	}
	if len(words)%2 != 0 {
		b.at -= 8 // RSP is 16-byte aligned at the entry
	}
	table := make([]byte, 0, len(words)*8)
	for _, w := range words {
		table = binary.LittleEndian.AppendUint64(table, w)
	}
	sp := b.bytes(table)
	l.start = kernel.Start{ArgStart: ends[0], ArgEnd: ends[1], EnvStart: ends[2], EnvEnd: ends[3], Auxv: table[(len(args)+len(env)+3)*8:]}
	if _, err := l.mm.Write(memory.Addr(sp), b.content()); err != nil {
		return 0, err
	}
	return sp, nil
}

// stackBuilder collects what lies on the stack, from the top down.
type stackBuilder struct {
	top, at uint64
	pieces  []piece
}

type piece struct {
	at uint64
	b  []byte
}

func (b *stackBuilder) bytes(p []byte) uint64 {
	b.at -= uint64(len(p))
	b.pieces = append(b.pieces, piece{b.at, p})
	return b.at
}

func (b *stackBuilder) text(s string) uint64 { return b.bytes(append([]byte(s), 0)) }

func (b *stackBuilder) texts(list []string) []uint64 {
	at := make([]uint64, len(list))
	for i := len(list) - 1; i >= 0; i-- {
		at[i] = b.text(list[i])
	}
	return at
}

// content is everything from the lowest piece up.
func (b *stackBuilder) content() []byte {
	c := make([]byte, b.top-b.at)
	for _, p := range b.pieces {
		copy(c[p.at-b.at:], p.b)
	}
	return c
}
