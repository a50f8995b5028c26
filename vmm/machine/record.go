package machine

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
)

// record is a struct of the kernel's in a state: its bytes, little-endian, as text. Told field
// by field, a CPU was 25 KiB of JSON, which to read and to compare took a copy's start
// 7 million instructions, much of it to learn the types.
type record[T any] struct{ is T }

// MarshalText implements encoding.TextMarshaler, as the next encoding.TextUnmarshaler.
func (r record[T]) MarshalText() ([]byte, error) { return pack(&r.is) }

func (r *record[T]) UnmarshalText(text []byte) error {
	b, err := unpack(text)
	if err != nil {
		return err
	}
	return fill(b, &r.is)
}

// records are structs of one type, one after the other.
type records[T any] []T

// MarshalText implements encoding.TextMarshaler, as the next encoding.TextUnmarshaler.
func (r records[T]) MarshalText() ([]byte, error) { return pack([]T(r)) }

func (r *records[T]) UnmarshalText(text []byte) error {
	b, err := unpack(text)
	if err != nil {
		return err
	}
	// What is left over is missed by fill.
	*r = make([]T, len(b)/binary.Size(*new(T)))
	return fill(b, []T(*r))
}

func pack(v any) ([]byte, error) {
	b, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

func unpack(text []byte) ([]byte, error) { return base64.StdEncoding.AppendDecode(nil, text) }

func fill(b []byte, v any) error {
	n, err := binary.Decode(b, binary.LittleEndian, v)
	if err == nil && n != len(b) {
		err = fmt.Errorf("%d bytes, want %d", len(b), n)
	}
	return err
}
