package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"bulkhead/hwtest/lab"
)

// random is n bytes that are the same each time.
func random(n int) []byte {
	b := make([]byte, n)
	// ChaCha8 never fails.
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

const size = 100 << 20 // bytes that go through each device

// TestDevices sends 100 MB through disk and share, and compares checksums.
func TestDevices(t *testing.T) {
	if !inLinux(t, lab.Machine{}) {
		return
	}
	dir := t.TempDir()
	data := random(size)
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	k := kernels(t)[0]

	t.Run("disk", func(t *testing.T) {
		in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
		write(t, in, data)
		must(t, os.Truncate(create(t, out), size))
		code, _ := run(t, k.with(`cat /sys/block/vda/serial; sha256sum /dev/vda && dd if=/dev/vda of=/dev/vdb bs=1M && sync`,
			"--disk", in+",ro,id=first", "--disk", out+",queues=2", "--cpus", processors(t))...)
		b, err := os.ReadFile(out)
		if code != 0 || err != nil || fmt.Sprintf("%x", sha256.Sum256(b)) != sum {
			t.Errorf("exit code %d, %v, or what the guest copied differs", code, err)
		}
	})
	t.Run("share", func(t *testing.T) {
		must(t, os.Mkdir(filepath.Join(dir, "share"), 0o755))
		write(t, filepath.Join(dir, "share/in"), data)
		code, out := run(t, k.with(`cd /mnt/s && sha256sum in && cp in out && rm in && ln -s out link && mkdir d && echo x >d/x && ls -la`,
			"--share", "s="+filepath.Join(dir, "share"))...)
		b, err := os.ReadFile(filepath.Join(dir, "share/link"))
		if code != 0 || !strings.Contains(out, sum) || err != nil || string(b) != string(data) {
			t.Errorf("exit code %d, %v, or a checksum differs", code, err)
		}
	})
	t.Run("read-only share", func(t *testing.T) {
		code, _ := run(t, k.with(`! echo x >/mnt/s/new && exec cat /mnt/s/d/x`, "--share", "s="+filepath.Join(dir, "share")+",ro")...)
		if _, err := os.Stat(filepath.Join(dir, "share/new")); code != 0 || err == nil {
			t.Errorf("exit code %d, or the guest wrote: %v", code, err)
		}
	})
	t.Run("entropy", func(t *testing.T) {
		if code, out := run(t, k.with(`cat /sys/class/misc/hw_random/rng_current; dd if=/dev/hwrng bs=64 count=1 | wc`)...); code != 0 || !strings.Contains(out, "virtio_rng") {
			t.Errorf("exit code %d, or the guest's entropy is not virtio's", code)
		}
	})
	t.Run("console", func(t *testing.T) {
		if len(k.args) > 0 {
			t.Skip("Debian's kernel has hvc0 in a module, and no console before; needs ours (make kernel)")
		}
		code, out := run(t, k.with(`cat /proc/consoles; exit 3`, "--console", "stdio")...)
		if code != 3 || !strings.Contains(out, "hvc0") {
			t.Errorf("exit code %d, or the console is not hvc0", code)
		}
	})
	t.Run("balloon", func(t *testing.T) { testBalloon(t, k) })
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	must(t, os.WriteFile(path, b, 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestNetwork pings, and downloads 100 MB over a TAP.
func TestNetwork(t *testing.T) {
	if !inLinux(t, lab.Machine{}) {
		return
	}
	k, data := kernels(t)[0], random(size)
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	const busybox = "/usr/bin/busybox" // the lab has the host's
	if _, err := os.Stat(busybox); err != nil {
		t.Skip("needs busybox-static (apt-get install busybox-static):", err)
	}
	for _, args := range []string{"ip tuntap add dev e2e0 mode tap", "ip addr add 10.98.0.1/24 dev e2e0", "ip link set e2e0 up"} {
		words := strings.Fields(args)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Skipf("needs root and ip(8) to make a TAP: %s: %v %s", args, err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "e2e0").Run() })
	l, err := net.Listen("tcp", "10.98.0.1:0")
	must(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) })}
	go server.Serve(l)
	defer server.Close()
	script := fmt.Sprintf(`b=/mnt/bin/busybox; $b ping -c 3 10.98.0.1 && $b wget -q -O - http://%v/ | sha256sum`, l.Addr())
	code, out := run(t, k.with(script, "--net", "tap=e2e0", "--share", "bin=/usr/bin,ro",
		"--cmdline", "console=ttyS0 quiet panic=-1 pci=off bulkhead.ip=10.98.0.2/24")...)
	if code != 0 || !strings.Contains(out, " 0% packet loss") || !strings.Contains(out, sum) {
		t.Errorf("exit code %d, or packets were lost, or the checksum differs", code)
	}
}

