// Package proto makes Go of a .proto with protoc's plugins and without protoc,
// which is C++ and not everywhere: github.com/bufbuild/protocompile parses, and
// the plugins are go.mod's tools.
package proto

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// plugins are tools of this module.
var plugins = []string{"protoc-gen-go", "protoc-gen-go-ttrpc"}

// Generate gives the files for name, a .proto of the working directory without
// imports, by their names.
func Generate(name string) (map[string][]byte, error) {
	compiler := protocompile.Compiler{
		Resolver:       &protocompile.SourceResolver{},
		SourceInfoMode: protocompile.SourceInfoStandard, // comments
	}
	parsed, err := compiler.Compile(context.Background(), name)
	if err != nil {
		return nil, err
	}
	request := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{name},
		Parameter:      proto.String("paths=source_relative"),
		ProtoFile:      []*descriptorpb.FileDescriptorProto{protoutil.ProtoFromFileDescriptor(parsed[0])},
	}
	input, err := proto.Marshal(request)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, plugin := range plugins {
		var out, complaint bytes.Buffer
		c := exec.Command("go", "tool", plugin)
		c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(input), &out, &complaint
		if err := c.Run(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", plugin, err, complaint.Bytes())
		}
		response := new(pluginpb.CodeGeneratorResponse)
		if err := proto.Unmarshal(out.Bytes(), response); err != nil {
			return nil, fmt.Errorf("%s: %w", plugin, err)
		}
		if response.Error != nil {
			return nil, fmt.Errorf("%s: %s", plugin, response.GetError())
		}
		for _, f := range response.File {
			files[path.Base(f.GetName())] = []byte(f.GetContent())
		}
	}
	return files, nil
}
