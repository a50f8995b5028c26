package syscalls

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
)

func keyCalls() []row {
	return []row{
		{unix.SYS_ADD_KEY, addKey, Partial, "types user, logon and keyring"},
		{unix.SYS_REQUEST_KEY, requestKey, Partial, "finds what is there: nobody is asked to make a key"},
		{unix.SYS_KEYCTL, keyctl, Partial, "keyrings, permissions, search, timeouts; no instantiation, persistent keyrings, watches nor cryptography"},
	}
}

// Bounds of all keys of the container, and of a user's that is not root
// (kernel.keys.maxkeys and maxbytes).
const (
	userKeys     = 200
	userKeyBytes = 20000
	maxKeys      = 2000
	maxKeyBytes  = 1 << 20
	maxPayload   = 32767
)

// Permission bits of a key, for possessor; the same shifted right by 8, 16 and 24
// for owner, group and others (include/linux/key.h).
const (
	keyView, keyRead, keyWrite, keySearch, keyLink, keySetattr = 1, 2, 4, 8, 16, 32
	keyAll                                                     = 63
)

// key is one key, or a keyring if links is not nil.
type key struct {
	id       int32
	typ      string
	desc     string
	uid, gid uint32
	perm     uint32
	payload  []byte
	links    []*key // of a keyring, in the order of their coming
	ring     bool
	expires  time.Duration // monotonic; 0: never
	revoked  bool
}

// keyTable are all keys of the container. Keyrings that no task reaches any more are
// found when there is no room (sweepLocked), as Linux's key_gc does.
type keyTable struct {
	mu    sync.Mutex
	at    map[int32]*key
	last  int32
	bytes int
	users map[uint32][2]*key // the user's keyring, and the one for sessions without one
}

// Special ids (include/uapi/linux/keyctl.h).
const (
	threadRing, processRing, sessionRing, userRing, userSessionRing = -1, -2, -3, -4, -5
)

func keysOf(t *kernel.Task) *keyTable { return &world(t).keys }

// makeLocked makes a key of t's.
func (kt *keyTable) makeLocked(t *kernel.Task, typ, desc string, payload []byte, perm uint32) (*key, error) {
	full := func() bool {
		return len(kt.at) >= maxKeys || kt.bytes+len(payload)+len(desc) > maxKeyBytes || kt.beyondLocked(t.Creds().FSUID, 1, len(payload)+len(desc)+1)
	}
	if full() {
		if kt.sweepLocked(t); full() {
			return nil, unix.EDQUOT
		}
	}
	if kt.at == nil {
		kt.at = map[int32]*key{}
		kt.last = 0x10000000
	}
	for kt.last++; kt.last < 3 || kt.at[kt.last] != nil; kt.last++ {
		kt.last &= 0x7fffffff
	}
	c := t.Creds()
	k := &key{id: kt.last, typ: typ, desc: desc, uid: c.FSUID, gid: c.FSGID, perm: perm, payload: payload, ring: typ == "keyring"}
	kt.at[k.id] = k
	kt.bytes += len(payload) + len(desc)
	return k, nil
}

// beyondLocked reports whether so many more keys and bytes are more than a user
// may have (security/keys/key.c, key_alloc). A description counts with its zero.
func (kt *keyTable) beyondLocked(uid uint32, keys, bytes int) bool {
	if uid == 0 {
		return false
	}
	for _, k := range kt.at {
		if k.uid == uid {
			keys++
			bytes += len(k.desc) + 1 + len(k.payload)
		}
	}
	return keys > userKeys || bytes > userKeyBytes
}

func (kt *keyTable) dropLocked(k *key) {
	delete(kt.at, k.id)
	kt.bytes -= len(k.payload) + len(k.desc)
}

