package boot

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// setClock sets the wall clock where the kernel's own sources (kvm-clock, or the RTC
// with CONFIG_RTC_HCTOSYS) left it wrong.
func (g *guest) setClock() error {
	now := time.Now()
	want := g.config.Time
	if !want.IsZero() {
		// The host wrote it down when the kernel's time began.
		want = want.Add(sinceBoot())
	} else if now.Year() < 2000 { // nobody has set it: it counts from 1970
		want, _ = readRTC("/dev/rtc0")
	}
	if want.IsZero() || want.Sub(now).Abs() < time.Second {
		return nil
	}
	ts := unix.NsecToTimespec(want.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set the clock to %v: %w", want.UTC().Format(time.RFC3339), err)
	}
	return nil
}

// readRTC is the time of a real-time clock, which we take to run in UTC; rtc(4).
func readRTC(dev string) (time.Time, error) {
	f, err := os.Open(dev)
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	t, err := unix.IoctlGetRTCTime(int(f.Fd()))
	if err != nil {
		return time.Time{}, fmt.Errorf("read %s: %w", dev, err)
	}
	return time.Date(int(t.Year)+1900, time.Month(t.Mon+1), int(t.Mday),
		int(t.Hour), int(t.Min), int(t.Sec), 0, time.UTC), nil
}
