package lab

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"bulkhead/kernels/debian"
)

// TestGentle changes the module that the lab loads, and in it nothing but the one call, the code in place
// of a function, and what was relocated there. That guests live by it is what the lab's other tests see.
func TestGentle(t *testing.T) {
	if err := Check(); err != nil {
		t.Skip(err)
	}
	kernel, err := debian.FetchKernel(t.Context(), kernelPackage)
	if err != nil {
		t.Skip(err)
	}
	was, err := os.ReadFile(filepath.Join(kernel.Modules, "kernel/arch/x86/kvm", kvmAMD))
	if err != nil {
		t.Fatal(err)
	}
	now, err := gentle(was)
	if errors.Is(err, errModule) {
		t.Skipf("Debian builds this kernel otherwise (gentle wants a look): %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	was = unsigned(was)
	if len(was) != len(now) {
		t.Fatalf("%d bytes, and were %d", len(now), len(was))
	}
	code, hole := injection(0)
	m, err := openModule(now)
	if err != nil {
		t.Fatal(err)
	}
	spare, err := m.function("sev_dbg_crypt")
	if err != nil {
		t.Fatal(err)
	}
	if i := bytes.Index(spare.code, code[len(code)-20:]); i < 0 {
		t.Error("the code is not there")
	}
	enter, err := m.function("__svm_vcpu_run")
	if err != nil {
		t.Fatal(err)
	}
	caller, err := m.function("svm_vcpu_enter_exit")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.call(caller, enter); err == nil {
		t.Error("the guest is still entered directly")
	}
	at, err := m.call(spare, enter)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := m.get(at).offset, spare.Value+5+uint64(hole); got != want {
		t.Errorf("the call's place is %#x, want %#x", got, want)
	}
	differ := 0
	for i := range was {
		if was[i] != now[i] {
			differ++
		}
	}
	if most := len(code) + 8*relocationSize; differ > most {
		t.Errorf("%d bytes differ, want %d at most", differ, most)
	}
}

// TestGentleRefuses wants an error for what is no such module.
func TestGentleRefuses(t *testing.T) {
	for name, module := range map[string][]byte{"nothing": nil, "text": []byte("no module"), "a program": program([]byte{0xc3})} {
		if got, err := gentle(module); err == nil {
			t.Errorf("%s: %d bytes and no error", name, len(got))
		}
	}
}
