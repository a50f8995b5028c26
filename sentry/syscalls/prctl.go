package syscalls

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/vfs"
)

// prctlOption serves one option; the arguments are a[1]…a[4].
type prctlOption func(t *kernel.Task, a *Args) (uintptr, error)

var prctlOptions = map[int]prctlOption{
	unix.PR_SET_NAME: func(t *kernel.Task, a *Args) (uintptr, error) {
		s, err := t.MM().String(a.Addr(1), 16)
		if err == unix.ENAMETOOLONG {
			var b [15]byte
			err = in(t, a.Addr(1), b[:])
			s = string(b[:])
		}
		if err == nil {
			t.SetComm(s)
		}
		return 0, err
	},
	unix.PR_GET_NAME: func(t *kernel.Task, a *Args) (uintptr, error) {
		var b [16]byte
		copy(b[:15], t.Comm())
		return 0, out(t, a.Addr(1), b[:])
	},
	unix.PR_SET_PDEATHSIG: func(t *kernel.Task, a *Args) (uintptr, error) {
		if a[1] > kernel.NSIG {
			return 0, unix.EINVAL
		}
		t.SetParentDeath(unix.Signal(a[1]))
		return 0, nil
	},
	unix.PR_GET_PDEATHSIG: func(t *kernel.Task, a *Args) (uintptr, error) {
		return 0, out32(t, a.Addr(1), uint32(t.ParentDeath()))
	},
	unix.PR_GET_DUMPABLE: func(t *kernel.Task, a *Args) (uintptr, error) {
		return uintptr(t.Group().Dumpable.Load()), nil
	},
	unix.PR_SET_DUMPABLE: func(t *kernel.Task, a *Args) (uintptr, error) {
		if a[1] > 1 {
			return 0, unix.EINVAL
		}
		t.Group().Dumpable.Store(int32(a[1]))
		return 0, nil
	},
	unix.PR_GET_KEEPCAPS: func(t *kernel.Task, a *Args) (uintptr, error) {
		return uintptr(t.Creds().SecureBits >> 4 & 1), nil
	},
	unix.PR_SET_KEEPCAPS: func(t *kernel.Task, a *Args) (uintptr, error) {
		const locked = 1 << 5
		if a[1] > 1 {
			return 0, unix.EINVAL
		}
		c := *t.Creds()
		if c.SecureBits&locked != 0 {
			return 0, unix.EPERM
		}
		c.SecureBits = c.SecureBits&^secKeepCaps | uint32(a[1])*secKeepCaps
		t.SetCreds(&c)
		return 0, nil
	},
	unix.PR_SET_NO_NEW_PRIVS: func(t *kernel.Task, a *Args) (uintptr, error) {
		if a[1] != 1 || a[2]|a[3]|a[4] != 0 {
			return 0, unix.EINVAL
		}
		c := *t.Creds()
		c.NoNewPrivs = true
		t.SetCreds(&c)
		return 0, nil
	},
	unix.PR_GET_NO_NEW_PRIVS: func(t *kernel.Task, a *Args) (uintptr, error) {
		if a[1]|a[2]|a[3]|a[4] != 0 {
			return 0, unix.EINVAL
		}
		return truth(t.Creds().NoNewPrivs), nil
	},
	unix.PR_CAPBSET_READ: func(t *kernel.Task, a *Args) (uintptr, error) {
		if a[1] > unix.CAP_LAST_CAP {
			return 0, unix.EINVAL
		}
		return truth(t.Creds().Bounding&(1<<a[1]) != 0), nil
	},
	unix.PR_CAPBSET_DROP: func(t *kernel.Task, a *Args) (uintptr, error) {
		if !t.Creds().HasHere(unix.CAP_SETPCAP) {
			return 0, unix.EPERM
		}
		if a[1] > unix.CAP_LAST_CAP {
			return 0, unix.EINVAL
		}
		c := *t.Creds()
		c.Bounding &^= 1 << a[1]
		t.SetCreds(&c)
		return 0, nil
	},
	unix.PR_CAP_AMBIENT: ambient,
	unix.PR_GET_SECUREBITS: func(t *kernel.Task, a *Args) (uintptr, error) {
		return uintptr(t.Creds().SecureBits), nil
	},
	unix.PR_SET_SECUREBITS: func(t *kernel.Task, a *Args) (uintptr, error) {
		old, new := t.Creds().SecureBits, a.Uint32(1)
		const all, locks = 0xff, 0xaa
		if new&^all != 0 || old&locks>>1&(old^new) != 0 || old&locks&^new != 0 || !t.Creds().HasHere(unix.CAP_SETPCAP) {
			return 0, unix.EPERM
		}
		c := *t.Creds()
		c.SecureBits = new
		t.SetCreds(&c)
		return 0, nil
	},
	unix.PR_SET_CHILD_SUBREAPER: func(t *kernel.Task, a *Args) (uintptr, error) {
		t.Group().SetSubreaper(a[1] != 0)
		return 0, nil
	},
	unix.PR_GET_CHILD_SUBREAPER: func(t *kernel.Task, a *Args) (uintptr, error) {
		return 0, out32(t, a.Addr(1), uint32(truth(t.Group().Subreaper())))
	},
	unix.PR_SET_TIMERSLACK: func(t *kernel.Task, a *Args) (uintptr, error) {
		if a.Int64(1) <= 0 {
			t.Slack.Store(50000)
		} else {
			t.Slack.Store(a[1])
		}
		return 0, nil
	},
	unix.PR_GET_TIMERSLACK: func(t *kernel.Task, a *Args) (uintptr, error) { return uintptr(t.Slack.Load()), nil },
	unix.PR_GET_TIMING:     func(t *kernel.Task, a *Args) (uintptr, error) { return 0, nil },
	unix.PR_GET_SECCOMP: func(t *kernel.Task, a *Args) (uintptr, error) {
		mode, _ := t.SeccompState()
		return uintptr(mode), nil
	},
	unix.PR_SET_SECCOMP: func(t *kernel.Task, a *Args) (uintptr, error) {
		switch a[1] {
		case kernel.SeccompStrict:
			return 0, t.StrictMode()
		case kernel.SeccompFilter:
			return setFilter(t, 0, a.Addr(2))
		}
		return 0, unix.EINVAL
	},
	unix.PR_GET_TSC:         func(t *kernel.Task, a *Args) (uintptr, error) { return 0, out32(t, a.Addr(1), 1) },
	unix.PR_GET_THP_DISABLE: func(t *kernel.Task, a *Args) (uintptr, error) { return 0, nil },
	unix.PR_SET_THP_DISABLE: func(t *kernel.Task, a *Args) (uintptr, error) { return 0, nil },
	unix.PR_SET_VMA:         func(t *kernel.Task, a *Args) (uintptr, error) { return 0, unix.EINVAL },
	unix.PR_GET_TID_ADDRESS: func(t *kernel.Task, a *Args) (uintptr, error) { return 0, unix.EINVAL },
}

