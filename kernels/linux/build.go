package linux

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"bulkhead/kernels/debian"
)

// build makes one kernel.
type build struct {
	ctx    context.Context
	log    io.Writer
	source debian.Package
	out    string // directory of the results, and while it lasts of all else
}

// tools are what a build runs, with the packages that have them.
var tools = []struct{ program, pkg string }{
	{"make", "make"}, {"gcc", "gcc"}, {"ld", "binutils"}, {"flex", "flex"}, {"bison", "bison"}, {"bc", "bc"},
	{"perl", "perl"}, {"xz", "xz-utils"}, {"lz4", "lz4"}, {"cpio", "cpio"},
}

// headers are the same for files that a build includes.
var headers = []struct{ file, pkg string }{
	{"/usr/include/libelf.h", "libelf-dev"}, {"/usr/include/openssl/opensslv.h", "libssl-dev"},
}

func (b build) run() error {
	if err := b.check(); err != nil {
		return err
	}
	tree, err := b.unpack()
	if err != nil {
		return err
	}
	objects := filepath.Join(b.out, "objects")
	if err := b.configure(tree, objects); err != nil {
		return err
	}
	fmt.Fprintf(b.log, "kernel: compiling %s %s: four minutes on two quiet processors\n", b.source.Name, b.source.Version)
	if err := b.make(objects, "vmlinux", "bzImage"); err != nil {
		return err
	}
	if err := b.keep(objects); err != nil {
		return err
	}
	for _, dir := range []string{tree, objects} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("kernel: clean up: %w", err)
		}
	}
	return nil
}

// check looks for what a build needs, and names all that is missing at once.
func (b build) check() error {
	var missing []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool.program); err != nil {
			missing = append(missing, tool.pkg)
		}
	}
	for _, header := range headers {
		if !present(header.file) && !present(strings.Replace(header.file, "include", "include/x86_64-linux-gnu", 1)) {
			missing = append(missing, header.pkg)
		}
	}
	if missing != nil {
		return fmt.Errorf("kernel: build %s: tools are missing: as root: apt-get install %s", b.source.Name, strings.Join(missing, " "))
	}
	return nil
}

func present(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// unpack is the source's tree, in out.
func (b build) unpack() (string, error) {
	archive := filepath.Join(b.source.Dir, "usr", "src", b.source.Name+".tar.xz")
	fmt.Fprintf(b.log, "kernel: unpacking %s\n", archive)
	if err := b.command("tar", "-C", b.out, "-xf", archive); err != nil {
		return "", err
	}
	return filepath.Join(b.out, b.source.Name), nil
}

// configure makes .config: tinyconfig, the fragments, and what they imply.
func (b build) configure(tree, objects string) error {
	if err := os.Mkdir(objects, 0o755); err != nil {
		return fmt.Errorf("kernel: configure: %w", err)
	}
	if err := b.command("make", "-s", "-C", tree, "O="+objects, "tinyconfig"); err != nil {
		return err
	}
	config := filepath.Join(objects, ".config")
	merge := []string{"-m", "-O", objects, config}
	err := eachFragment(func(name, text string) error {
		file := filepath.Join(objects, name)
		merge = append(merge, file)
		return write(file, text)
	})
	if err != nil {
		return err
	}
	if err := b.command(filepath.Join(tree, "scripts/kconfig/merge_config.sh"), merge...); err != nil {
		return err
	}
	if err := b.command("make", "-s", "-C", objects, "olddefconfig"); err != nil {
		return err
	}
	whole, err := os.ReadFile(config)
	if err != nil {
		return fmt.Errorf("kernel: configure: %w", err)
	}
	return eachFragment(func(name, text string) error {
		for _, line := range unmet(text, string(whole)) {
			fmt.Fprintf(b.log, "kernel: %s asks for %s, which %s cannot have so\n", name, line, b.source.Name)
		}
		return nil
	})
}

// make builds targets, with a line of progress every hundred files.
func (b build) make(objects string, targets ...string) error {
	args := append([]string{"make", "-C", objects, fmt.Sprintf("-j%d", runtime.NumCPU()),
		// Who built it, and when, is not in it.
		"KBUILD_BUILD_USER=bulkhead", "KBUILD_BUILD_HOST=bulkhead", "KBUILD_BUILD_TIMESTAMP=1970-01-01"}, targets...)
	cmd := exec.CommandContext(b.ctx, "nice", args...)
	complaints := &bytes.Buffer{}
	cmd.Stderr = complaints
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("kernel: make: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("kernel: make: %w", err)
	}
	lines, compiled := bufio.NewScanner(stdout), 0
	for lines.Scan() {
		word, _, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if word != "CC" {
			continue
		}
		if compiled++; compiled%100 == 0 {
			fmt.Fprintf(b.log, "kernel: %d files of about 1400 compiled\n", compiled)
		}
	}
	return b.ended("make "+strings.Join(targets, " "), cmd.Wait(), complaints)
}

// keep copies the results from the objects to out. The ELF file loses what no
// boot needs, as its symbols, which System.map keeps.
func (b build) keep(objects string) error {
	if err := pack(filepath.Join(objects, "vmlinux"), filepath.Join(b.out, "vmlinux")); err != nil {
		return err
	}
	for from, to := range map[string]string{"arch/x86/boot/bzImage": "bzImage", "System.map": "System.map", ".config": "config"} {
		if err := os.Rename(filepath.Join(objects, from), filepath.Join(b.out, to)); err != nil {
			return fmt.Errorf("kernel: keep the results: %w", err)
		}
	}
	return nil
}

// command runs a program that prints nothing of interest unless it fails.
func (b build) command(name string, args ...string) error {
	cmd := exec.CommandContext(b.ctx, name, args...)
	printed := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = printed, printed
	return b.ended(filepath.Base(name)+" "+strings.Join(args, " "), cmd.Run(), printed)
}

// ended is the error of a program that ended so, with the last that it printed.
func (b build) ended(what string, err error, printed *bytes.Buffer) error {
	if err == nil {
		return nil
	}
	if b.ctx.Err() != nil {
		return fmt.Errorf("kernel: %s: %w", what, context.Cause(b.ctx))
	}
	lines := strings.Split(strings.TrimSpace(printed.String()), "\n")
	return fmt.Errorf("kernel: %s: %w:\n%s", what, err, strings.Join(lines[max(0, len(lines)-20):], "\n"))
}
