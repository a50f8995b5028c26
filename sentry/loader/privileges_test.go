package loader

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseFileCaps(t *testing.T) {
	for _, row := range []struct {
		name  string
		b     []byte
		want  fileCaps
		owner uint32
		err   error
	}{
		{"nothing", nil, fileCaps{}, 0, unix.EINVAL},
		{"no revision", make([]byte, 20), fileCaps{}, 0, unix.EINVAL},
		{"revision 1", []byte{1, 0, 0, 1, 0x20, 0, 0, 0, 1, 0, 0, 0}, fileCaps{0x20, 1, true, true}, 0, nil},
		{"revision 2", append([]byte{0, 0, 0, 2, 0x20, 0, 0, 0, 0, 0, 0, 0, 1}, make([]byte, 7)...), fileCaps{1<<32 | 0x20, 0, false, true}, 0, nil},
		{"revision 2 with an owner", append([]byte{0, 0, 0, 2}, make([]byte, 20)...), fileCaps{}, 0, unix.EINVAL},
		{"revision 3", append(append([]byte{0, 0, 0, 3}, make([]byte, 16)...), 7, 0, 0, 0), fileCaps{any: true}, 7, nil},
		{"unknown capabilities", append([]byte{0, 0, 0, 2}, bytes.Repeat([]byte{0xff}, 16)...), fileCaps{1<<41 - 1, 1<<41 - 1, false, true}, 0, nil},
	} {
		caps, owner, err := parseFileCaps(row.b)
		if caps != row.want || owner != row.owner || err != row.err {
			t.Errorf("%s: %+v, %d, %v; want %+v, %d, %v", row.name, caps, owner, err, row.want, row.owner, row.err)
		}
	}
}
