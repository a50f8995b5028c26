package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"time"

	"bulkhead/guestinit/config"
	"bulkhead/kvm"
	"bulkhead/virtio/balloon"
	"bulkhead/vmm/boot"
	words "bulkhead/vmm/config"
	"bulkhead/vmm/host"
	"bulkhead/vmm/machine"
	"bulkhead/vmm/ram"
	"bulkhead/vmm/terminal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func (p Program) boot() *cobra.Command {
	m := words.Default()
	var file string
	var force bool
	c := &cobra.Command{
		Use:   "boot [flags] [KERNEL] [-- COMMAND [ARG]...]",
		Short: "Boot a Linux kernel (ELF or bzImage)",
		Long: `Boot a Linux kernel, an ELF file or a bzImage, in a machine of its own. Without
an --initrd the guest runs a shell, or COMMAND, whose exit code becomes this
program's.

Exit codes: the guest's own where it powered off (0 without a command), 100 it
asked for a reset, 101 triple fault, 102 KVM or a part of the machine failed, 103
stopped from outside, 124 its --timeout was over, 1 it never ran.`,
		Example: `  vmm boot vmlinux
  vmm boot --cpus 2 --memory 1G --disk root.img --cmdline "console=ttyS0 root=/dev/vda" bzImage
  vmm boot --share src=.,ro vmlinux -- ls -l /mnt/src
  vmm boot --bundle DIR`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := arguments(c, m, args); err != nil {
				return err
			}
			if file != "" {
				if err := m.ReadFile(file, c.Flags()); err != nil {
					return err
				}
			}
			ignored, err := m.ReadBundle()
			if err == nil {
				err = m.Check()
			}
			if err == nil && m.Kernel == "" && m.FromSnapshot == "" {
				m.Kernel, err = findKernel()
			}
			if err != nil {
				return err
			}
			return p.run(m, force, ignored)
		},
	}
	m.Flags(c.Flags())
	c.Flags().StringVar(&file, "config", "", "machine `FILE`, TOML or JSON, with these words, kernel and command")
	c.Flags().BoolVar(&force, "force", false, "run also where ring 0 is emulated; Linux does not get far there")
	return c
}

// arguments are the kernel and, behind --, the command.
func arguments(c *cobra.Command, m *words.Machine, args []string) error {
	dash := c.ArgsLenAtDash()
	if dash >= 0 {
		m.Command = args[dash:]
		args = args[:dash]
	}
	if len(args) > 1 {
		return fmt.Errorf("boot: one kernel, not %q; a command for the guest stands behind --", args)
	}
	if len(args) == 1 {
		m.Kernel = args[0]
	}
	return nil
}

// processors is for how many threads Go's scheduler has room: besides the host's CPUs, for
// those that hold a place while they wait in the kernel, as a vCPU in its guest and a
// queue at its doorbell do. Without room the scheduler's monitor takes their places
// away, every 20 µs, or others wait up to 10 ms for one.
func processors(m *words.Machine) int {
	queues := 4 // consoles, entropy, balloon, sockets, shares: seldom busy together
	for _, d := range m.Disks {
		queues += max(d.Queues, 1)
	}
	for _, n := range m.Nets {
		queues += max(n.Queues, 1) // a pair waits as one
	}
	return runtime.NumCPU() + m.CPUs + queues
}

// run is a guest's whole life.
func (p Program) run(m *words.Machine, force bool, ignored []string) error {
	runtime.GOMAXPROCS(processors(m))
	r := &run{words: m, times: newTimes(p.Began), started: make(chan struct{}), ended: make(chan machine.Ending, 8)}
	r.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: m.LogLevel.Threshold()}))
	if err := patient(); err != nil {
		r.log.Debug("threads keep their policy", "err", err)
	}
	if len(ignored) > 0 {
		r.log.Warn("not honoured in a guest", "bundle", m.Bundle, "parts", ignored)
	}
	e, err := r.life(force)
	if closed := r.close(); err == nil {
		err = closed
	}
	r.times.print(m, e, err)
	switch {
	case err != nil:
		return err
	case e.Code() == 0:
		return nil
	case e.Reason != machine.PowerOff && !m.JSON:
		report(os.Stderr, fmt.Errorf("the guest ended: %v", e))
	}
	return exit(e.Code())
}