// sweepLocked drops what neither a task nor a user's keyring leads to.
func (kt *keyTable) sweepLocked(t *kernel.Task) {
	seen := map[*key]bool{}
	var mark func(k *key)
	mark = func(k *key) {
		if k == nil || seen[k] {
			return
		}
		seen[k] = true
		for _, l := range k.links {
			mark(l)
		}
	}
	for _, g := range t.Kernel().Groups() {
		mark(kt.at[g.ProcessKeyring.Load()])
		for _, x := range g.Tasks() {
			mark(kt.at[x.SessionKeyring.Load()])
			mark(kt.at[x.ThreadKeyring.Load()])
		}
	}
	for _, rings := range kt.users {
		mark(rings[0])
		mark(rings[1])
	}
	for _, k := range kt.at {
		if !seen[k] {
			kt.dropLocked(k)
		}
	}
}

// ringPerm are the permissions of thread, process and session keyrings.
const ringPerm = keyAll<<24 | (keyView|keyRead)<<16

func (kt *keyTable) userLocked(t *kernel.Task) ([2]*key, error) {
	uid := t.Creds().UID
	if rings, ok := kt.users[uid]; ok {
		return rings, nil
	}
	const perm = keyAll<<24 | keyAll<<16
	var rings [2]*key
	for i, name := range []string{"_uid", "_uid_ses"} {
		k, err := kt.makeLocked(t, "keyring", fmt.Sprintf("%s.%d", name, uid), nil, perm)
		if err != nil {
			return rings, err
		}
		k.uid, k.gid = uid, ^uint32(0)
		rings[i] = k
	}
	rings[1].links = []*key{rings[0]}
	if kt.users == nil {
		kt.users = map[uint32][2]*key{}
	}
	kt.users[uid] = rings
	return rings, nil
}

// specialLocked is the keyring of a special id; nil if there is none and make is not
// set.
func (kt *keyTable) specialLocked(t *kernel.Task, id int32, make bool) (*key, error) {
	own := func(at interface {
		Load() int32
		Store(int32)
	}, name string) (*key, error) {
		if k := kt.at[at.Load()]; k != nil || !make {
			return k, nil
		}
		k, err := kt.makeLocked(t, "keyring", name, nil, ringPerm&^((keyLink|keySetattr|keyRead)<<16)|keyView<<16)
		if err == nil {
			at.Store(k.id)
		}
		return k, err
	}
	switch id {
	case threadRing:
		return own(&t.ThreadKeyring, "_tid")
	case processRing:
		return own(&t.Group().ProcessKeyring, "_pid")
	case sessionRing:
		if k := kt.at[t.SessionKeyring.Load()]; k != nil {
			return k, nil
		}
		rings, err := kt.userLocked(t)
		return rings[1], err
	case userRing, userSessionRing:
		rings, err := kt.userLocked(t)
		return rings[userRing-id], err
	}
	return nil, unix.EINVAL
}

// possessesLocked says whether one of t's keyrings leads to k.
func (kt *keyTable) possessesLocked(t *kernel.Task, k *key) bool {
	found := kt.searchLocked(t, func(x *key) bool { return x == k })
	return found != nil
}

// searchLocked goes through thread, process and session keyrings and what they
// lead to.
func (kt *keyTable) searchLocked(t *kernel.Task, match func(*key) bool) *key {
	seen := map[*key]bool{}
	for _, id := range []int32{threadRing, processRing, sessionRing} {
		if k, _ := kt.specialLocked(t, id, false); k != nil {
			if f := k.find(match, seen, 0); f != nil {
				return f
			}
		}
	}
	return nil
}

const keyDepth = 6 // KEYRING_SEARCH_MAX_DEPTH

func (k *key) find(match func(*key) bool, seen map[*key]bool, depth int) *key {
	if seen[k] || depth > keyDepth {
		return nil
	}
	seen[k] = true
	if match(k) {
		return k
	}
	for _, l := range k.links {
		if f := l.find(match, seen, depth+1); f != nil {
			return f
		}
	}
	return nil
}

