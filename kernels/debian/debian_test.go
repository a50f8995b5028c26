package debian

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestOrder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep": "kernel/a/virtio-rng.ko: kernel/a/virtio.ko kernel/a/ring.ko\n" +
			"kernel/a/virtio.ko: kernel/a/ring.ko\nkernel/a/ring.ko:\nkernel/b/other.ko:\n",
		"modules.builtin": "kernel/fs/ext4/ext4.ko\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	k := Kernel{Release: "1.0", Modules: dir}
	if err := k.readDepends(); err != nil {
		t.Fatal(err)
	}
	got, err := k.Order("ext4", "virtio_rng", "virtio")
	want := []string{"kernel/a/ring.ko", "kernel/a/virtio.ko", "kernel/a/virtio-rng.ko"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("order %q, %v; want %q", got, err, want)
	}
	if _, err := k.Order("nosuch"); err == nil || !strings.Contains(err.Error(), "kernel 1.0 has no module nosuch") {
		t.Errorf("a module that there is not: %v", err)
	}
}

func TestMetaStem(t *testing.T) {
	for name, want := range map[string]string{
		"linux-image-cloud-amd64": "linux-image-", "linux-source": "linux-source-", "linux-image-amd64": "linux-image-",
	} {
		if got := metaStem(name); got != want {
			t.Errorf("metaStem(%s) = %s, want %s", name, got, want)
		}
	}
}

func wrap(payload []byte) []byte {
	image := make([]byte, 0x400)
	image[0x1f1] = 1
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(payload)))
	return append(image, payload...)
}

func TestPayload(t *testing.T) {
	good := wrap([]byte("packed....SIZE"))
	if got, err := payloadOf(good); err != nil || string(got) != "packed...." {
		t.Errorf("%q, %v", got, err)
	}
	for name, image := range map[string][]byte{
		"cut short": good[:len(good)-1], "no header": good[:0x24f], "no image": bytes.Repeat([]byte{1}, 2000),
	} {
		if _, err := payloadOf(image); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzPayload(f *testing.F) {
	f.Add(wrap([]byte("packed....SIZE")))
	f.Fuzz(func(t *testing.T, image []byte) { payloadOf(image) })
}
