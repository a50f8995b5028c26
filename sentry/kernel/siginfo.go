package kernel

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Values of si_code (include/uapi/asm-generic/siginfo.h).
const (
	SI_USER    = 0
	SI_KERNEL  = 0x80
	SI_QUEUE   = -1
	SI_TIMER   = -2
	SI_MESGQ   = -3
	SI_ASYNCIO = -4
	SI_SIGIO   = -5
	SI_TKILL   = -6
)

// SigInfo is siginfo_t as it lies in memory.
type SigInfo [128]byte

// Signo, Code: the common fields. PID, UID, Value: of the layouts that have
// them.
func (i *SigInfo) Signo() unix.Signal     { return unix.Signal(int32(binary.LittleEndian.Uint32(i[0:]))) }
func (i *SigInfo) Code() int32            { return int32(binary.LittleEndian.Uint32(i[8:])) }
func (i *SigInfo) Uint32(at int) uint32   { return binary.LittleEndian.Uint32(i[at:]) }
func (i *SigInfo) Uint64(at int) uint64   { return binary.LittleEndian.Uint64(i[at:]) }
func (i *SigInfo) put32(at int, v uint32) { binary.LittleEndian.PutUint32(i[at:], v) }
func (i *SigInfo) put64(at int, v uint64) { binary.LittleEndian.PutUint64(i[at:], v) }

func newInfo(sig unix.Signal, code int32) *SigInfo {
	i := &SigInfo{}
	i.put32(0, uint32(sig))
	i.put32(8, uint32(code))
	return i
}

func kernelInfo(sig unix.Signal) *SigInfo { return newInfo(sig, SI_KERNEL) }

// UserInfo is what kill(2) (SI_USER) and tkill(2) (SI_TKILL) send.
func UserInfo(sig unix.Signal, code int32, pid int32, uid uint32) *SigInfo {
	i := newInfo(sig, code)
	i.put32(16, uint32(pid))
	i.put32(20, uid)
	return i
}

// faultInfo is the _sigfault layout.
func faultInfo(sig unix.Signal, code int32, addr uint64) *SigInfo {
	i := newInfo(sig, code)
	i.put64(16, addr)
	return i
}

// TimerInfo is what a POSIX timer sends.
func TimerInfo(sig unix.Signal, id int32, overrun int32, value uint64) *SigInfo {
	i := newInfo(sig, SI_TIMER)
	i.put32(16, uint32(id))
	i.put32(20, uint32(overrun))
	i.put64(24, value)
	return i
}

// tellsOfTimer says that a timer may wait for the signal to be taken, to go on.
func (i *SigInfo) tellsOfTimer() bool { return i.Code() == SI_TIMER || i.Signo() == unix.SIGALRM }

// MessageInfo is what mq_notify(2) sends.
func MessageInfo(sig unix.Signal, pid int32, uid uint32, value uint64) *SigInfo {
	i := UserInfo(sig, SI_MESGQ, pid, uid)
	i.put64(24, value)
	return i
}

func childInfo(code int32, pid int32, uid uint32, status int32, user, sys int64) *SigInfo {
	i := newInfo(unix.SIGCHLD, code)
	i.put32(16, uint32(pid))
	i.put32(20, uid)
	i.put32(24, uint32(status))
	i.put64(32, uint64(user))
	i.put64(40, uint64(sys))
	return i
}
