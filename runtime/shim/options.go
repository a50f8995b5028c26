package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"bulkhead/runtime/config"
	"bulkhead/runtime/container"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// configure takes the settings of the host, then those of the handler: containerd hands
// over what stands in its configuration for the runtime, in a message that names a file
// or holds the text, or in runc's, of which some fields say what they say there.
func configure(rt *container.Runtime, any *anypb.Any) error {
	if err := config.Read("", rt); err != nil {
		return err
	}
	if any == nil || any.TypeUrl == "" {
		return nil
	}
	switch name := typeName(any); name {
	case "runtimeoptions.v1.Options":
		o := &runtimeoptions.Options{}
		if err := proto.Unmarshal(any.Value, o); err != nil {
			return fmt.Errorf("runtime options: %w", err)
		}
		if o.ConfigPath != "" {
			return config.ReadHandler(o.ConfigPath, rt)
		}
		return config.ParseHandler("containerd's options of the runtime", o.ConfigBody, rt)
	case "containerd.runc.v1.Options":
		o := &options.Options{}
		if err := proto.Unmarshal(any.Value, o); err != nil {
			return fmt.Errorf("runtime options: %w", err)
		}
		rt.SystemdCgroup = rt.SystemdCgroup || o.SystemdCgroup
		if o.Root != "" {
			rt.Root = o.Root
		}
		return nil
	default:
		return fmt.Errorf("runtime options of the type %s: neither runtimeoptions.v1.Options (ConfigPath) nor containerd.runc.v1.Options", name)
	}
}

// typeName is a message's name without the host that some put before it.
func typeName(any *anypb.Any) string {
	return any.TypeUrl[strings.LastIndexByte(any.TypeUrl, '/')+1:]
}

// fromJSON reads one of the specification's types, which containerd sends as JSON.
func fromJSON[T any](any *anypb.Any, what string) (*T, error) {
	if any == nil {
		return nil, errors.New(what + " is missing")
	}
	v := new(T)
	if err := json.Unmarshal(any.Value, v); err != nil {
		return nil, fmt.Errorf("%s (%s): %w", what, any.TypeUrl, err)
	}
	return v, nil
}