// allowedLocked is security/keys/permission.c, key_task_permission.
func (kt *keyTable) allowedLocked(t *kernel.Task, k *key, want uint32) bool {
	c := t.Creds()
	perm := k.perm & keyAll
	switch {
	case k.uid == c.FSUID:
		perm = k.perm >> 16 & keyAll
	case k.gid != ^uint32(0) && c.In(k.gid):
		perm = k.perm >> 8 & keyAll
	}
	if perm&want == want {
		return true
	}
	if kt.possessesLocked(t, k) {
		perm |= k.perm >> 24 & keyAll
	}
	return perm&want == want
}

func (k *key) usable(t *kernel.Task) error {
	switch {
	case k.revoked:
		return unix.EKEYREVOKED
	case k.expires != 0 && t.Kernel().Clock.Monotonic() >= k.expires:
		return unix.EKEYEXPIRED
	}
	return nil
}

// getLocked finds a key by id, with the permission want. What is revoked or over
// is so too, unless the call is about that.
func (kt *keyTable) getLocked(t *kernel.Task, id int32, make bool, want uint32, dead bool) (*key, error) {
	var k *key
	switch {
	case id > 0:
		if k = kt.at[id]; k == nil {
			return nil, unix.ENOKEY
		}
	case id < 0 && id >= userSessionRing:
		var err error
		if k, err = kt.specialLocked(t, id, make); err != nil {
			return nil, err
		}
		if k == nil {
			return nil, unix.ENOKEY
		}
	default:
		return nil, unix.EINVAL
	}
	if !dead {
		if err := k.usable(t); err != nil {
			return nil, err
		}
	}
	if want != 0 && !kt.allowedLocked(t, k, want) {
		return nil, unix.EACCES
	}
	return k, nil
}

// inRing gets a keyring to put something into.
func (kt *keyTable) ringLocked(t *kernel.Task, id int32, want uint32) (*key, error) {
	k, err := kt.getLocked(t, id, true, want, false)
	if err == nil && !k.ring {
		err = unix.ENOTDIR
	}
	return k, err
}

// linkLocked puts k into ring instead of what has its type and name there.
func (ring *key) link(k *key) error {
	if k.ring && k.find(func(x *key) bool { return x == ring }, map[*key]bool{}, 0) != nil {
		return unix.EDEADLK
	}
	for i, l := range ring.links {
		if l.typ == k.typ && l.desc == k.desc {
			ring.links[i] = k
			return nil
		}
	}
	if len(ring.links) >= maxKeys {
		return unix.ENFILE
	}
	ring.links = append(ring.links, k)
	return nil
}

func (ring *key) unlink(k *key) bool {
	for i, l := range ring.links {
		if l == k {
			ring.links = append(ring.links[:i:i], ring.links[i+1:]...)
			return true
		}
	}
	return false
}

// inKeyText reads a type or a description.
func inKeyText(t *kernel.Task, at memory.Addr, limit int) (string, error) {
	s, err := t.MM().String(at, limit)
	if err == unix.ENAMETOOLONG {
		err = unix.EINVAL
	}
	return s, err
}

func inKeyType(t *kernel.Task, at memory.Addr) (string, error) {
	typ, err := inKeyText(t, at, 32)
	switch {
	case err != nil:
		return "", err
	case typ == "":
		return "", unix.EINVAL
	case typ[0] == '.':
		return "", unix.EPERM
	}
	return typ, nil
}

