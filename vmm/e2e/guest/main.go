// Guest is what runs in a guest of the tests, where the small userland of guestinit has
// no program for it: the guest's side of vsock, by the package that people use, and
// who hears of it that the guest goes on from a snapshot, or takes all of its processor.
package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"sync"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"bulkhead/vmm/e2e/exchange"
)

const usage = `usage: guest listen PORT CONNECTIONS BYTES | guest dial PORT CONNECTIONS BYTES | guest forks | guest hog`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 1 && args[0] == "forks" {
		return forks()
	}
	if len(args) == 1 && args[0] == "hog" {
		return hog()
	}
	if len(args) != 4 {
		return errors.New(usage)
	}
	var n [3]int64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseInt(args[1+i], 10, 64); err != nil {
			return err
		}
	}
	connect := map[string]func(port uint32, count int) ([]*vsock.Conn, error){"listen": listen, "dial": dial}[args[0]]
	if connect == nil {
		return errors.New(usage)
	}
	conns, err := connect(uint32(n[0]), int(n[1]))
	if err != nil {
		return err
	}
	fmt.Printf("%d connections\n", len(conns))
	return all(conns, n[2])
}

// hog takes the processor that it runs on and gives it back to nobody, not for the twentieth
// either that the kernel keeps for ordinary programs (sched(7)).
func hog() error {
	if err := os.WriteFile("/proc/sys/kernel/sched_rt_runtime_us", []byte("-1"), 0); err != nil {
		return err
	}
	runtime.LockOSThread()
	const most = 99 // priority
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: most}, 0); err != nil {
		return err
	}
	for n := uint64(1); n != 0; n *= 3 { // which never is
	}
	return nil
}

// forks tells random bytes of the kernel's, and tells others each time that the kernel says
// that it is another machine's copy (drivers/char/random.c, add_vmfork_randomness).
func forks() error {
	log, err := os.Open("/dev/kmsg")
	if err != nil {
		return err
	}
	defer log.Close()
	if _, err := log.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	tell := func(what string) {
		b := make([]byte, 16)
		rand.Read(b) // getrandom(2), which does not fail
		fmt.Printf("%s: random %x\n", what, b)
	}
	tell("booted")
	record := make([]byte, 8192) // a read is a record (Documentation/ABI/testing/dev-kmsg)
	for {
		n, err := log.Read(record)
		if err != nil && !errors.Is(err, unix.EPIPE) { // some were overwritten
			return err
		}
		if bytes.Contains(record[:n], []byte("due to virtual machine fork")) {
			tell("forked")
		}
	}
}

// listen takes count connections from the host.
func listen(port uint32, count int) ([]*vsock.Conn, error) {
	l, err := vsock.Listen(port, nil)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	fmt.Printf("listening on %d\n", port)
	var conns []*vsock.Conn
	for range count {
		c, err := l.Accept()
		if err != nil {
			return nil, fmt.Errorf("connection %d: %w", len(conns), err)
		}
		conns = append(conns, c.(*vsock.Conn))
	}
	return conns, nil
}

// dial makes count connections to the host.
func dial(port uint32, count int) ([]*vsock.Conn, error) {
	var conns []*vsock.Conn
	for range count {
		c, err := vsock.Dial(vsock.Host, port, nil)
		if err != nil {
			return nil, fmt.Errorf("connection %d: %w", len(conns), err)
		}
		conns = append(conns, c)
	}
	return conns, nil
}

// all exchanges size bytes over every connection at once. The end of what one has to
// say is told by shutdown(2), and awaited from the other.
func all(conns []*vsock.Conn, size int64) error {
	errs := make([]error, len(conns))
	var work sync.WaitGroup
	for i, c := range conns {
		work.Go(func() {
			defer c.Close()
			if errs[i] = exchange.Do(c, size, uint64(i)); errs[i] != nil {
				return
			}
			if errs[i] = c.CloseWrite(); errs[i] != nil {
				return
			}
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				errs[i] = fmt.Errorf("connection %d: %v after all was said", i, err)
			}
		})
	}
	work.Wait()
	return errors.Join(errs...)
}
