package machine

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"bulkhead/kvm"
)

func TestRecord(t *testing.T) {
	type kept struct {
		One  record[kvm.Sregs]
		Many records[kvm.CPUIDEntry]
		None records[kvm.MSR]
	}
	was := kept{Many: records[kvm.CPUIDEntry]{{Function: 1, EAX: 2}, {Function: 0x8000_0000, Index: 3, EDX: 1 << 31}}, None: records[kvm.MSR]{}}
	was.One.is.CR3, was.One.is.Interrupts[3] = 0x1234_5678_9abc, 1
	text, err := json.Marshal(was)
	must(t, err)
	var is kept
	must(t, json.Unmarshal(text, &is))
	if !reflect.DeepEqual(is, was) {
		t.Errorf("%+v became %+v by %s", was, is, text)
	}
	for _, wrong := range []string{
		`{"One":"AAAA"}`, // too short
		`{"One":"` + strings.Repeat("AAAA", 1000) + `"}`, // too long
		`{"Many":"AAAA"}`, // no whole number of them
		`{"Many":"!"}`,    // not base 64
		`{"Many":[1]}`,
	} {
		if err := json.Unmarshal([]byte(wrong), new(kept)); err == nil {
			t.Errorf("%s is taken", wrong)
		}
	}
}
