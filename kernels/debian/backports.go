package debian

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"bulkhead/kernels/cache"
)

// keyring is what Debian's releases are signed with, their backports too.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// FetchBackports is packages of the backports of this machine's Debian release,
// unpacked into one tree. Its Name and Version are those of the first. This machine's own
// sources, lists and packages stay as they are: apt gets a state of its own.
func FetchBackports(ctx context.Context, names ...string) (Package, error) {
	if len(names) == 0 {
		return Package{}, fmt.Errorf("debian: fetch backports: no package is named")
	}
	key := "backports-" + strings.Join(names, "-")
	dir, err := cache.Fill(ctx, kind, key, func(dir string) error { return fetchBackports(ctx, names, dir) })
	if err != nil {
		return Package{}, err
	}
	return read(names[0], dir)
}

func fetchBackports(ctx context.Context, names []string, dir string) error {
	what := "debian: fetch backported packages " + strings.Join(names, ", ")
	mirror, release, err := mirror(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	state := filepath.Join(dir, "apt")
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(state, sub), 0o755); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	source := fmt.Sprintf("deb [signed-by=%s] %s %s-backports main\n", keyring, mirror, release)
	if err := os.WriteFile(filepath.Join(state, "sources.list"), []byte(source), 0o644); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	// To apt's own user, which it downloads as when it is root, the cache may be out
	// of reach.
	options := []string{
		"-qq", "-o", "Dir::Etc::sourcelist=" + state + "/sources.list", "-o", "Dir::Etc::sourceparts=" + state + "/none",
		"-o", "Dir::State::lists=" + state + "/lists", "-o", "Dir::Cache=" + state + "/cache", "-o", "APT::Sandbox::User=",
	}
	apt := func(args ...string) error {
		_, err := output(ctx, dir, "apt-get", append(options[:len(options):len(options)], args...)...)
		return err
	}
	if err := apt("update"); err != nil {
		return fmt.Errorf("%s: from %s %s-backports: %w", what, mirror, release, err)
	}
	if err := apt(append([]string{"download"}, names...)...); err != nil {
		return fmt.Errorf("%s: from %s %s-backports: %w", what, mirror, release, err)
	}
	var version string
	for _, name := range names {
		files, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
		if err != nil || len(files) != 1 {
			return fmt.Errorf("%s: apt-get download left %d files of %s", what, len(files), name)
		}
		if version == "" {
			if version, err = output(ctx, dir, "dpkg-deb", "-f", files[0], "Version"); err != nil {
				return fmt.Errorf("debian: read package %s: %w", files[0], err)
			}
		}
		if _, err := output(ctx, dir, "dpkg-deb", "-x", files[0], "tree"); err != nil {
			return fmt.Errorf("debian: unpack package %s: %w", files[0], err)
		}
		if err := os.Remove(files[0]); err != nil {
			return fmt.Errorf("debian: unpack package %s: %w", name, err)
		}
	}
	if err := os.RemoveAll(state); err != nil {
		return fmt.Errorf("debian: unpack package %s: %w", names[0], err)
	}
	origin := names[0] + " " + strings.TrimSpace(version) + "\n"
	if err := os.WriteFile(filepath.Join(dir, "origin"), []byte(origin), 0o644); err != nil {
		return fmt.Errorf("debian: unpack package %s: %w", names[0], err)
	}
	return nil
}

// mirror is where this machine has its Debian release from, and the release's name.
func mirror(ctx context.Context) (address, release string, err error) {
	release, err = codename("/etc/os-release")
	if err != nil {
		return "", "", err
	}
	targets, err := output(ctx, "", "apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(targets) {
		if site, name, _ := strings.Cut(strings.TrimSpace(line), " "); name == release {
			return site, release, nil
		}
	}
	return "", "", fmt.Errorf("no source of packages for %s: /etc/apt/sources.list", release)
}

// codename is VERSION_CODENAME of a file as os-release(5) has it.
func codename(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	values := map[string]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), "=")
		values[name] = strings.Trim(value, `"'`)
	}
	if values["ID"] != "debian" || values["VERSION_CODENAME"] == "" {
		return "", fmt.Errorf("%s: this is no release of Debian", path)
	}
	return values["VERSION_CODENAME"], nil
}
