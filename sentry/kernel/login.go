package kernel

// Login is whom a task and its children work for: pam_loginuid(8) says it once, when
// somebody logs in (kernel/audit.c, audit_set_loginuid).
type Login struct {
	UID     uint32
	Session uint32 // numbered from 1
}

// noLogin is what a task has that nobody logged in for, in both of Login's fields.
const noLogin = ^uint32(0)

// Login is who t works for.
func (t *Task) Login() Login {
	if l := t.login.Load(); l != nil {
		return *l
	}
	return Login{noLogin, noLogin}
}

// SetLogin begins a session of uid's, or ends t's where uid is -1.
func (t *Task) SetLogin(uid uint32) {
	l := &Login{uid, noLogin}
	if uid != noLogin {
		l.Session = t.k.logins.Add(1)
	}
	t.login.Store(l)
}