func addKey(t *kernel.Task, a *Args) (uintptr, error) {
	n := a.Size(3)
	if n > 1<<20-1 {
		return 0, unix.EINVAL
	}
	typ, err := inKeyType(t, a.Addr(0))
	if err != nil {
		return 0, err
	}
	desc := ""
	if a[1] != 0 {
		if desc, err = inKeyText(t, a.Addr(1), pageSize); err != nil {
			return 0, err
		}
		if typ == "keyring" && strings.HasPrefix(desc, ".") {
			return 0, unix.EPERM
		}
	}
	payload := make([]byte, n)
	if err := in(t, a.Addr(2), payload); err != nil {
		return 0, err
	}
	kt := keysOf(t)
	kt.mu.Lock()
	defer kt.mu.Unlock()
	ring, err := kt.ringLocked(t, int32(a.Int(4)), keyWrite)
	if err != nil {
		return 0, err
	}
	perm := uint32(keyView|keySearch|keyLink|keySetattr)<<24 | keyView<<16
	switch typ {
	case "user":
		perm |= (keyRead | keyWrite) << 24
	case "logon":
		if i := strings.IndexByte(desc, ':'); i <= 0 {
			return 0, unix.EINVAL
		}
		perm |= keyWrite << 24
	case "keyring":
		perm |= (keyRead | keyWrite) << 24
	default:
		return 0, unix.ENODEV
	}
	switch {
	case desc == "":
		return 0, unix.EINVAL
	case typ == "keyring" && n != 0, typ != "keyring" && (n == 0 || n > maxPayload):
		return 0, unix.EINVAL
	}
	if typ != "keyring" { // one of that name is updated
		for _, l := range ring.links {
			if l.typ == typ && l.desc == desc {
				if !kt.allowedLocked(t, l, keyWrite) {
					return 0, unix.EACCES
				}
				return uintptr(l.id), kt.updateLocked(l, payload)
			}
		}
	}
	k, err := kt.makeLocked(t, typ, desc, payload, perm)
	if err != nil {
		return 0, err
	}
	if err := ring.link(k); err != nil {
		kt.dropLocked(k)
		return 0, err
	}
	return uintptr(k.id), nil
}

func (kt *keyTable) updateLocked(k *key, payload []byte) error {
	if more := len(payload) - len(k.payload); kt.bytes+more > maxKeyBytes || more > 0 && kt.beyondLocked(k.uid, 0, more) {
		return unix.EDQUOT
	}
	kt.bytes += len(payload) - len(k.payload)
	k.payload, k.expires = payload, 0
	return nil
}

func requestKey(t *kernel.Task, a *Args) (uintptr, error) {
	typ, err := inKeyType(t, a.Addr(0))
	if err != nil {
		return 0, err
	}
	desc, err := inKeyText(t, a.Addr(1), pageSize)
	if err != nil {
		return 0, err
	}
	if a[2] != 0 {
		if _, err := inKeyText(t, a.Addr(2), pageSize); err != nil {
			return 0, err
		}
	}
	switch typ {
	case "user", "logon", "keyring":
	default:
		return 0, unix.ENOKEY
	}
	kt := keysOf(t)
	kt.mu.Lock()
	defer kt.mu.Unlock()
	var ring *key
	if dest := int32(a.Int(3)); dest != 0 {
		if ring, err = kt.ringLocked(t, dest, keyWrite); err != nil {
			return 0, err
		}
	}
	k := kt.searchLocked(t, func(k *key) bool { return k.typ == typ && k.desc == desc })
	if k == nil {
		return 0, unix.ENOKEY
	}
	if err := k.usable(t); err != nil {
		return 0, err
	}
	if !kt.allowedLocked(t, k, keySearch) {
		return 0, unix.EACCES
	}
	if ring != nil {
		if err := ring.link(k); err != nil {
			return 0, err
		}
	}
	return uintptr(k.id), nil
}

// Operations of keyctl(2).
const (
	keyctlGetRing, keyctlJoin, keyctlUpdate, keyctlRevoke, keyctlChown, keyctlSetperm, keyctlDescribe = 0, 1, 2, 3, 4, 5, 6
	keyctlClear, keyctlLink, keyctlUnlink, keyctlSearch, keyctlRead                                   = 7, 8, 9, 10, 11
	keyctlReqkey, keyctlTimeout, keyctlGetSecurity, keyctlInvalidate, keyctlMove, keyctlCapabilities  = 14, 15, 17, 21, 30, 31
)

