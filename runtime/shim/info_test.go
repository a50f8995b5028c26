package shim

import (
	"encoding/json"
	"testing"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/proto"
)

// TestInfo: -info tells containerd the features, as its typeurl reads them.
func TestInfo(t *testing.T) {
	out, err := Program{Version: "1.2.3"}.runtimeInfo()
	if err != nil {
		t.Fatal(err)
	}
	var info types.RuntimeInfo
	if err := proto.Unmarshal(out, &info); err != nil || info.Name != RuntimeType || info.Version.GetVersion() != "1.2.3" {
		t.Fatalf("%v, %v", &info, err)
	}
	var f features.Features
	if err := json.Unmarshal(info.Features.GetValue(), &f); err != nil || f.OCIVersionMax != specs.Version || len(f.Hooks) != 6 {
		t.Errorf("features %s: %+v, %v", info.Features.GetTypeUrl(), f, err)
	}
}
