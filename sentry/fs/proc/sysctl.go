package proc

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/kernfs"
	"bulkhead/sentry/fs/pipe"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/vfs"
)

// sysctl is one file of /proc/sys.
type sysctl struct {
	path string
	text string // what it says; with keep, to begin with
	keep bool   // writing changes what reading shows, and nothing else

	read  func(fs *FileSystem) string
	show  func(ctx vfs.Context, fs *FileSystem) string // read, where it depends on who asks
	write func(fs *FileSystem, ctx vfs.Context, s string) error
}

// sysctls are those that programs read. A number that this kernel does not go by
// is Linux's default.
var sysctls = []sysctl{
	{path: "kernel/ostype", text: "Linux"},
	{path: "kernel/osrelease", read: func(fs *FileSystem) string { return fs.OSRelease }},
	{path: "kernel/version", read: func(fs *FileSystem) string { return fs.OSVersion }},
	{path: "kernel/arch", text: "x86_64"},
	{path: "kernel/hostname", show: func(ctx vfs.Context, fs *FileSystem) string { h, _ := fs.uts(ctx).Names(); return h }, write: setHostname},
	{path: "kernel/domainname", show: func(ctx vfs.Context, fs *FileSystem) string { _, d := fs.uts(ctx).Names(); return d }, write: setDomainname},
	{path: "kernel/pid_max", text: fmt.Sprint(kernel.PIDMax)},
	{path: "kernel/threads-max", text: "192037"},
	{path: "kernel/ns_last_pid", read: func(fs *FileSystem) string { _, last := fs.Kernel.PIDsIn(fs.pids()); return fmt.Sprint(last) }},
	{path: "kernel/cap_last_cap", text: fmt.Sprint(unix.CAP_LAST_CAP)},
	{path: "kernel/ngroups_max", text: "65536"},
	{path: "kernel/overflowuid", text: "65534"},
	{path: "kernel/overflowgid", text: "65534"},
	{path: "kernel/core_pattern", read: func(fs *FileSystem) string { p, _ := fs.Kernel.Core.Get(); return p },
		write: func(fs *FileSystem, _ vfs.Context, s string) error { return fs.Kernel.Core.Set(s) }},
	{path: "kernel/core_uses_pid", read: coreUsesPID, write: setCoreUsesPID},
	{path: "kernel/core_pipe_limit", text: "0"},
	{path: "kernel/randomize_va_space", text: "2"},
	{path: "kernel/kptr_restrict", text: "1"},
	{path: "kernel/dmesg_restrict", text: "1"},
	{path: "kernel/perf_event_paranoid", text: "4"}, // perf_event_open is not served
	{path: "kernel/unprivileged_bpf_disabled", text: "2"},
	{path: "kernel/io_uring_disabled", text: "0"},
	{path: "kernel/panic", text: "0"},
	{path: "kernel/panic_on_oops", text: "0"},
	{path: "kernel/printk", text: "4\t4\t1\t7"},
	{path: "kernel/tainted", text: "0"},
	{path: "kernel/sched_child_runs_first", text: "0"},
	{path: "kernel/sched_rr_timeslice_ms", text: "100"},
	{path: "kernel/sched_rt_period_us", text: "1000000"},
	{path: "kernel/sched_rt_runtime_us", text: "950000"},
	{path: "kernel/numa_balancing", text: "0"},
	{path: "kernel/sysctl_writes_strict", text: "1"},
	{path: "kernel/keys/maxkeys", text: "200"},
	{path: "kernel/keys/maxbytes", text: "20000"},
	{path: "kernel/pty/max", text: "4096"},
	{path: "kernel/pty/nr", text: "0"},
	{path: "kernel/random/boot_id", read: func(fs *FileSystem) string { return fs.Kernel.BootID }},
	{path: "kernel/random/uuid", read: func(*FileSystem) string { return uuid() }},
	{path: "kernel/random/entropy_avail", text: "256"},
	{path: "kernel/random/poolsize", text: "256"},
	{path: "kernel/seccomp/actions_avail", text: "kill_process kill_thread trap errno user_notif trace log allow"},
	{path: "kernel/yama/ptrace_scope", text: "0"},

	{path: "kernel/seccomp/actions_logged", text: "kill_process kill_thread trap errno user_notif trace log", keep: true},
	{path: "kernel/sched_autogroup_enabled", text: "0", keep: true},
	{path: "kernel/perf_event_max_sample_rate", text: "100000"},
	{path: "kernel/perf_event_mlock_kb", text: "516"},
	{path: "kernel/watchdog", text: "0"},
	{path: "kernel/nmi_watchdog", text: "0"},
	{path: "kernel/hung_task_timeout_secs", text: "0"},
	{path: "kernel/printk_ratelimit", text: "5"},
	{path: "kernel/printk_ratelimit_burst", text: "10"},

	{path: "vm/overcommit_memory", text: "0", keep: true},
	{path: "vm/overcommit_ratio", text: "50", keep: true},
	{path: "vm/overcommit_kbytes", text: "0"},
	{path: "vm/max_map_count", text: "65530", keep: true},
	{path: "vm/mmap_min_addr", text: "65536"},
	{path: "vm/mmap_rnd_bits", text: "28"},
	{path: "vm/legacy_va_layout", text: "0"},
	{path: "vm/swappiness", text: "60", keep: true},
	{path: "vm/nr_hugepages", text: "0"},
	{path: "vm/nr_overcommit_hugepages", text: "0"},
	{path: "vm/hugetlb_shm_group", text: "0"},
	{path: "vm/min_free_kbytes", text: "67584"},
	{path: "vm/dirty_ratio", text: "20", keep: true},
	{path: "vm/dirty_background_ratio", text: "10", keep: true},
	{path: "vm/dirty_expire_centisecs", text: "3000", keep: true},
	{path: "vm/dirty_writeback_centisecs", text: "500", keep: true},
	{path: "vm/oom_kill_allocating_task", text: "0"},
	{path: "vm/panic_on_oom", text: "0"},
	{path: "vm/page-cluster", text: "3"},
	{path: "vm/vfs_cache_pressure", text: "100", keep: true},
	{path: "vm/zone_reclaim_mode", text: "0"},
	{path: "vm/unprivileged_userfaultfd", text: "0"},
	{path: "vm/memfd_noexec", text: "0"},
	{path: "vm/drop_caches", text: "0", keep: true},
	{path: "vm/compact_memory", text: "0", keep: true},
	{path: "vm/admin_reserve_kbytes", text: "8192"},
	{path: "vm/user_reserve_kbytes", text: "131072"},
	{path: "vm/watermark_scale_factor", text: "10"},
	{path: "vm/dirty_bytes", text: "0"},
	{path: "vm/dirty_background_bytes", text: "0"},
	{path: "vm/laptop_mode", text: "0"},
	{path: "vm/stat_interval", text: "1"},
	{path: "vm/oom_dump_tasks", text: "1"},

	{path: "fs/file-max", text: "9223372036854775807"},
	{path: "fs/file-nr", text: "0\t0\t9223372036854775807"},
	{path: "fs/inode-nr", text: "0\t0"},
	{path: "fs/inode-state", text: "0\t0\t0\t0\t0\t0\t0"},
	{path: "fs/dentry-state", text: "0\t0\t45\t0\t0\t0"},
	{path: "fs/dir-notify-enable", text: "1"},
	{path: "fs/nr_open", text: "1048576"},
	{path: "fs/pipe-max-size", text: "1048576"},
	{path: "fs/pipe-user-pages-hard", read: pages(&pipe.Limits.Hard), write: setPages(&pipe.Limits.Hard)},
	{path: "fs/pipe-user-pages-soft", read: pages(&pipe.Limits.Soft), write: setPages(&pipe.Limits.Soft)},
	{path: "fs/aio-max-nr", text: "65536"},
	{path: "fs/aio-nr", text: "0"},
	{path: "fs/mount-max", text: "100000"},
	{path: "fs/suid_dumpable", text: "0"},
	{path: "fs/lease-break-time", text: "45"},
	{path: "fs/leases-enable", text: "1"},
	{path: "fs/overflowuid", text: "65534"},
	{path: "fs/overflowgid", text: "65534"},
	{path: "fs/protected_symlinks", text: "0"},
	{path: "fs/protected_hardlinks", text: "0"},
	{path: "fs/protected_fifos", text: "0"},
	{path: "fs/protected_regular", text: "0"},
	{path: "fs/inotify/max_user_watches", text: "524288", keep: true},
	{path: "fs/inotify/max_user_instances", text: "128", keep: true},
	{path: "fs/inotify/max_queued_events", text: "16384", keep: true},
	{path: "fs/epoll/max_user_watches", text: "1048576", keep: true},

	{path: "net/core/somaxconn", text: "4096", keep: true},
	{path: "net/core/rmem_default", text: "212992"},
	{path: "net/core/rmem_max", text: "4194304"},
	{path: "net/core/wmem_default", text: "212992"},
	{path: "net/core/wmem_max", text: "4194304"},
	{path: "net/core/netdev_max_backlog", text: "1000"},
	{path: "net/core/optmem_max", text: "131072"},
	{path: "net/unix/max_dgram_qlen", text: "10"},
	{path: "net/ipv4/ip_local_port_range", text: "32768\t60999", keep: true},
	{path: "net/ipv4/ip_forward", text: "0", keep: true},
	{path: "net/ipv4/ip_unprivileged_port_start", text: "1024", keep: true},
	{path: "net/ipv4/ip_default_ttl", text: "64", keep: true},
	{path: "net/ipv4/ping_group_range", text: "1\t0", keep: true},
	{path: "net/ipv4/tcp_rmem", text: "4096\t131072\t33554432", keep: true},
	{path: "net/ipv4/tcp_wmem", text: "4096\t16384\t4194304", keep: true},
	{path: "net/ipv4/tcp_mem", text: "289782\t386377\t579564"},
	{path: "net/ipv4/tcp_sack", text: "1", keep: true},
	{path: "net/ipv4/tcp_timestamps", text: "1", keep: true},
	{path: "net/ipv4/tcp_syncookies", text: "1", keep: true},
	{path: "net/ipv4/tcp_fin_timeout", text: "60", keep: true},
	{path: "net/ipv4/tcp_keepalive_time", text: "7200", keep: true},
	{path: "net/ipv4/tcp_keepalive_intvl", text: "75", keep: true},
	{path: "net/ipv4/tcp_keepalive_probes", text: "9", keep: true},
	{path: "net/ipv4/tcp_max_syn_backlog", text: "1024", keep: true},
	{path: "net/ipv4/tcp_congestion_control", text: "cubic", keep: true},
	{path: "net/ipv4/tcp_available_congestion_control", text: "reno cubic"},
	{path: "net/ipv4/tcp_allowed_congestion_control", text: "reno cubic"},
	{path: "net/ipv4/tcp_fastopen", text: "1", keep: true},
	{path: "net/ipv4/tcp_tw_reuse", text: "2", keep: true},
	{path: "net/ipv4/tcp_window_scaling", text: "1", keep: true},
	{path: "net/ipv4/tcp_ecn", text: "2", keep: true},
	{path: "net/ipv4/tcp_no_metrics_save", text: "0", keep: true},
	{path: "net/ipv4/tcp_slow_start_after_idle", text: "1", keep: true},
	{path: "net/ipv4/tcp_retries1", text: "3", keep: true},
	{path: "net/ipv4/tcp_retries2", text: "15", keep: true},
	{path: "net/ipv4/tcp_syn_retries", text: "6", keep: true},
	{path: "net/ipv4/tcp_synack_retries", text: "5", keep: true},
	{path: "net/ipv4/tcp_max_tw_buckets", text: "131072", keep: true},
	{path: "net/ipv4/tcp_mtu_probing", text: "0", keep: true},
	{path: "net/ipv4/tcp_abort_on_overflow", text: "0", keep: true},
	{path: "net/ipv4/tcp_autocorking", text: "1", keep: true},
	{path: "net/ipv4/tcp_moderate_rcvbuf", text: "1", keep: true},
	{path: "net/ipv4/tcp_orphan_retries", text: "0", keep: true},
	{path: "net/ipv4/tcp_notsent_lowat", text: "4294967295", keep: true},
	{path: "net/ipv4/tcp_rfc1337", text: "0", keep: true},
	{path: "net/ipv4/tcp_base_mss", text: "1024", keep: true},
	{path: "net/ipv4/tcp_dsack", text: "1", keep: true},
	{path: "net/ipv4/tcp_fack", text: "0", keep: true},
	{path: "net/ipv4/udp_rmem_min", text: "4096", keep: true},
	{path: "net/ipv4/udp_wmem_min", text: "4096", keep: true},
	{path: "net/ipv4/icmp_echo_ignore_all", text: "0", keep: true},
	{path: "net/ipv4/icmp_echo_ignore_broadcasts", text: "1", keep: true},
	{path: "net/ipv4/icmp_ratelimit", text: "1000", keep: true},
	{path: "net/ipv4/ip_nonlocal_bind", text: "0", keep: true},
	{path: "net/ipv4/ip_no_pmtu_disc", text: "0", keep: true},
	{path: "net/ipv4/ip_local_reserved_ports", text: "", keep: true},
	{path: "net/ipv4/ip_dynaddr", text: "0", keep: true},
	{path: "net/ipv4/ip_early_demux", text: "1", keep: true},
	{path: "net/ipv4/ipfrag_high_thresh", text: "4194304", keep: true},
	{path: "net/ipv4/igmp_max_memberships", text: "20", keep: true},
	{path: "net/ipv4/conf/all/forwarding", text: "0", keep: true},
	{path: "net/ipv4/conf/all/rp_filter", text: "0", keep: true},
	{path: "net/ipv4/conf/all/accept_redirects", text: "0", keep: true},
	{path: "net/ipv4/conf/all/send_redirects", text: "1", keep: true},
	{path: "net/ipv4/conf/all/accept_source_route", text: "0", keep: true},
	{path: "net/ipv4/conf/all/route_localnet", text: "0", keep: true},
	{path: "net/ipv4/conf/default/forwarding", text: "0", keep: true},
	{path: "net/ipv4/conf/default/rp_filter", text: "0", keep: true},
	{path: "net/ipv4/conf/lo/forwarding", text: "0", keep: true},
	{path: "net/ipv4/conf/lo/rp_filter", text: "0", keep: true},
	{path: "net/ipv4/conf/lo/disable_policy", text: "1", keep: true},
	{path: "net/ipv6/bindv6only", text: "0", keep: true},
	{path: "net/ipv6/ip_nonlocal_bind", text: "0", keep: true},
	{path: "net/ipv6/conf/all/disable_ipv6", text: "0", keep: true},
	{path: "net/ipv6/conf/all/forwarding", text: "0", keep: true},
	{path: "net/ipv6/conf/all/accept_ra", text: "1", keep: true},
	{path: "net/ipv6/conf/default/disable_ipv6", text: "0", keep: true},
	{path: "net/ipv6/conf/default/forwarding", text: "0", keep: true},
	{path: "net/ipv6/conf/default/accept_ra", text: "1", keep: true},
	{path: "net/ipv6/conf/lo/disable_ipv6", text: "0", keep: true},
	{path: "net/ipv6/conf/lo/forwarding", text: "0", keep: true},
	{path: "net/ipv6/conf/lo/accept_ra", text: "1", keep: true},

	{path: "user/max_user_namespaces", text: "0"},
	{path: "user/max_mnt_namespaces", text: "96018"},
	{path: "user/max_inotify_instances", text: "128"},
	{path: "user/max_inotify_watches", text: "524288"},
}