func keyctl(t *kernel.Task, a *Args) (uintptr, error) {
	op, id := a.Int(0), int32(a.Int(1))
	var text string
	var payload []byte
	var err error
	switch op { // what is read of the program, before the lock
	case keyctlJoin:
		if a[1] != 0 {
			text, err = inKeyText(t, a.Addr(1), pageSize)
			if err == nil && strings.HasPrefix(text, ".") {
				err = unix.EPERM
			}
		}
	case keyctlUpdate:
		if a.Size(3) > maxPayload {
			return 0, unix.EINVAL
		}
		payload = make([]byte, a.Size(3))
		err = in(t, a.Addr(2), payload)
	case keyctlSearch:
		if text, err = inKeyType(t, a.Addr(2)); err == nil {
			var desc string
			desc, err = inKeyText(t, a.Addr(3), pageSize)
			payload = []byte(desc)
		}
	}
	if err != nil {
		return 0, err
	}
	kt := keysOf(t)
	kt.mu.Lock()
	answer, n, err := kt.controlLocked(t, op, id, a, text, payload)
	kt.mu.Unlock()
	if err != nil || answer == nil {
		return n, err
	}
	// DESCRIBE, READ and their like: as much as there is room for, and the size.
	at, room := a.Addr(2), a.Size(3)
	if op == keyctlCapabilities {
		at, room = a.Addr(1), a.Size(2)
	}
	if at != 0 && room > 0 {
		if op == keyctlDescribe || op == keyctlGetSecurity || op == keyctlRead {
			if room < uint64(len(answer)) {
				return uintptr(len(answer)), nil
			}
		}
		if err := out(t, at, answer[:min(uint64(len(answer)), room)]); err != nil {
			return 0, err
		}
	}
	return uintptr(len(answer)), nil
}

