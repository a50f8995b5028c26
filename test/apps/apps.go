package main

import (
	"regexp"
	"strings"
)

var (
	unittest = regexp.MustCompile(`(?m)^PASSED (\S+)$`)
	gotest   = regexp.MustCompile(`(?m)^\s*--- PASS: (\S+)`)
)

// What of CPython's own tests is run: all that touches the system.
const pythonModules = `os posix subprocess threading signal socket ssl select selectors mmap tempfile shutil
	pathlib pty tty multiprocessing_fork multiprocessing_spawn asyncio concurrent_futures fcntl resource time
	sqlite3 zipfile tarfile mailbox io epoll eintr poll fork1 wait3 wait4 pipes ioctl thread threadsignals
	httpservers urllib2_localnet socketserver ftplib poplib smtplib openpty popen posixpath glob fileio largefile`

// python runs a module's tests and prints which of them passed. It reads that from
// the report, for what -v prints of a test can stand among what the test prints. test_socketserver
// wants leave for a network, which to it is the loopback device.
const python = `/usr/bin/python3 -m test -v --timeout 1200 --junit-xml report.xml $u test_$m
/usr/bin/python3 -c '
import xml.etree.ElementTree as e
for c in e.parse("report.xml").iter("testcase"):
    if all(c.find(x) is None for x in ("failure", "error", "skipped")):
        print("PASSED", c.get("name"))'`

// And of Go's.
const goPackages = `os os/exec os/signal os/user io net net/http syscall runtime sync time path/filepath`

// stressors are classes of stress-ng's.
const stressors = `cpu memory vm filesystem io interrupt os pipe scheduler`