// run is one guest with all that it holds of the host.
type run struct {
	words   *words.Machine
	log     *slog.Logger
	times   *times
	machine *machine.Machine
	started chan struct{}       // closed when machine is there
	ended   chan machine.Ending // asked for, perhaps before there is a machine to end
	closers []func() error      // in the order of opening
	socket  net.Listener        // the API's, or nil

	snapshot *machine.Snapshot // to go on from, or nil
	balloon  *balloon.Device   // or nil

	terminals []*terminal.Terminal // of consoles
	told      []string             // lines for the person, once the guest is to run
}

func (r *run) life(force bool) (machine.Ending, error) {
	stop := r.signals() // before the terminal is made raw, so that it is given back
	defer stop()
	for _, step := range []func() error{r.listen, func() error { return r.assemble(force) }, r.restrict} {
		if err := step(); err != nil {
			return machine.Ending{}, err
		}
	}
	r.times.mark("confined")
	for _, line := range r.told {
		fmt.Fprintln(os.Stderr, "vmm:", line)
	}
	if err := r.machine.Start(); err != nil {
		return machine.Ending{}, err
	}
	close(r.started)
	r.serve()
	go r.watch()
	e := r.machine.Ending()
	select {
	case <-r.machine.Entered():
		r.times.markAt("first instruction", r.machine.EnteredAt())
	default:
	}
	return e, nil
}

// assemble opens everything and makes the machine. Three things take time, and go
// on at once: to find out whether this host can run a guest, to load its
// kernel, and to make the machine. What is wrong with the words comes before what
// is wrong with the host: it is said on any.
func (r *run) assemble(force bool) error {
	sys, none := kvm.Open()
	may := func() error { return host.Explain(none) }
	if none == nil {
		defer sys.Close()
		may = sync.OnceValue(func() error { return mayRun(sys, force) })
		go may()
		defer may() // it is done with sys then
	}
	c, loaded, err := r.prepare()
	if err != nil {
		return err
	}
	var built error
	if sys != nil {
		built = r.build(sys, c)
		r.times.mark("machine built")
	}
	entry, err := loaded()
	switch {
	case err != nil:
		return err
	case may() != nil: // it is worth more than built: nothing else will help
		return may()
	case built != nil:
		return built
	case r.snapshot != nil:
		return r.machine.Restore(r.snapshot)
	}
	return r.machine.Boot(entry)
}

// prepare does all that needs no KVM: it opens what the words name, and begins to load
// the kernel. The caller waits for that by loaded.
func (r *run) prepare() (c machine.Config, loaded func() (boot.Entry, error), err error) {
	c = machine.Config{
		CPUs: r.words.CPUs, Mask: r.words.Without,
		Log: r.log, Reached: func(s config.Stage) { r.times.mark("init " + s.String()) },
	}
	if err := r.memory(&c); err != nil {
		return c, nil, err
	}
	r.closers = append(r.closers, c.Memory.Close) // the machine's, once there is one
	if err := r.openConsoles(&c); err != nil {
		return c, nil, err
	}
	load := func() (boot.Entry, error) { return boot.Entry{}, nil }
	if r.snapshot == nil {
		k, err := r.kernel()
		if err != nil {
			return c, nil, err
		}
		load = func() (boot.Entry, error) { return machine.Load(c.Memory, k) }
	}
	loaded = sync.OnceValues(func() (boot.Entry, error) {
		entry, err := load()
		r.times.mark("kernel loaded")
		return entry, err
	})
	go loaded()
	if err = r.openDevices(&c); err == nil {
		err = machine.CheckDevices(c.Devices)
	}
	if err == nil && r.snapshot != nil {
		err = r.snapshot.Check(c.Devices)
	}
	if err != nil {
		_, _ = loaded() // into memory that goes with the run
	}
	return c, loaded, err
}