func (kt *keyTable) controlLocked(t *kernel.Task, op int, id int32, a *Args, text string, payload []byte) (answer []byte, n uintptr, err error) {
	get := func(want uint32, dead bool) (*key, error) { return kt.getLocked(t, id, false, want, dead) }
	switch op {
	case keyctlGetRing:
		k, err := kt.getLocked(t, id, a.Int(2) != 0, keySearch, false)
		if err != nil {
			return nil, 0, err
		}
		return nil, uintptr(k.id), nil
	case keyctlJoin:
		n, err = kt.joinLocked(t, text, a[1] == 0)
		return nil, n, err
	case keyctlUpdate:
		k, err := get(keyWrite, false)
		if err != nil {
			return nil, 0, err
		}
		if k.ring {
			return nil, 0, unix.EOPNOTSUPP
		}
		return nil, 0, kt.updateLocked(k, payload)
	case keyctlRevoke:
		k, err := get(keyWrite, false)
		if err == unix.EACCES {
			k, err = get(keySetattr, false)
		}
		if err != nil {
			return nil, 0, err
		}
		k.revoked = true
		kt.bytes -= len(k.payload)
		k.payload, k.links = nil, nil
	case keyctlInvalidate:
		k, err := get(keySearch, false)
		if err != nil {
			return nil, 0, err
		}
		for _, r := range kt.at {
			r.unlink(k)
		}
		kt.dropLocked(k)
	case keyctlChown:
		k, err := get(keySetattr, true)
		if err != nil {
			return nil, 0, err
		}
		uid, gid, c := a.Uint32(2), a.Uint32(3), t.Creds()
		if uid != ^uint32(0) && uid != k.uid && !c.Has(unix.CAP_SYS_ADMIN) || gid != ^uint32(0) && gid != k.gid && !c.In(gid) && !c.Has(unix.CAP_SYS_ADMIN) {
			return nil, 0, unix.EACCES
		}
		if uid != ^uint32(0) {
			k.uid = uid
		}
		if gid != ^uint32(0) {
			k.gid = gid
		}
	case keyctlSetperm:
		const known = keyAll<<24 | keyAll<<16 | keyAll<<8 | keyAll
		if a.Uint32(2)&^known != 0 {
			return nil, 0, unix.EINVAL
		}
		k, err := get(keySetattr, true)
		if err != nil {
			return nil, 0, err
		}
		if c := t.Creds(); k.uid != c.FSUID && !c.Has(unix.CAP_SYS_ADMIN) {
			return nil, 0, unix.EACCES
		}
		k.perm = a.Uint32(2)
	case keyctlDescribe:
		k, err := get(keyView, true)
		if err != nil {
			return nil, 0, err
		}
		return append(fmt.Appendf(nil, "%s;%d;%d;%08x;%s", k.typ, k.uid, int32(k.gid), k.perm, k.desc), 0), 0, nil
	case keyctlGetSecurity:
		if _, err := get(keyView, true); err != nil {
			return nil, 0, err
		}
		return []byte{0}, 0, nil
	case keyctlClear:
		k, err := kt.ringLocked(t, id, keyWrite)
		if err != nil {
			return nil, 0, err
		}
		k.links = nil
	case keyctlLink, keyctlUnlink:
		ring, err := kt.getLocked(t, int32(a.Int(2)), op == keyctlLink, keyWrite, false)
		if err == nil && !ring.ring {
			err = unix.ENOTDIR
		}
		if err != nil {
			return nil, 0, err
		}
		if op == keyctlUnlink {
			k, err := get(0, true)
			if err != nil {
				return nil, 0, err
			}
			if !ring.unlink(k) {
				return nil, 0, unix.ENOENT
			}
			break
		}
		k, err := kt.getLocked(t, id, true, keyLink, false)
		if err != nil {
			return nil, 0, err
		}
		return nil, 0, ring.link(k)
	case keyctlSearch:
		ring, err := kt.getLocked(t, id, false, keySearch, false)
		if err != nil {
			return nil, 0, err
		}
		if !ring.ring {
			return nil, 0, unix.ENOTDIR
		}
		desc := string(payload)
		k := ring.find(func(k *key) bool { return k != ring && k.typ == text && k.desc == desc }, map[*key]bool{}, 0)
		if k == nil {
			return nil, 0, unix.ENOKEY
		}
		if err := k.usable(t); err != nil {
			return nil, 0, err
		}
		if dest := int32(a.Int(4)); dest != 0 {
			to, err := kt.ringLocked(t, dest, keyWrite)
			if err != nil {
				return nil, 0, err
			}
			if err := to.link(k); err != nil {
				return nil, 0, err
			}
		}
		return nil, uintptr(k.id), nil
	case keyctlRead:
		k, err := get(0, false)
		if err != nil {
			return nil, 0, err
		}
		if !kt.allowedLocked(t, k, keyRead) && !kt.possessesLocked(t, k) {
			return nil, 0, unix.EACCES
		}
		if k.typ == "logon" {
			return nil, 0, unix.EOPNOTSUPP
		}
		answer = append([]byte{}, k.payload...)
		for _, l := range k.links {
			answer = le.AppendUint32(answer, uint32(l.id))
		}
		return answer, 0, nil
	case keyctlReqkey:
		if id < -1 || id > 7 {
			return nil, 0, unix.EINVAL
		}
	case keyctlTimeout:
		k, err := get(keySetattr, false)
		if err != nil {
			return nil, 0, err
		}
		k.expires = 0
		if s := a.Uint32(2); s > 0 {
			k.expires = t.Kernel().Clock.Monotonic() + time.Duration(s)*time.Second
		}
	case keyctlCapabilities:
		return []byte{0x1 | 0x8 /* CAPS0: CAPABILITIES, INVALIDATE */, 0}, 0, nil
	default:
		return nil, 0, unix.EOPNOTSUPP
	}
	return nil, 0, nil
}

// joinLocked gives t a session keyring: a new one without a name, or the one of
// that name, made if there is none.
func (kt *keyTable) joinLocked(t *kernel.Task, name string, anonymous bool) (uintptr, error) {
	if !anonymous {
		for _, k := range kt.at {
			if k.ring && k.desc == name && !k.revoked && k.uid == t.Creds().UID && kt.allowedLocked(t, k, keySearch) {
				t.SessionKeyring.Store(k.id)
				return uintptr(k.id), nil
			}
		}
	} else {
		name = "_ses"
	}
	k, err := kt.makeLocked(t, "keyring", name, nil, ringPerm)
	if err != nil {
		return 0, err
	}
	t.SessionKeyring.Store(k.id)
	return uintptr(k.id), nil
}
