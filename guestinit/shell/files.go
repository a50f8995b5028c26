package shell

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/u-root/u-root/pkg/core/shasum"
)

// each calls do for every named file, or once for the standard input.
func (s stdio) each(names []string, do func(name string, r io.Reader) error) error {
	if len(names) == 0 {
		return do("", s.in)
	}
	for _, name := range names {
		f, err := os.Open(s.path(name))
		if err != nil {
			return err
		}
		err = do(name, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func head(_ context.Context, s stdio, args []string) error {
	lines := 10
	if len(args) > 1 && args[0] == "-n" {
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return errUsage
		}
		lines, args = n, args[2:]
	}
	return s.each(args, func(_ string, r io.Reader) error {
		in := bufio.NewReader(r)
		for range lines {
			line, err := in.ReadString('\n')
			fmt.Fprint(s.out, line)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func wc(_ context.Context, s stdio, args []string) error {
	return s.each(args, func(name string, r io.Reader) error {
		var lines, words, bytes int
		in := bufio.NewReader(r)
		for {
			line, err := in.ReadString('\n')
			bytes += len(line)
			words += len(strings.Fields(line))
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
			lines++
		}
		_, err := fmt.Fprintln(s.out, strings.TrimSpace(fmt.Sprintf("%d %d %d %s", lines, words, bytes, name)))
		return err
	})
}

// grep finds a fixed text: regular expressions would double the program.
func grep(_ context.Context, s stdio, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	found := exitError(1)
	err := s.each(args[1:], func(_ string, r io.Reader) error {
		in := bufio.NewScanner(r)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			if strings.Contains(in.Text(), args[0]) {
				found = 0
				fmt.Fprintln(s.out, in.Text())
			}
		}
		return in.Err()
	})
	if err == nil && found != 0 {
		return found
	}
	return err
}

func hexdump(_ context.Context, s stdio, args []string) error {
	return s.each(args, func(_ string, r io.Reader) error {
		d := hex.Dumper(s.out)
		defer d.Close()
		_, err := io.Copy(d, r)
		return err
	})
}

func sha256sum(ctx context.Context, s stdio, args []string) error {
	return uroot(shasum.New)(ctx, s, append([]string{"-a", "256"}, args...))
}

func ln(_ context.Context, s stdio, args []string) error {
	link := func(target, name string) error { return os.Link(s.path(target), s.path(name)) }
	if len(args) > 0 && args[0] == "-s" {
		link = func(target, name string) error { return os.Symlink(target, s.path(name)) }
		args = args[1:]
	}
	if len(args) != 2 {
		return errUsage
	}
	return link(args[0], args[1])
}

// copying is what dd was asked for.
type copying struct {
	from, to          string
	block             int64 // bytes
	count, skip, seek int64 // blocks; count -1 is all
	fsync             bool
}

func parseCopying(args []string) (copying, error) {
	c := copying{block: 512, count: -1}
	numbers := map[string]*int64{"bs": &c.block, "count": &c.count, "skip": &c.skip, "seek": &c.seek}
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		switch {
		case name == "if":
			c.from = value
		case name == "of":
			c.to = value
		case arg == "conv=fsync":
			c.fsync = true
		case numbers[name] != nil:
			n, err := parseSize(value)
			if err != nil {
				return c, fmt.Errorf("%s: %w", arg, err)
			}
			*numbers[name] = n
		default:
			return c, errUsage
		}
	}
	if c.block == 0 {
		return c, errors.New("bs=0")
	}
	return c, nil
}

// parseSize is a number with dd's K, M or G.
func parseSize(s string) (int64, error) {
	shift := 0
	if i := strings.IndexAny("KMG", strings.ToUpper(s[max(0, len(s)-1):])); s != "" && i >= 0 {
		s, shift = s[:len(s)-1], 10*(i+1)
	}
	n, err := strconv.ParseUint(s, 10, 62-shift)
	return int64(n) << shift, err
}

// dd copies block by block, so that a raw disk sees requests of the size asked for.
func dd(ctx context.Context, s stdio, args []string) (err error) {
	c, err := parseCopying(args)
	if err != nil {
		return err
	}
	in, out := s.in, s.out
	if c.from != "" {
		f, err := os.Open(s.path(c.from))
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Seek(c.skip*c.block, io.SeekStart); err != nil {
			return err
		}
		in = f
	}
	if c.to != "" {
		flags := os.O_WRONLY | os.O_CREATE
		if c.seek == 0 && !strings.HasPrefix(c.to, "/dev/") {
			flags |= os.O_TRUNC
		}
		f, err := os.OpenFile(s.path(c.to), flags, 0o666)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if _, err := f.Seek(c.seek*c.block, io.SeekStart); err != nil {
			return err
		}
		out = f
	}
	copied, err := c.copy(ctx, in, out)
	if f, ok := out.(*os.File); ok && err == nil && c.fsync {
		err = f.Sync()
	}
	fmt.Fprintf(s.err, "%d bytes copied\n", copied)
	return err
}

func (c copying) copy(ctx context.Context, in io.Reader, out io.Writer) (copied int64, err error) {
	b := make([]byte, c.block)
	for i := int64(0); i != c.count && ctx.Err() == nil; i++ {
		n, err := io.ReadFull(in, b)
		if n > 0 {
			if _, err := out.Write(b[:n]); err != nil {
				return copied, err
			}
			copied += int64(n)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return copied, nil
		}
		if err != nil {
			return copied, err
		}
	}
	return copied, ctx.Err()
}