func truth(b bool) uintptr {
	if b {
		return 1
	}
	return 0
}

func prctl(t *kernel.Task, a *Args) (uintptr, error) {
	if f := prctlOptions[a.Int(0)]; f != nil {
		return f(t, a)
	}
	return 0, unix.EINVAL
}

func ambient(t *kernel.Task, a *Args) (uintptr, error) {
	c := *t.Creds()
	if a[1] == unix.PR_CAP_AMBIENT_CLEAR_ALL {
		if a[2]|a[3]|a[4] != 0 {
			return 0, unix.EINVAL
		}
		c.Ambient = 0
		t.SetCreds(&c)
		return 0, nil
	}
	if a[2] > unix.CAP_LAST_CAP || a[3]|a[4] != 0 {
		return 0, unix.EINVAL
	}
	return changeAmbient(t, &c, int(a[1]), 1<<a[2])
}

func changeAmbient(t *kernel.Task, c *vfs.Creds, how int, bit uint64) (uintptr, error) {
	const noRaise = 1 << 6 // SECBIT_NO_CAP_AMBIENT_RAISE
	switch how {
	case unix.PR_CAP_AMBIENT_IS_SET:
		return truth(c.Ambient&bit != 0), nil
	case unix.PR_CAP_AMBIENT_RAISE:
		if c.Permitted&bit == 0 || c.Inheritable&bit == 0 || c.SecureBits&noRaise != 0 {
			return 0, unix.EPERM
		}
		c.Ambient |= bit
	case unix.PR_CAP_AMBIENT_LOWER:
		c.Ambient &^= bit
	default:
		return 0, unix.EINVAL
	}
	t.SetCreds(c)
	return 0, nil
}
