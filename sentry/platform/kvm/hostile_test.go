package kvm

import (
	"testing"
	"time"

	"bulkhead/sentry/platform"
)

// TestOddInstructions: whatever an application executes ends by an event, or can
// be interrupted, and the thread goes on.
func TestOddInstructions(t *testing.T) {
	for _, i := range []struct {
		name string
		code []byte
	}{
		{"vmcall", []byte{0x0f, 0x01, 0xc1}},
		{"vmmcall", []byte{0x0f, 0x01, 0xd9}},
		{"hlt", []byte{0xf4}},
		{"cpuid", []byte{0x0f, 0xa2}},
		{"rdmsr", []byte{0x0f, 0x32}},
		{"rdpmc", []byte{0x0f, 0x33}},
		{"sgdt", []byte{0x0f, 0x01, 0x04, 0x24}},
		{"smsw", []byte{0x0f, 0x01, 0xe0}},
		{"sysenter", []byte{0x0f, 0x34}},
		{"sysexit", []byte{0x0f, 0x35}},
		{"sysretq", []byte{0x48, 0x0f, 0x07}},
		{"iretq", []byte{0x48, 0xcf}},
		{"cli", []byte{0xfa}},
		{"invlpg", []byte{0x0f, 0x01, 0x38}},
		{"xsetbv", []byte{0x0f, 0x01, 0xd1}},
		{"monitor", []byte{0x0f, 0x01, 0xc8}},
		{"int 0x80", []byte{0xcd, 0x80}},
		{"int 0x20", []byte{0xcd, 0x20}},
		{"int 14", []byte{0xcd, 14}},
		{"insb", []byte{0x6c}},
		{"outsb", []byte{0x6e}},
		{"rdtscp", []byte{0x0f, 0x01, 0xf9}},
		{"jmp stub", []byte{0x48, 0xc7, 0xc0, 0, 0, 0, 0x80, 0xff, 0xe0}},
		{"read gates", []byte{0x8a, 0x04, 0x25, 0, 0x20, 0, 0x80}},
		{"read stack", []byte{0x8a, 0x04, 0x25, 0, 0x50, 0, 0x80}},
		{"write stub", []byte{0x88, 0x04, 0x25, 0, 0, 0, 0x80}},
		{"write idt", []byte{0x88, 0x04, 0x25, 0, 0x30, 0, 0x80}},
	} {
		t.Run(i.name, func(t *testing.T) {
			w := newWorld(t)
			w.text(append(i.code, 0xb8, 60, 0, 0, 0, 0x0f, 0x05)...)
			w.show(dataAt, w.pages(1), rw)
			th := w.thread()
			defer th.Close()
			c := start()
			c.Rsp = dataAt + 0x800
			timer := time.AfterFunc(time.Second, th.Interrupt)
			defer timer.Stop()
			ev, err := th.Run(c, w.as)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v, rip %#x", ev, c.Rip)
			c.Rip, c.Eflags, c.Dirty = textAt+uint64(len(i.code)), 0x202, platform.DirtyGPR
			if ev.Reason != platform.Syscall || c.Orig_rax != 60 {
				w.call(th, c, 60)
			}
		})
	}
}
