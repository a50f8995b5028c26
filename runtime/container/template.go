package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/cgroup"
	"bulkhead/runtime/program"
	"bulkhead/runtime/template"
)

// templateUse is what a creation has to do with templates.
type templateUse struct {
	store *template.Store // nil: nothing
	key   template.Key
	claim *template.Claim // ours to make, or nil
}

// openTemplate finds a guest for this one to go on from, or begins to keep it as one.
// A start is not to fail for want of either.
func (n *creation) openTemplate() error {
	dir, err := n.rt.templates()
	if err != nil || dir == "" {
		return err
	}
	if err := n.findTemplate(dir); err != nil {
		n.rt.Log.Warn("the guest boots, with no template", "container", n.ID, "err", err)
		n.template = templateUse{}
	}
	return nil
}

// templates is the directory of those to use, "" for none.
func (r *Runtime) templates() (string, error) {
	switch chosen := first(r.Template, r.DefaultTemplate, "auto"); {
	case chosen == "off":
		return "", nil
	case chosen == "auto":
		return templateDir(), nil
	case !filepath.IsAbs(chosen):
		return "", fmt.Errorf("--template=%s is none of auto, off, /absolute/path", chosen)
	default:
		return chosen, nil
	}
}

// templateDir is where they are kept.
func templateDir() string {
	if cache, err := os.UserCacheDir(); rootless() && err == nil {
		return filepath.Join(cache, "bulkhead/templates")
	}
	return "/var/lib/bulkhead/templates"
}

func (n *creation) findTemplate(dir string) error {
	store, err := template.Open(dir)
	if err != nil {
		return err
	}
	self, err := os.Open(program.Path()) // the devices are of this build
	if err != nil {
		return err
	}
	defer self.Close()
	m := n.config.Machine
	annotations := map[string]string{}
	for name, value := range n.spec.Annotations {
		if strings.HasPrefix(name, agent.MachineAnnotations) {
			annotations[name] = value
		}
	}
	// Those that do not matter to a guest that has not begun are as one.
	for _, name := range []string{agent.RootfsAnnotation, agent.DisksAnnotation, agent.DiskSlotsAnnotation, agent.ShareCacheAnnotation} {
		delete(annotations, name)
	}
	var disks []bool // whether each is read-only, which is a machine's device
	for _, d := range m.Disks {
		disks = append(disks, d.ReadOnly)
	}
	key, err := store.Key([]*os.File{m.Kernel, m.Init, self}, []any{
		annotations, cgroup.Inside(n.c.State.Resources), runtime.NumCPU(), n.rt.Debug, disks, n.c.State.DiskSlots,
	})
	if err != nil {
		return err
	}
	n.template = templateUse{store: store, key: key}
	m.Template, err = store.Find(key)
	if err == nil {
		n.own = append(n.own, m.Template)
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	m.Template = nil
	if n.template.claim, err = store.Claim(key); err != nil || n.template.claim == nil {
		return err
	}
	m.NewTemplate = n.template.claim.File
	n.undo = append(n.undo, n.template.drop)
	return nil
}

// settle does what the sandbox says has become of the template.
func (u *templateUse) settle(use agent.TemplateUse) error {
	switch {
	case use == agent.TemplateUnfit:
		u.store.Remove(u.key)
	case use == agent.TemplateKept && u.claim != nil:
		claim := u.claim
		u.claim = nil
		return claim.Keep()
	}
	u.drop()
	return nil
}

func (u *templateUse) drop() {
	if u.claim != nil {
		u.claim.Drop()
		u.claim = nil
	}
}
