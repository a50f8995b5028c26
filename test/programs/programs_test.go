// Package programs runs the programs that people run, natively and in the
// sandbox on each platform, and compares what they print and how they exit.
package programs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/test/rig"
)

// rows are scripts, none of which dies by a signal of its own: in a sandbox it is
// PID 1, which Linux spares. Each runs in an empty directory of its own, which is
// read-only beneath a memory overlay in the sandbox. need names what must be on PATH.
var rows = []struct {
	name, need string
	shell      string
	script     string
}{
	{"busybox", "busybox", "busybox sh", `
		busybox seq 1 2000 | busybox awk '{s += $1} END {print s}'
		busybox printf 'c\na\nb\n' | busybox sort | busybox md5sum
		busybox mkdir -p a/b && busybox touch a/b/f && busybox find a | busybox sort
		busybox dd if=/dev/zero bs=1k count=100 2>/dev/null | busybox wc -c
		busybox id -u; busybox expr 6 '*' 7; busybox date -u -d @0
		busybox tar c a | busybox tar t
		(busybox sleep 0.05; echo late) & echo early; wait; echo $?
		busybox false || echo false`},
	{"fio", "fio", "sh", `
		for engine in libaio io_uring sync mmap psync; do
			fio --name=x --size=2m --bs=4k --rw=randrw --ioengine=$engine --iodepth=16 --verify=crc32c --output=out >/dev/null
			echo $engine $?; grep -o 'err= [0-9]*' out
		done
		fio --name=y --size=2m --bs=4k --rw=randrw --ioengine=io_uring --iodepth=16 --fixedbufs --registerfiles --output=out >/dev/null
		echo $?; grep -o 'err= [0-9]*' out`},
	{"dash", "dash", "dash", `
		i=0; while [ $i -lt 300 ]; do i=$((i + 1)); done; echo $i
		f() { echo "args $# $2"; return 7; }; f a 'b c' d; echo $?
		for w in one "two three"; do echo "<$w>"; done
		x=$(echo nested $(echo deeper)); echo $x
		cat <<-END | tr a-z A-Z
		here document
		END
		trap 'echo trapped' USR1; kill -USR1 $$; trap 'echo leaving' EXIT
		(exit 9); echo $?; set -- a b c; shift; echo "$*" ${#x} ${x%deeper}
		echo out >f; echo more >>f; cat <f; ls -l f | cut -c1-10
		sh -c 'kill -TERM $$'; echo $?
		exit 3`},
	{"bash", "bash", "bash", `
		a=(one two three); echo ${#a[@]} ${a[-1]} ${a[@]:1}
		declare -A m=([x]=1 [y]=2); echo $((m[x] + m[y]))
		printf '%s\n' {1..500} | grep 7 | sort -rn | head -3
		set -o pipefail; false | true; echo $? ${PIPESTATUS[@]}
		diff <(seq 5) <(seq 2 6); echo $?
		exec 5<>fifo.$$ ; echo via >&5; exec 5>&-
		coproc cat; echo hello >&${COPROC[1]}; read -r l <&${COPROC[0]}; echo $l; eval "exec ${COPROC[1]}>&-"
		sleep 5 & kill $!; wait $!; echo $?
		[[ abc =~ b(.) ]] && echo ${BASH_REMATCH[1]}
		for i in {1..40}; do (echo $i) & done | sort -n | tail -1; wait
		read -t 0.01 x </dev/zero; ulimit -n; umask
		{ bash -c 'kill -9 $$'; echo $?; } 2>/dev/null; exit 6`},
	{"coreutils", "sha256sum", "sh", `
		seq 1000 >n; sha256sum n; md5sum n; cksum n; wc n; tac n | head -2; shuf -i 1-5 | sort
		split -l 300 n p; ls p*; cat p* | cmp - n && echo same
		cp -a n m; ln n h; ln -s n s; stat -c '%n %s %h %F' n m h s; readlink -f s | sed 's,.*/,,'
		mkdir d; mv m d/; cp -r d e; du -b --apparent-size d/m | cut -f1; rm -r d; ls
		touch -d 2001-02-03 n; stat -c %y n; date -u -d @1e9 2>&1; chmod 640 n; stat -c %a n
		dd if=n of=o bs=7 count=3 skip=1 2>/dev/null; od -c o; truncate -s 5 o; cat o; tr -d '\n' <n | fold -w 60 | tail -1
		env -i A=b env; nproc >/dev/null && echo cpus; timeout 0.05 sleep 5; echo $?; id -un; tty; uname -s
		mktemp -u xXXX | wc -c; sort -n -r n | uniq | head -1; join n n | wc -l; comm -12 n n | wc -l; numfmt --to=iec 123456
		mkfifo f; (echo through >f) & cat f; seq 3 | tee t | paste -sd+; factor 1234567890; expr 3 + 4; base64 o; sync; nohup true`},
	{"perl", "perl", "sh", `perl -e '
		use strict; use POSIX ":sys_wait_h"; use Socket; use IO::Handle;
		my %h; $h{$_ % 7} += $_ for 1..10000; print join(",", map {"$_=$h{$_}"} sort keys %h), "\n";
		my $p = fork; if (!$p) { exit 5 } waitpid $p, 0; print $? >> 8, "\n";
		socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, 0) or die $!; $a->autoflush(1); print $a "line\n"; print scalar <$b>;
		$SIG{ALRM} = sub { print "alarm\n" }; alarm 1; select undef, undef, undef, 5;
		open my $f, "+>", "file" or die; print $f "x" x 5000; seek $f, 100, 0; read $f, my $t, 10; print "$t\n"; print -s "file", "\n";
		print join(" ", sort { $a <=> $b } map { $_ * 3 % 11 } 1..10), "\n"; print sprintf("%.10f", atan2(1, 1) * 4), "\n";
		print "yes\n" if "sandbox" =~ /^(?:s.)(?<n>nd)/; print "$+{n}\n"; opendir my $d, "/proc/self/fd"; print scalar(grep /\d/, readdir $d) > 3, "\n";
		local $@; eval { die { code => 3 } }; print $@->{code}, "\n"; exit 4'`},
	{"git", "git", "sh", `
		export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_DATE=@1000000000+0000 GIT_COMMITTER_DATE=@1000000000+0000
		git init -q -b main r && cd r && git config user.name T && git config user.email t@example.org
		for i in $(seq 200); do echo "file $i" >f$i; done
		git add . && git commit -q -m 'all of them' && git log --stat | tail -3 && git rev-parse HEAD
		echo changed >>f7; git diff --stat; git commit -qam second; git log --oneline; git show --stat | tail -2
		git checkout -q -b side HEAD~1; echo side >s; git add s; git commit -qm side; git merge -q -m merged main; git log --graph --format=%s
		git gc -q; git fsck; git status --short; git count-objects | cut -d, -f1; cd ..; git clone -q r c; ls c | wc -l`},
	{"gcc", "gcc", "sh", `
		printf '#include <stdio.h>\n#include <math.h>\nint main(int c, char **v) { printf("hello, world %%d %%.6f\\n", c, sqrt(2)); return 42; }\n' >h.c
		gcc -O2 -Wall -o h h.c -lm && ./h a b; echo $?
		gcc -static -o s h.c -lm && ./s; echo $?
		gcc -c h.c && ar rc libh.a h.o && ar t libh.a; printf 'int x = "s";' | gcc -x c -c -o /dev/null - 2>/dev/null; echo $?`},
	{"tar_gzip", "gzip", "sh", `
		for d in $(seq 20); do mkdir d$d; for f in $(seq 100); do echo "$d/$f content" >d$d/f$f; done; done
		find . -type f | wc -l
		tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf t.tar d*; sha256sum t.tar
		gzip -n t.tar; sha256sum t.tar.gz; mkdir x; tar -xzf t.tar.gz -C x; diff -r d7 x/d7 && echo equal
		find x -type f -exec cat {} + | sort | sha256sum; rm -rf d* x; ls`},
	{"python", "/usr/bin/python3", "/usr/bin/python3", `
import threading, queue, subprocess, sqlite3, ssl, os, signal, socket, select, time, hashlib, json, zlib, tempfile, mmap, multiprocessing, asyncio, sys
q = queue.Queue(); out = []
def work():
    while (n := q.get()) is not None: out.append(n * n)
ts = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in ts]; [q.put(i) for i in range(1000)]; [q.put(None) for _ in ts]; [t.join() for t in ts]
print(sum(out))
print(subprocess.run(["sh", "-c", "echo from child; cat; exit 3"], input=b"input", capture_output=True))
try: subprocess.run(["sleep", "10"], timeout=0.05)
except subprocess.TimeoutExpired as e: print("timeout", e.cmd)
db = sqlite3.connect("db"); db.execute("create table t(a integer primary key, b text)")
with db: db.executemany("insert into t(b) values(?)", [(str(i),) for i in range(2000)])
print(db.execute("select count(*), sum(a), max(length(b)) from t where b like '%7%'").fetchall()); db.close(); print(os.path.getsize("db") > 10000)
print(ssl.OPENSSL_VERSION.split()[0], ssl.create_default_context().verify_mode)
a, b = socket.socketpair(); a.sendall(b"x" * 100); print(len(b.recv(1000))); print(select.select([b], [b], [], 0)[0])
signal.signal(signal.SIGUSR1, lambda n, f: print("signal", n)); os.kill(os.getpid(), signal.SIGUSR1)
print(hashlib.sha256(b"abc").hexdigest(), zlib.crc32(b"abc"), json.dumps({"a": [1, 2.5, None]}))
with tempfile.TemporaryFile() as f: f.write(b"0" * 8192); f.flush(); m = mmap.mmap(f.fileno(), 0); m[5:8] = b"abc"; print(m.find(b"abc")); m.close()
def child(n): return n + os.getpid() * 0
with multiprocessing.Pool(3) as p: print(sum(p.map(child, range(100))))
async def ticks():
    await asyncio.gather(*[asyncio.sleep(0.01) for _ in range(100)]); p = await asyncio.create_subprocess_exec("echo", "async", stdout=subprocess.PIPE); return await p.communicate()
print(asyncio.run(ticks()))
pid = os.fork()
if not pid: os._exit(9)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])); sys.stdout.flush()
print(subprocess.run([sys.executable, "-c", "import os; os.abort()"]).returncode); sys.exit(5)`},
	{"strace", "strace", "sh", `
		strace -qq -e trace=exit_group -e signal=none -o t sh -c 'exit 3'; echo $?; cat t
		strace -qq -e trace=write -o t busybox echo 'hello there'; cat t
		strace -qq -f -e trace=openat -P /no/such/file -o t sh -c 'cat </no/such/file' 2>/dev/null; sed 's/^[0-9]* *//' t
		strace -f -c -o t sh -c 'true | cat'; grep -q execve t && echo counted
		strace -qq --seccomp-bpf -f -e trace=getcwd -o t sh -c 'cd /usr; exec /bin/pwd'; sed 's/^[0-9]* *//' t`},
	{"gdb", "gdb", "sh", `
		printf 'int square(int n) {\n\treturn n * n;\n}\nint main(void) {\n\treturn square(7) + square(2);\n}\n' >p.c
		gcc -g -O0 -o p p.c
		gdb -q -nx -batch -ex 'break square' -ex run -ex bt -ex 'print n' -ex finish -ex 'print square(5)' -ex delete -ex continue ./p 2>&1 |
			grep -v 'thread_db\|debuginfod\|Breakpoint 1 at\|inferior\|^$' | sed 's/0x[0-9a-f]*/ADDRESS/g'`},
	{"namespaces", "bwrap", "sh", `
		unshare -Urmpf --mount-proc sh -c 'echo $$; id -u; mount -t tmpfs x /mnt && touch /mnt/f && ls /mnt; set -- /proc/[0-9]*; echo $#'
		unshare -u sh -c 'hostname inside; hostname'; test "$(hostname)" = inside; echo $?
		bwrap --ro-bind / / --dev /dev --proc /proc --tmpfs /tmp --unshare-all sh -c 'id -u; touch /f; echo $?; touch /tmp/f && echo written; ls /tmp' 2>&1
		unshare -m sh -c 'mkdir a b; mount --bind a b; touch a/f; ls b; umount b; ls b'; unshare -n sh -c 'ls /sys/class/net' >/dev/null && echo net`},
	{"loopback", "/usr/bin/python3", "/usr/bin/python3", `
import http.server, threading, urllib.request, urllib.error, socket, asyncio
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.path.encode() * 1000
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    class Server(http.server.ThreadingHTTPServer): address_family = family
    s = Server((host, 0), Hello); threading.Thread(target=s.serve_forever).start()
    url = "http://%s:%d/x" % ("[%s]" % host if ":" in host else host, s.server_port)
    print(sum(len(urllib.request.urlopen(url + str(i)).read()) for i in range(50)))
    s.shutdown(); s.server_close()
    try: urllib.request.urlopen(url)
    except urllib.error.URLError as e: print(e.reason)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 0)); v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); v.connect(u.getsockname())
v.send(b"datagram"); print(u.recvfrom(100)[0])
async def echo():
    async def serve(r, w): w.write((await r.read()).upper()); await w.drain(); w.close()
    s = await asyncio.start_server(serve, "127.0.0.1", 0)
    async def ask(n):
        r, w = await asyncio.open_connection(*s.sockets[0].getsockname()); w.write(b"n%d" % n); w.write_eof(); return await r.read()
    return await asyncio.gather(*[ask(n) for n in range(100)])
print(b"".join(asyncio.run(echo())))`},
	{"python_loop", "/usr/bin/python3", "/usr/bin/python3", `
x = 0
for i in range(10_000_000):
    x = (x + i * 3) & 0xffffff
print(x)`},
}

func TestPrograms(t *testing.T) {
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			rig.Need(t, row.need)
			args := append(strings.Fields(row.shell), file(t, row.script))
			run := func(dir string) rig.Command { return rig.Command{Args: args, Dir: dir} }
			want := run(t.TempDir()).Native(t)
			if want.Out == "" {
				t.Fatalf("natively it prints nothing: %s", want)
			}
			rig.EachPlatform(t, func(t *testing.T, platform string) {
				rig.Compare(t, want, run(t.TempDir()).In(t, platform))
			})
		})
	}
}

// file is one with a script, without its indent.
func file(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(script, "\n\t\t", "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
