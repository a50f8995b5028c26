package ptrace

import "testing"

// TestReleaseThenClose: a process whose end is under way, with tasks to be reaped, is no
// longer Close's to end.
func TestReleaseThenClose(t *testing.T) {
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.NewAddressSpace()
	if err != nil {
		t.Fatal(err)
	}
	as := a.(*space)
	traced, done := make(chan error), make(chan struct{})
	go func() {
		th, err := p.NewThread()
		if err == nil {
			_, err = th.(*Thread).adopt(as)
		}
		traced <- err
		<-done
		if th != nil {
			th.Close()
		}
		traced <- nil
	}()
	if err := <-traced; err != nil {
		t.Fatal(err)
	}
	as.proc.mu.Lock() // before its end begins
	as.Release()
	p.mu.Lock()
	if _, ours := p.all[as.proc]; ours {
		t.Error("Close would kill it, too")
	}
	p.mu.Unlock()
	as.proc.mu.Unlock()
	close(done)
	<-traced
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
