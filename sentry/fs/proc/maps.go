package proc

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

// escape writes the characters of set in octal, as seq_escape does.
func escape(s, set string) string {
	if !strings.ContainsAny(s, set) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if strings.IndexByte(set, s[i]) >= 0 {
			fmt.Fprintf(&b, "\\%03o", s[i])
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// mapLine is fs/proc/task_mmu.c, show_map_vma.
func mapLine(b *bytes.Buffer, v *memory.VMA) {
	flags := []byte("---p")
	for i, f := range []platform.Access{platform.Read, platform.Write, platform.Exec} {
		if v.Access&f != 0 {
			flags[i] = "rwx"[i]
		}
	}
	if v.Shared {
		flags[3] = 's'
	}
	at := b.Len()
	fmt.Fprintf(b, "%08x-%08x %s %08x %02x:%02x %d ", uint64(v.Start), uint64(v.End), flags, v.Offset,
		unix.Major(v.Dev), unix.Minor(v.Dev), v.Ino)
	if v.Name != "" {
		const column = 25 + 8*6 - 1
		for b.Len()-at < column {
			b.WriteByte(' ')
		}
		b.WriteByte(' ')
		b.WriteString(escape(v.Name, "\n"))
	}
	b.WriteByte('\n')
}

func maps(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	var b bytes.Buffer
	if m := s.memory(); m != nil {
		for _, v := range m.VMAs() {
			mapLine(&b, &v)
		}
	}
	return b.Bytes(), nil
}

// usage is what smaps tells of areas, in bytes.
type usage struct{ size, rss, pss, pssDirty, sharedClean, sharedDirty, privateClean, privateDirty, anonymous, locked uint64 }

// add counts an area. Of a file's pages it is not known who else maps them: they
// count as private if the area is. What is shared since a fork counts half.
func (u *usage) add(v *memory.VMA) {
	file := v.Resident - min(v.Private, v.Resident)
	own := v.Private - min(v.PrivateShared, v.Private)
	u.size += uint64(v.End - v.Start)
	u.rss += v.Resident
	u.pss += own + v.PrivateShared/2 + file
	u.pssDirty += own + v.PrivateShared/2
	u.sharedDirty += v.PrivateShared
	u.privateDirty += own
	if v.Shared {
		u.sharedDirty += file
	} else {
		u.privateClean += file
	}
	u.anonymous += v.Private
	if v.Locked {
		u.locked += v.Resident
	}
}

func (u *usage) print(b *bytes.Buffer, rollup bool) {
	row := func(name string, n uint64) { fmt.Fprintf(b, "%-16s%8d kB\n", name+":", n>>10) }
	if !rollup {
		row("Size", u.size)
		row("KernelPageSize", pageSize)
		row("MMUPageSize", pageSize)
	}
	row("Rss", u.rss)
	row("Pss", u.pss)
	row("Pss_Dirty", u.pssDirty)
	if rollup {
		row("Pss_Anon", u.pssDirty)
		row("Pss_File", u.pss-u.pssDirty)
		row("Pss_Shmem", 0)
	}
	row("Shared_Clean", u.sharedClean)
	row("Shared_Dirty", u.sharedDirty)
	row("Private_Clean", u.privateClean)
	row("Private_Dirty", u.privateDirty)
	row("Referenced", u.rss)
	row("Anonymous", u.anonymous)
	for _, none := range []string{"KSM", "LazyFree", "AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"} {
		row(none, 0)
	}
	fmt.Fprintf(b, "Shared_Hugetlb: %8d kB\nPrivate_Hugetlb: %7d kB\n", 0, 0)
	row("Swap", 0)
	row("SwapPss", 0)
	row("Locked", u.locked)
}

func smaps(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	var b bytes.Buffer
	m := s.memory()
	if m == nil {
		return nil, nil
	}
	for _, v := range m.VMAs() {
		mapLine(&b, &v)
		var u usage
		u.add(&v)
		u.print(&b, false)
		b.WriteString("THPeligible:           0\n")
		b.WriteString("VmFlags: " + vmFlags(&v) + "\n")
	}
	return b.Bytes(), nil
}

// vmFlags is fs/proc/task_mmu.c, show_smap_vma_flags.
func vmFlags(v *memory.VMA) string {
	var b strings.Builder
	for _, f := range []struct {
		on   bool
		name string
	}{
		{v.Access&platform.Read != 0, "rd"}, {v.Access&platform.Write != 0, "wr"}, {v.Access&platform.Exec != 0, "ex"},
		{v.Shared, "sh"},
		{v.MaxProt&platform.Read != 0, "mr"}, {v.MaxProt&platform.Write != 0, "mw"}, {v.MaxProt&platform.Exec != 0, "me"},
		{v.Shared, "ms"}, {v.GrowsDown, "gd"}, {v.Locked, "lo"}, {v.DontFork, "dc"}, {!v.Noreserve && v.Anonymous && v.Access&platform.Write != 0, "ac"},
		{v.Noreserve, "nr"}, {v.WipeOnFork, "wf"}, {v.DontDump, "dd"},
	} {
		if f.on {
			b.WriteString(f.name + " ")
		}
	}
	return b.String()
}

func smapsRollup(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	m := s.memory()
	if m == nil {
		return nil, unix.ESRCH
	}
	var b bytes.Buffer
	var u usage
	vs := m.VMAs()
	if len(vs) > 0 {
		all := memory.VMA{Start: vs[0].Start, End: vs[len(vs)-1].End, Name: "[rollup]"}
		mapLine(&b, &all)
	}
	for _, v := range vs {
		u.add(&v)
	}
	u.print(&b, true)
	return b.Bytes(), nil
}

// numaMaps says that all is on the one node there is.
func numaMaps(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	m := s.memory()
	if m == nil {
		return nil, nil
	}
	var b bytes.Buffer
	for _, v := range m.VMAs() {
		fmt.Fprintf(&b, "%08x default", uint64(v.Start))
		switch {
		case v.Name == "[heap]":
			b.WriteString(" heap")
		case v.Name == "[stack]":
			b.WriteString(" stack")
		case !v.Anonymous:
			b.WriteString(" file=" + escape(v.Name, "\n\t= "))
		}
		if n := v.Private / pageSize; n > 0 {
			fmt.Fprintf(&b, " anon=%d dirty=%d", n, n)
		}
		if n := v.Resident / pageSize; n > 0 {
			fmt.Fprintf(&b, " N0=%d kernelpagesize_kB=4", n)
		}
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}