// testBalloon: what the guest gives up, the host has again.
func testBalloon(t *testing.T, k kernel) {
	v := start(t, k.with(`dd if=/dev/zero of=/fill bs=1M count=300; rm /fill; echo up; sleep 1000`, "--balloon", "--memory", "512M")...)
	v.await("up\r\n", 0)
	before := resident(t, v.cmd.Process.Pid)
	v.must("PUT", "/v1/balloon", `{"target_mib":256}`, nil)
	var b struct {
		ActualMiB  int `json:"actual_mib"`
		Statistics map[string]uint64
	}
	for b.ActualMiB < 256 { // else the test ends by its deadline
		v.must("GET", "/v1/balloon", "", &b)
	}
	if after := resident(t, v.cmd.Process.Pid); after > before-100 {
		t.Errorf("%d MiB were in memory, and %d with a balloon of 256", before, after)
	}
	if b.Statistics["free_memory"] == 0 {
		t.Errorf("the guest's statistics: %v", b.Statistics)
	}
	v.must("PUT", "/v1/balloon", `{"target_mib":0}`, nil)
	for b.ActualMiB > 0 {
		v.must("GET", "/v1/balloon", "", &b)
	}
}

// resident is a process's MiB in memory.
func resident(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	_, after, _ := strings.Cut(string(b), "VmRSS:")
	var kib int
	fmt.Sscan(after, &kib)
	return kib >> 10
}

// TestFootprint: a VMM is small beside its guest, whose memory is told apart by
// the size of its mapping.
func TestFootprint(t *testing.T) {
	needKVM(t)
	const guest, most = 256 << 10, 20 << 10 // KiB
	v := start(t, "--force", "--init", "own", "--memory", "256M", "--cpus", "4", "--disk", sparse(t, t.TempDir(), 1<<30), microGuest(t, t.TempDir()))
	if _, err := waitFor(v, "/v1/machine"); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", v.cmd.Process.Pid))
	must(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	must(t, err)
	var pss, size int
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue
		}
		n, _ := strconv.Atoi(fields[1])
		switch fields[0] {
		case "Size:":
			size = n
		case "Pss:":
			if size < guest {
				pss += n
			}
		}
	}
	t.Logf("%d KiB beyond the guest's memory", pss)
	if pss == 0 || pss > most {
		t.Errorf("%d KiB, want at most %d", pss, most)
	}
}

// BenchmarkFirstInstruction is from the program's start to the guest's, with a kernel
// of 10 MB and 256 MiB of memory.
func BenchmarkFirstInstruction(b *testing.B) {
	path := filepath.Join(b.TempDir(), "kernel")
	poweringOff(b, path)
	var all []float64
	for b.Loop() {
		out, err := exec.Command(program(b), "boot", "--force", "--init", "own", "--memory", "256M", "--timing", path).CombinedOutput()
		if err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		before, _, ok := strings.Cut(string(out), " ms  first instruction")
		ms, err := strconv.ParseFloat(strings.TrimSpace(before[strings.LastIndex(before, "vmm: ")+5:]), 64)
		if !ok || err != nil {
			b.Fatalf("no time in\n%s", out)
		}
		all = append(all, ms)
	}
	slices.Sort(all)
	b.ReportMetric(all[0], "ms-least")
	b.ReportMetric(all[len(all)/2], "ms-median")
}