// apps is the table of programs.
func apps() []app {
	list := []app{
		{name: "sqlite3", need: "sqlite3", script: `set -e
			sqlite3 db 'create table t(a integer primary key, b text);
				with recursive n(i) as (select 1 union all select i+1 from n where i < 100000) insert into t select i, hex(randomblob(20)) from n;
				create index i on t(b); update t set b = lower(b) where a % 3 = 0; delete from t where a % 7 = 0;'
			test "$(sqlite3 db 'pragma integrity_check; select count(*) from t')" = "$(printf 'ok\n85715')"`},
		{name: "redis", need: "redis-server", script: `set -e
			redis-server --port 7411 --unixsocket $PWD/s --save '' --daemonize yes --dir $PWD >/dev/null
			until redis-cli -s $PWD/s ping 2>/dev/null; do :; done
			redis-benchmark -s $PWD/s -q -n 20000 -t set,get,lpush,lrange_100
			redis-benchmark -p 7411 -q -n 5000 -c 20 -t set,get
			redis-cli -s $PWD/s set a b; redis-cli -s $PWD/s save; test -s dump.rdb; redis-cli -s $PWD/s shutdown nosave`},
		{name: "nginx", need: "nginx", script: `set -e
			mkdir -p www logs; echo hello >www/index.html
			printf 'worker_processes 2; pid %s/pid; error_log %s/logs/e; events {} http { access_log off; client_body_temp_path %s/b; proxy_temp_path %s/p; fastcgi_temp_path %s/f; uwsgi_temp_path %s/u; scgi_temp_path %s/c; server { listen 127.0.0.1:7412; root %s/www; } }' $PWD $PWD $PWD $PWD $PWD $PWD $PWD $PWD >conf
			chmod -R a+rX . ; nginx -c $PWD/conf
			ab -q -n 2000 -c 16 http://127.0.0.1:7412/ | grep -q 'Failed requests: *0$'
			ab -q -k -n 5000 -c 16 http://127.0.0.1:7412/ | grep 'Requests per second'
			nginx -c $PWD/conf -s quit`},
		{name: "memcached", need: "memcached", script: `set -e
			chmod 777 .; memcached -u nobody -s $PWD/s -a 777 & m=$!
			python3 - "$PWD/s" <<-'END'
				import socket, sys, time
				for _ in range(200):
				    try: s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); break
				    except OSError: time.sleep(.02)
				for i in range(2000):
				    s.sendall(b"set k%d 0 0 5\r\nhello\r\n" % i); assert s.recv(100) == b"STORED\r\n"
				s.sendall(b"get k7\r\n"); assert b"hello" in s.recv(100)
			END
			kill $m`},
		{name: "postgresql", need: "/usr/lib/postgresql/15/bin/initdb", script: `set -e
			chmod 777 .; export PATH=$PATH:/usr/lib/postgresql/15/bin D=$PWD
			setpriv --reuid=postgres --regid=postgres --clear-groups sh -ec '
				initdb -D $D/data -A trust >/dev/null; o="-c listen_addresses= -c unix_socket_directories=$D"
				pg_ctl -w -s -D $D/data -o "$o" -l $D/log start; createdb -h $D t; pgbench -q -i -s 2 -h $D t 2>/dev/null
				pgbench -S -T 5 -c 2 -h $D t | grep tps; pgbench -T 5 -c 2 -h $D t | grep tps
				pg_ctl -s -D $D/data -m immediate stop; pg_ctl -w -s -D $D/data -o "$o" -l $D/log start
				test "$(psql -h $D -Atc "select count(*) from pgbench_accounts" t)" = 200000; pg_ctl -s -D $D/data stop'`},
		{name: "node", need: "node", script: `node -e '
			const { Worker, isMainThread } = require("worker_threads"), { execFile } = require("child_process"), net = require("net"), fs = require("fs");
			let left = 4 + 5 + 1; const done = () => { if (--left === 0) { console.log("all"); process.exit(0); } };
			for (let i = 0; i < 4; i++) new Worker("require(\"worker_threads\").parentPort.postMessage(Array.from({length: 1e6}, (_, i) => i).reduce((a, b) => a + b))", { eval: true }).on("message", m => { if (m === 499999500000) done(); });
			for (let i = 0; i < 5; i++) execFile("echo", [String(i)], (e, out) => { if (!e && out.trim() === String(i)) done(); });
			const s = net.createServer(c => c.pipe(c)).listen(0, "127.0.0.1", () => { const c = net.connect(s.address().port, "127.0.0.1"); c.end("x".repeat(1e6)); let n = 0; c.on("data", d => n += d.length); c.on("end", () => { if (n === 1e6) done(); }); });'`},
		{name: "openjdk", need: "javac", script: `set -e
			cat >T.java <<-'END'
				import java.util.concurrent.*; import java.util.stream.*;
				class T { public static void main(String[] a) throws Exception {
					ExecutorService e = Executors.newFixedThreadPool(8); long s = 0;
					for (Future<Long> f : e.invokeAll(IntStream.range(0, 100).mapToObj(i -> (Callable<Long>) () -> LongStream.range(0, 100000).sum()).collect(Collectors.toList()))) s += f.get();
					e.shutdown(); System.gc(); System.out.println(s); } }
			END
			javac T.java; test "$(java T)" = 499995000000`},
		{name: "make -j4 with gcc", need: "gcc", script: `set -e
			for i in $(seq 60); do printf '#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nint f%d(int n) { char b[64]; snprintf(b, 64, "%%d", n); return (int)strlen(b) + %d; }\n' $i $i >f$i.c; done
			(echo '#include <stdio.h>'; for i in $(seq 60); do echo "int f$i(int);"; done; echo 'int main(void) { int s = 0;'; for i in $(seq 60); do echo "s += f$i($i);"; done; printf '%s\n' 'printf("%d", s); return 0; }') >main.c
			printf 'p: $(patsubst %%.c,%%.o,$(wildcard *.c))\n\tgcc -o $@ $^\n%%.o: %%.c\n\tgcc -O2 -c -o $@ $<\n' >Makefile
			make -s -j4; test "$(./p)" = 1941`},
		{name: "go build", need: "go", script: `set -e
			mkdir m; cd m; export GOFLAGS=-mod=mod GOCACHE=$PWD/cache HOME=$PWD
			printf 'module m\ngo 1.21\n' >go.mod; printf 'package main\nimport "fmt"\nfunc main() { fmt.Println("built") }\n' >main.go
			go build -o p . && test "$(./p)" = built`},
		{name: "git, 5000 files", need: "git", script: `set -e
			export GIT_CONFIG_GLOBAL=/dev/null; git init -q r; cd r; git config user.name T; git config user.email t@example.org
			for d in $(seq 50); do mkdir d$d; for f in $(seq 100); do echo "$d $f" >d$d/$f; done; done
			git add .; git commit -qm all; cd ..; git clone -q file://$PWD/r c; cd c; test $(git ls-files | wc -l) = 5000
			echo more >>d7/7; test "$(git status --short)" = ' M d7/7'; git fsck`},
		{name: "rsync", need: "rsync", script: `set -e
			mkdir -p a; for i in $(seq 500); do echo $i >a/$i; done; ln -s 1 a/s; ln a/2 a/h
			rsync -aH a/ b/; echo changed >a/9; rm a/10; rsync -aH --delete --stats a/ b/ >/dev/null; diff -r a b; test $(stat -c %h b/2) = 2`},
		{name: "openssh", need: "/usr/sbin/sshd", script: `set -e
			ssh-keygen -q -t ed25519 -N '' -f k; cp k.pub keys; chmod 600 keys; mkdir -p /run/sshd
			/usr/sbin/sshd -f /dev/null -o Port=7413 -o ListenAddress=127.0.0.1 -o HostKey=$PWD/k -o AuthorizedKeysFile=$PWD/keys -o StrictModes=no -o PidFile=$PWD/pid -o UsePAM=no
			s="ssh -q -p 7413 -i k -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@127.0.0.1"
			until test "$($s echo over)" = over; do :; done
			head -c 5000000 /dev/urandom >f; $s cat <f | cmp - f; $s -tt 'tty; exit 7' </dev/null || test $? = 7; kill $(cat pid)`},
		{name: "vim and tmux", need: "tmux", script: `set -e
			export TERM=xterm TMUX_TMPDIR=$PWD; tmux -f /dev/null new-session -d -x 80 -y 24 sh
			tmux send-keys 'echo $((6*7)) >answer' Enter; until test -s answer; do :; done; test "$(cat answer)" = 42
			tmux send-keys 'vi -u NONE file' Enter ihello Escape :wq Enter; until test -s file; do :; done; test "$(cat file)" = hello; tmux kill-server`},
		{name: "tini", need: "tini", script: `test "$(tini -s -- sh -c 'echo inside; exit 0')" = inside; tini -s -- sh -c 'exit 5'; test $? = 5`},
		{name: "setpriv", need: "setpriv", script: `test "$(setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs id -u)" = 65534`},
		{name: "apt-get install", need: "/var/lib/dpkg/status", script: `set -e
			mkdir -p d/DEBIAN d/usr/share/bulkhead-apps; echo here >d/usr/share/bulkhead-apps/f
			printf 'Package: bulkhead-apps\nVersion: 1\nArchitecture: all\nMaintainer: T <t@example.org>\nDescription: test\n' >d/DEBIAN/control
			dpkg-deb -b d p.deb >/dev/null; apt-get install -qq -y $PWD/p.deb >/dev/null 2>&1; test "$(cat /usr/share/bulkhead-apps/f)" = here; dpkg -P bulkhead-apps >/dev/null`},
	}
	for _, m := range strings.Fields(pythonModules) {
		list = append(list, app{name: "CPython test_" + m, need: "/usr/lib/python3.11/test/test_os.py", passed: unittest,
			script: "m=" + m + "; u=; [ $m != socketserver ] || u='-u network'\n" + python})
	}
	for _, p := range strings.Fields(goPackages) {
		binary := "/var/tmp/bulkhead-apps-" + strings.ReplaceAll(p, "/", "-") + ".test"
		list = append(list, app{name: "Go " + p, need: "go", passed: gotest,
			script: "cd $(go env GOROOT)/src/" + p + " && { [ -x " + binary + " ] || go test -c -o " + binary + " " + p + "; } && " + binary + " -test.v -test.short"})
	}
	for _, c := range strings.Fields(stressors) {
		list = append(list, app{name: "stress-ng " + c, need: "stress-ng",
			script: "stress-ng --class " + c + "? >/dev/null 2>&1; stress-ng --seq 1 --class " + c + " -t 1 --verify --skip-silent"})
	}
	return list
}
