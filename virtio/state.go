package virtio

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// ParseState reads into to what json.Marshal made of such a value for a snapshot, and
// nothing else: a snapshot is a file, which somebody may have changed. A field
// more, one twice or spelt otherwise, or one left out, is an error.
func ParseState(b []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return fmt.Errorf("its state: %w", err)
	}
	again, err := json.Marshal(to)
	if err != nil {
		return fmt.Errorf("its state: %w", err)
	}
	if !bytes.Equal(again, b) {
		return errors.New("its state is not as a machine writes it")
	}
	return nil
}