func coreUsesPID(fs *FileSystem) string {
	if _, on := fs.Kernel.Core.Get(); on {
		return "1"
	}
	return "0"
}

func setCoreUsesPID(fs *FileSystem, _ vfs.Context, s string) error {
	v, err := parseInt([]byte(s))
	if err == nil {
		fs.Kernel.Core.SetUsesPID(v != 0)
	}
	return err
}

// pages shows a limit that is a number of pages, setPages sets it.
func pages(limit *atomic.Int64) func(*FileSystem) string {
	return func(*FileSystem) string { return strconv.FormatInt(limit.Load(), 10) }
}

func setPages(limit *atomic.Int64) func(*FileSystem, vfs.Context, string) error {
	return func(_ *FileSystem, _ vfs.Context, s string) error {
		n, err := strconv.ParseUint(s, 0, 63)
		if err != nil {
			return unix.EINVAL
		}
		limit.Store(int64(n))
		return nil
	}
}

// tunables are the values of sysctls that keep what is written.
type tunables struct {
	mu sync.Mutex
	v  map[string]string
}

func newTunables() *tunables { return &tunables{v: map[string]string{}} }

func (t *tunables) get(path, or string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if v, ok := t.v[path]; ok {
		return v
	}
	return or
}

func (t *tunables) set(path, v string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.v[path] = v
}

