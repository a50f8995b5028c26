package terminal

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"
)

func TestEscape(t *testing.T) {
	cases := []struct {
		typed, want string
		quits       int
	}{
		{"hello", "hello", 0},
		{"\x01x", "", 1},
		{"a\x01xb", "ab", 1},
		{"\x01a\x01\x01", "\x01\x01", 0},
		{"\x01?z", "z", 0},
		{"\x01", "", 0},
	}
	for _, c := range cases {
		for name, slow := range map[string]func(io.Reader) io.Reader{"at once": func(r io.Reader) io.Reader { return r }, "a key at a time": iotest.OneByteReader} {
			quits := 0
			got, err := io.ReadAll(&escape{from: slow(bytes.NewReader([]byte(c.typed))), quit: func() { quits++ }, tell: io.Discard})
			if err != nil || string(got) != c.want || quits != c.quits {
				t.Errorf("%q, %s: the guest gets %q, %d quits, %v; want %q, %d", c.typed, name, got, quits, err, c.want, c.quits)
			}
		}
	}
}

func TestPTY(t *testing.T) {
	p, err := PTY()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	person, err := os.OpenFile(p.Name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer person.Close()
	for _, way := range []struct {
		from io.Writer
		to   io.Reader
	}{{p.Out, person}, {person, p.In}} {
		want := []byte("one\r\ntwo\n\x03")
		if _, err := way.from.Write(want); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(way.to, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("sent %q, got %q, %v: a raw terminal changes nothing", want, got, err)
		}
	}
	if err := unix.IoctlSetWinsize(int(person.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 132}); err != nil {
		t.Fatal(err)
	}
	if c, r, ok := p.Size(); c != 132 || r != 40 || !ok {
		t.Errorf("size %d by %d, %v", c, r, ok)
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for _, s := range []string{"one\n", "two\n"} {
		f, err := File(path)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(f.Out, s)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if b, _ := os.ReadFile(path); string(b) != "one\ntwo\n" {
		t.Errorf("the file has %q", b)
	}
	if _, err := File("/no/such/dir/log"); err == nil {
		t.Error("a file in no directory: no error")
	}
}
