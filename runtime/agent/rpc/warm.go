package rpc

import "google.golang.org/protobuf/proto"

// Warm learns the messages of a start, as protobuf learns each when it meets it first. A guest
// that others go on from has learnt them for all of those.
func Warm() error {
	some := []byte{1}
	for _, m := range []proto.Message{
		&HelloRequest{}, &HelloResponse{}, &BeginResponse{}, &CreateResponse{}, &StartRequest{}, &StartResponse{},
		&WaitRequest{}, &WaitResponse{}, &OOMKillsRequest{}, &OOMKillsResponse{},
		&BeginRequest{Entropy: some, Interfaces: []*Interface{{Name: "x", Addresses: []string{"x"}, Routes: []*Route{{}}}}},
		&CreateRequest{
			Container: "x", Spec: some, Binds: map[uint32]string{1: "x"}, Streams: &Streams{Stdin: some}, Limits: &Limits{Memory: 1},
			Filter: &Filter{Program: some}, Share: []string{"x"}, Disks: []*Disk{{}}, Cgroup: map[string]string{"x": "x"},
		},
	} {
		text, err := proto.Marshal(m)
		if err == nil {
			err = proto.Unmarshal(text, m.ProtoReflect().New().Interface())
		}
		if err != nil {
			return err
		}
	}
	return nil
}