func (fs *FileSystem) addSysctls(root *kernfs.Dir) {
	for _, c := range sysctls {
		place(root, c.path, fs.newSysctl(c))
	}
	fs.addIPCLimits(root)
}

func (fs *FileSystem) newSysctl(c sysctl) *kernfs.File {
	perm := uint32(0o444)
	if c.keep || c.write != nil {
		perm = 0o644
	}
	f := fs.NewFile(perm, func(ctx vfs.Context) ([]byte, error) {
		switch {
		case c.show != nil:
			return []byte(c.show(ctx, fs) + "\n"), nil
		case c.read != nil:
			return []byte(c.read(fs) + "\n"), nil
		case c.keep:
			if n := fs.network(ctx); n != nil {
				if v, ok := n.Sysctl(c.path); ok {
					return []byte(v + "\n"), nil
				}
			}
			return []byte(fs.tunables.get(c.path, c.text) + "\n"), nil
		}
		return []byte(c.text + "\n"), nil
	})
	switch {
	case c.write != nil:
		f.Write = func(ctx vfs.Context, b []byte) error {
			return c.write(fs, ctx, strings.TrimRight(string(b), "\n\x00"))
		}
	case c.keep:
		f.Write = func(ctx vfs.Context, b []byte) error {
			v, err := normal(c.text, string(b))
			if n := fs.network(ctx); n != nil && err == nil {
				if _, ok := n.Sysctl(c.path); ok {
					return n.SetSysctl(c.path, v)
				}
			}
			if err == nil {
				fs.tunables.set(c.path, v)
			}
			return err
		}
	}
	return f
}

