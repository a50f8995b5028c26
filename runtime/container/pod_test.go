package container

import "testing"

// TestPodOf: whose pod a container is in, by what engines say.
func TestPodOf(t *testing.T) {
	for _, row := range []struct {
		annotations map[string]string
		want        string
	}{
		{nil, ""},
		{map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "a"}, "a"},
		{map[string]string{"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "a"}, ""},
		{map[string]string{"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "b"}, "b"},
		// Podman's pod need not have a container of that ID.
		{map[string]string{"io.container.manager": "libpod", "io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "b"}, ""},
	} {
		if got := podOf(row.annotations); got != row.want {
			t.Errorf("%v: %q, want %q", row.annotations, got, row.want)
		}
	}
}
