package console_test

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"bulkhead/virtio"
	"bulkhead/virtio/console"
	"bulkhead/virtio/virtiotest"
)

const (
	receive  = 0
	transmit = 1
)

// start drives dev, which the test's end closes.
func start(t *testing.T, dev *console.Device, features uint64) *virtiotest.Driver {
	t.Helper()
	t.Cleanup(func() { dev.Close() })
	return virtiotest.StartIn(t, virtiotest.NewMemory(1<<20), dev, features)
}

func TestOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		dev := console.New(nil, &out, nil)
		d := start(t, dev, virtio.FeatureIndirectDesc)
		d.Do(transmit, []byte("Hal"), 0)
		d.Send(transmit, [][]byte{[]byte("lo"), []byte(" Welt")}, nil).Wait()
		if err := dev.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if out.String() != "Hallo Welt" {
			t.Errorf("output %q", out.String())
		}
	})
}

func TestInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		defer w.Close()
		d := start(t, console.New(r, nil, nil), virtio.FeatureEventIdx)
		early := d.Send(receive, nil, []int{100})
		synctest.Wait()
		if early.Done() {
			t.Error("an answer before there was input")
		}
		w.Write([]byte("ls\n"))
		if got := early.Wait(); string(got) != "ls\n" {
			t.Errorf("got %q", got)
		}
		w.Write([]byte("abcdefgh"))
		for _, want := range []string{"abc", "def", "gh"} {
			if got := d.Send(receive, nil, []int{1, 2}).Wait(); string(got) != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	})
}

// endless gives one byte at a time for ever, and counts.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read++
	p[0] = 'y'
	return 1, nil
}

func TestInputWaitsForBuffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := &endless{}
		d := start(t, console.New(in, nil, nil), 0)
		synctest.Wait() // returns, since nobody reads on
		if in.read > 2 {
			t.Errorf("read %d times for a guest without buffers", in.read)
		}
		for range 10 {
			if got := d.Do(receive, nil, 5); string(got) != "y" {
				t.Errorf("got %q", got)
			}
		}
	})
}

// TestStalledOutput stops, saves and goes on while nobody reads: every byte
// comes out once.
func TestStalledOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := make([]byte, 200<<10)
		for i := range long {
			long[i] = byte(i / 97)
		}
		r, w := io.Pipe()
		first := console.New(nil, w, nil)
		d := start(t, first, 0)
		under := d.Send(transmit, [][]byte{long[:90<<10], long[90<<10:]}, nil)
		synctest.Wait()
		d.Stop()
		d.Restart()
		synctest.Wait()
		if under.Done() {
			t.Error("200 KiB were taken though nobody reads")
		}

		var rest bytes.Buffer
		second := console.New(nil, &rest, nil)
		t.Cleanup(func() { second.Close() })
		d.Replace(second)
		under.Wait()
		if err := second.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		first.Close()
		got := make([]byte, len(long)-rest.Len())
		if _, err := io.ReadFull(r, got); err != nil {
			t.Fatal(err)
		}
		if got = append(got, rest.Bytes()...); !bytes.Equal(got, long) {
			t.Errorf("%d bytes came out, or others, of %d", len(got), len(long))
		}
	})
}

func TestResetForgetsHalfAChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		dev := console.New(nil, w, nil)
		d := start(t, dev, 0)
		d.Send(transmit, [][]byte{make([]byte, 200<<10)}, nil)
		synctest.Wait()
		d.Reset()
		go io.Copy(io.Discard, r)
		d.Do(transmit, []byte("x"), 0)
		if err := dev.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if state, err := dev.Save(); err != nil || !strings.Contains(string(state), `"Taken":0`) {
			t.Errorf("state after a reset: %s, %v", state, err)
		}
		w.Close()
	})
}

func TestFailedOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		r.Close()
		d := start(t, console.New(nil, w, nil), 0)
		for range 100 {
			d.Do(transmit, make([]byte, 10<<10), 0) // hangs if the output is kept
		}
	})
}

func TestFlushEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		dev := console.New(nil, w, nil)
		d := start(t, dev, 0)
		d.Do(transmit, []byte("x"), 0)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := dev.Flush(ctx); err != context.Canceled {
			t.Errorf("flush of what nobody reads: %v", err)
		}
		r.Close()
	})
}

func TestResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const featureSize = 1
		dev := console.New(nil, nil, nil)
		dev.Resize(console.Size{Cols: 80, Rows: 25})
		d := start(t, dev, featureSize)
		dev.Resize(console.Size{Cols: 300, Rows: 51})
		d.WaitConfig(2)
		if got, want := d.Config(0, 6), []byte{44, 1, 51, 0, 0, 0}; !bytes.Equal(got, want) {
			t.Errorf("configuration %v, want %v", got, want)
		}
		if got := d.Config(11, 4); !bytes.Equal(got, make([]byte, 4)) {
			t.Errorf("past the end: %v", got)
		}
		// A restored guest is told that it has another terminal.
		d.Stop()
		dev.Resize(console.Size{Cols: 132, Rows: 51})
		d.Restart()
		d.WaitConfig(3)
	})
}

func TestEmergency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		dev := console.New(nil, &out, nil)
		d := start(t, dev, 0)
		d.Stop()
		for _, b := range []byte("Oops") {
			d.SetConfig(8, []byte{b, 0, 0, 0})
		}
		d.SetConfig(0, []byte("not me"))
		d.SetConfig(8, nil)
		if err := dev.Flush(t.Context()); err != nil || out.String() != "Oops" {
			t.Errorf("output %q, %v", out.String(), err)
		}
	})
}

func FuzzRestore(f *testing.F) {
	newDevice := func(t *testing.T) virtio.Device {
		dev := console.New(nil, io.Discard, nil)
		t.Cleanup(func() { dev.Close() })
		return dev
	}
	virtiotest.FuzzRestore(f, newDevice, nil,
		slices.Concat(virtiotest.FuzzRequest(transmit, [][]byte{[]byte("output")}, nil), virtiotest.FuzzRequest(receive, nil, []int{8, 2000}), virtiotest.FuzzReset, virtiotest.FuzzRequest(transmit, [][]byte{[]byte("x")}, nil)),
		[]byte(`{"Taken":3,"Input":"aW5wdXQ=","Told":{"Cols":80,"Rows":24}}`), []byte(`{"Taken":0,"Input":null,"Told":{"Cols":0,"Rows":0}}`),
		[]byte(`{"Taken":9223372036854775807,"Input":"","Told":{"Cols":0,"Rows":0}}`), []byte(`{"Taken":-1,"Input":null,"Told":{"Cols":0,"Rows":0}}`))
}

func FuzzConsole(f *testing.F) {
	newDevice := func(t *testing.T) virtio.Device {
		dev := console.New(strings.NewReader(strings.Repeat("input ", 2000)), io.Discard, nil)
		t.Cleanup(func() { dev.Close() })
		return dev
	}
	virtiotest.Fuzz(f, newDevice, nil,
		virtiotest.FuzzRequest(transmit, [][]byte{[]byte("out")}, nil),
		slices.Concat(virtiotest.FuzzRequest(receive, nil, []int{8, 2000}), virtiotest.FuzzPause, virtiotest.FuzzRequest(transmit, nil, []int{1}), virtiotest.FuzzReset))
}
