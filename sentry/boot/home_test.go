package boot

import "testing"

func TestHomeOf(t *testing.T) {
	const passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nu:x:1000:1000::/home/u:\nnohome:x:5:5:::\nlast:x:7:7::/l:/s"
	for uid, want := range map[uint32]string{0: "/root", 1000: "/home/u", 5: "/", 7: "/l", 9: "/"} {
		if got := homeOf(passwd, uid); got != want {
			t.Errorf("uid %d: %q, want %q", uid, got, want)
		}
	}
}