func (fs *FileSystem) network(ctx vfs.Context) Network {
	if fs.Network == nil {
		return nil
	}
	return fs.Network(ctx)
}

// normal checks a value that is kept: numbers where there are numbers.
func normal(old, s string) (string, error) {
	s = strings.TrimRight(s, "\n\x00")
	if old == "" || old[0] < '0' || old[0] > '9' {
		return s, nil
	}
	fields := strings.Fields(s)
	if len(fields) == 0 || len(fields) > len(strings.Fields(old)) {
		return "", unix.EINVAL
	}
	for i, f := range fields {
		n, err := parseInt([]byte(f))
		if err != nil {
			return "", err
		}
		fields[i] = fmt.Sprint(n)
	}
	return strings.Join(fields, "\t"), nil
}

// uts is the UTS namespace of who asks.
func (fs *FileSystem) uts(ctx vfs.Context) *kernel.UTSNamespace {
	if t, ok := caller(ctx); ok {
		if n := t.Namespaces(); n != nil {
			return n.UTS
		}
	}
	return fs.Kernel.Namespaces().UTS
}

func setHostname(fs *FileSystem, ctx vfs.Context, s string) error {
	u := fs.uts(ctx)
	if !ctx.Creds().HasIn(u.Owner(), unix.CAP_SYS_ADMIN) {
		return unix.EPERM
	}
	u.SetHostname(s[:min(len(s), 64)])
	return nil
}

func setDomainname(fs *FileSystem, ctx vfs.Context, s string) error {
	u := fs.uts(ctx)
	if !ctx.Creds().HasIn(u.Owner(), unix.CAP_SYS_ADMIN) {
		return unix.EPERM
	}
	u.SetDomainname(s[:min(len(s), 64)])
	return nil
}

// uuid is a new random one (RFC 9562 §5.4).
func uuid() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}