// mayRun refuses a host that would not get a Linux guest to its init.
func mayRun(sys *kvm.System, force bool) error {
	if force {
		return nil
	}
	return host.MayRun(sys)
}

// build makes the machine.
func (r *run) build(sys *kvm.System, c machine.Config) error {
	var err error
	if r.machine, err = machine.New(sys, c); err != nil {
		return err
	}
	r.closers = append(r.closers, r.machine.Close)
	return nil
}

// memory is new, or a snapshot's.
func (r *run) memory(c *machine.Config) (err error) {
	m := r.words
	if m.FromSnapshot == "" {
		c.Memory, err = ram.New(uint64(m.Memory), ram.Backing(m.Backing))
		return err
	}
	if r.snapshot, err = machine.OpenSnapshot(m.FromSnapshot); err != nil {
		return err
	}
	r.closers = append(r.closers, r.snapshot.Close)
	c.CPUs = r.snapshot.CPUs()
	c.Memory, err = r.snapshot.Memory()
	return err
}

// kernel opens what is to be booted.
func (r *run) kernel() (machine.Kernel, error) {
	m := r.words
	k := machine.Kernel{Cmdline: m.Cmdline, Protocol: boot.Protocol(m.Boot)}
	if k.Cmdline == "" {
		k.Cmdline = m.DefaultCmdline()
	}
	var err error
	if k.File, err = r.openFile("kernel", m.Kernel); err != nil {
		return k, err
	}
	k.Initrd, err = r.initrd()
	return k, err
}

// watch waits for what ends or marks a guest from outside.
func (r *run) watch() {
	var late <-chan time.Time
	if t := r.words.Timeout; t > 0 {
		timer := time.NewTimer(t - time.Since(r.times.began))
		defer timer.Stop()
		late = timer.C
	}
	for {
		select {
		case e := <-r.ended:
			r.machine.End(e)
		case <-late:
			r.machine.End(machine.Ending{Reason: machine.TimedOut})
			late = nil
		case <-r.machine.Done():
			return
		}
	}
}

// end asks the guest to end; the first who asks is heard.
func (r *run) end(e machine.Ending) {
	select {
	case r.ended <- e:
	default:
	}
}

// signals end the guest, or have a snapshot taken of it.
func (r *run) signals() (stop func()) {
	c := make(chan os.Signal, 8)
	signal.Notify(c, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-c:
				r.signal(s)
			case <-done:
				return
			}
		}
	}()
	return func() { signal.Stop(c); close(done) }
}

func (r *run) signal(s os.Signal) {
	if s == unix.SIGUSR1 {
		r.save()
		return
	}
	r.end(machine.Ending{Reason: machine.Stopped})
}

// save writes the snapshot that --snapshot-to asks for, and ends the guest.
func (r *run) save() {
	path := r.words.SnapshotTo
	if path == "" {
		r.log.Warn("SIGUSR1 without --snapshot-to has no effect")
		return
	}
	select {
	case <-r.started:
	default:
		r.log.Warn("SIGUSR1 before there is anything to save has no effect")
		return
	}
	if err := r.machine.Save(path); err != nil {
		r.log.Error("no snapshot", "err", err)
		_ = r.machine.Resume() // ErrEnded: then there is nothing to go on with
		return
	}
	r.machine.End(machine.Ending{Reason: machine.Saved})
}

func (r *run) close() error {
	var errs []error
	for i := len(r.closers) - 1; i >= 0; i-- {
		errs = append(errs, r.closers[i]())
	}
	return errors.Join(errs...)
}
