package main

import (
	"regexp"
	"strings"
)

var (
	suite  = regexp.MustCompile(`(?m)^PASSED (\S+)$`)
	gotest = regexp.MustCompile(`(?m)^\s*--- PASS: (\S+)`)
)

// What of CPython's own tests is run: all that touches the system.
const pythonModules = `os posix subprocess threading signal socket ssl select selectors mmap tempfile shutil
	pathlib pty tty multiprocessing_fork multiprocessing_spawn asyncio concurrent_futures fcntl resource time
	sqlite3 zipfile tarfile mailbox io epoll eintr poll fork1 wait3 wait4 pipes ioctl thread threadsignals
	httpservers urllib2_localnet socketserver ftplib poplib smtplib openpty popen posixpath glob fileio largefile`

// python runs a module's tests and prints which of them passed. It reads that from
// the report, for what -v prints of a test can stand among what the test prints.
const python = `/usr/bin/python3 -m test -v --timeout 1200 --junit-xml report.xml $u test_$m
/usr/bin/python3 -c '
import xml.etree.ElementTree as e
for c in e.parse("report.xml").iter("testcase"):
    if all(c.find(x) is None for x in ("failure", "error", "skipped")):
        print("PASSED", c.get("name"))'`

// pythonFlags are a module's own.
var pythonFlags = map[string]string{
	"socketserver": "'-u network'", // which to it is the loopback device
	"socket":       "'-i *VSOCK*'", // a virtual machine's host may never answer: natively these hang
}

// And of Go's.
const goPackages = `os os/exec os/signal os/user io net net/http syscall runtime sync time path/filepath`

// stressors are classes of stress-ng's.
const stressors = `cpu memory vm filesystem io interrupt os pipe scheduler`

// stress runs each stressor of a class by itself, so that one that hangs or is killed
// costs no other its turn. Left out are reboot, for natively it may be believed, and swap:
// the sandbox's root is an overlay, on which Linux too takes no file for swap. A stressor
// whose parent has gone signals its new one, which is this script where that is process 1.
const stress = `trap : ALRM
for n in $(stress-ng --class $c? 2>/dev/null | sed 's/.*: //'); do
	case $n in reboot|swap) continue;; esac
	timeout -k 5 60 stress-ng --$n 1 -t 2 --verify >log 2>&1 && echo PASSED $n || { echo FAILED $n $?; tail -20 log; }
done`

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
		{name: "mariadb", need: "mariadbd", script: `set -e; trap "test -z \"\$m\" || kill -9 \$m" EXIT
			chmod 777 .; mkdir data; chown mysql data; D=$PWD
			mariadb-install-db --no-defaults --user=mysql --datadir=$D/data --auth-root-authentication-method=normal --skip-test-db >/dev/null 2>install.log
			start() { mariadbd --no-defaults --user=mysql --datadir=$D/data --socket=$D/s --port=7414 --bind-address=127.0.0.1 --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=1 >>$D/log 2>&1 & m=$!
				until mariadb --no-defaults -u root -S $D/s -e 'select 1' >/dev/null 2>&1; do kill -0 $m; sleep .1; done; }
			q() { mariadb --no-defaults -u root -S $D/s -BN "$@"; }
			start
			q -e "create database t; use t; create table a(i int auto_increment primary key, k int, s varchar(100), key(k)) engine=innodb;
				create table b(i int primary key, t text, fulltext(t)) engine=innodb; create table c(i int) engine=aria; insert into c values(1),(2);
				insert into a(k,s) select seq % 97, repeat(char(65 + seq % 26), 50) from seq_1_to_20000; insert into b select seq, concat('word', seq % 10, ' text') from seq_1_to_500"
			mariadb-slap --no-defaults -u root -S $D/s --concurrency=4 --number-of-queries=400 --auto-generate-sql --auto-generate-sql-load-type=mixed --engine=innodb --silent
			for c in 1 2 3; do q t -e "$(for i in $(seq 150); do echo "begin; update a set k = k + 1 where i = $((i * c)); insert into a(k, s) values($i, 'w'); commit;"; done)" & p="$p $!"; done; wait $p
			test "$(q t -e 'select count(*), count(distinct i) from a')" = "$(printf '20450\t20450')"
			test "$(q t -e "select count(*) from b where match(t) against('word3')")" = 50
			test "$(mariadb --no-defaults -u root -h 127.0.0.1 -P 7414 -BN t -e 'select sum(i) from c')" = 3
			: >last; ( while q t -e "insert into a(k, s) values(1, 'x'); select last_insert_id()"; do :; done >last 2>/dev/null ) & l=$!
			until test $(wc -l <last) -ge 50; do sleep .05; done; kill -9 $m; wait $m || :; wait $l || :
			start; n=$(tail -1 last); test "$(q t -e "select count(*) from a where i = $n")" = 1
			q t -e 'check table a, b, c' | grep -c 'status	OK' | grep -qx 3; grep -q 'crash recovery' log; mariadb-admin --no-defaults -u root -S $D/s shutdown; wait $m; m=`},
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
		{name: "tini", need: "tini", script: `set -e
			test "$(tini -s -- sh -c 'echo inside; exit 0')" = inside; r=0; tini -s -- sh -c 'exit 5' || r=$?; test $r = 5
			# PID 1 of a namespace of its own: orphans come to it and are reaped, signals go to its child
			unshare -pf --mount-proc tini -- sh -c 'test $PPID = 1; (sh -c "sleep .2 & echo \$! >o"; :); p=$(cat o)
				test $(awk "/^PPid/{print \$2}" /proc/$p/status) = 1; while kill -0 $p 2>/dev/null; do sleep .05; done; ! test -e /proc/$p'
			unshare -pf --kill-child tini -g -- sh -c 'trap "echo got >t; exit 9" TERM; echo >ready; while :; do sleep .05; done' & u=$!
			until test -e ready; do sleep .05; done; c=$(cat /proc/$u/task/$u/children); kill -TERM ${c% }; r=0; wait $u || r=$?; test $r = 9; test "$(cat t)" = got`},
		{name: "s6", need: "s6-svscan", script: `set -e
			# A tree of services: one tells that it is ready, and is started again when it dies; one writes to a logger
			mkdir -p scan/a scan/b/log scan/.s6-svscan
			printf '#!/bin/sh\necho $$ >>%s/a.pids\nexec 3>&1; echo >&4; exec sleep 1000\n' $PWD >scan/a/run; echo 4 >scan/a/notification-fd
			printf '#!/bin/sh\nexec 2>&1; i=0; while test $i -lt 300; do echo line $i; i=$((i+1)); done; exec sleep 1000\n' >scan/b/run
			printf '#!/bin/sh\nexec s6-log n3 s5000 %s/logs\n' $PWD >scan/b/log/run; mkdir logs
			printf '#!/bin/sh\nexit 0\n' >scan/.s6-svscan/finish
			chmod +x scan/a/run scan/b/run scan/b/log/run scan/.s6-svscan/finish
			s6-svscan $PWD/scan & s=$!
			until s6-svok scan/a 2>/dev/null; do sleep .05; done
			s6-svwait -U -t 20000 scan/a
			p=$(tail -1 a.pids); s6-svstat -o up,ready scan/a | grep -qx 'true true'
			kill -9 $p; until test $(wc -l <a.pids) = 2; do sleep .05; done
			s6-svwait -U -t 20000 scan/a; s6-svc -wd -T 20000 -d scan/a; s6-svstat -o up scan/a | grep -qx false; s6-svc -wU -T 20000 -u scan/a; test $(wc -l <a.pids) = 3
			until cat logs/* | grep -q 'line 299'; do sleep .05; done
			s6-svscanctl -t scan; wait $s`},
		{name: "cron", need: "/usr/sbin/cron", script: `set -e
			# cron's table is the system's: in a mount namespace of its own
			unshare -m sh -ec '
				mount -t tmpfs none /var/spool/cron; mkdir -m 1730 /var/spool/cron/crontabs; mount -t tmpfs none /etc/cron.d; mount -t tmpfs none /run; : >crontab; mount --bind crontab /etc/crontab
				printf "PATH=/usr/bin:/bin\n@reboot echo \$(id -un) >>%s/boot\n* * * * * date +\\%%s >>%s/minute; kill \$(cat %s/pid)\n" $PWD $PWD $PWD | crontab -
				crontab -l | grep -q minute; cron -f & echo $! >pid; wait $! || :
				test "$(cat boot)" = root; test $(( $(cat minute) % 60 )) -lt 20'`},
		{name: "entry scripts: gosu, setpriv", need: "gosu", script: entryScript},
		{name: "apt-get install", need: "/var/lib/dpkg/status", script: `set -e
			mkdir -p d/DEBIAN d/usr/share/bulkhead-apps; echo here >d/usr/share/bulkhead-apps/f
			printf 'Package: bulkhead-apps\nVersion: 1\nArchitecture: all\nMaintainer: T <t@example.org>\nDescription: test\n' >d/DEBIAN/control
			dpkg-deb -b d p.deb >/dev/null; apt-get install -qq -y $PWD/p.deb >/dev/null 2>&1; test "$(cat /usr/share/bulkhead-apps/f)" = here; dpkg -P bulkhead-apps >/dev/null`},
	}
	list = append(list,
		app{name: "bash's own tests", need: sources + "/bash", passed: suite, script: "s=" + sources + "\n" + bashSuite},
		app{name: "busybox's own tests", need: sources + "/busybox", passed: busyboxTest, script: "s=" + sources + "\n" + busyboxSuite},
		app{name: "perl's own tests", need: sources + "/perl", passed: suite, script: "s=" + sources + "\n" + perlSuite})
	for _, m := range strings.Fields(pythonModules) {
		list = append(list, app{name: "CPython test_" + m, need: "/usr/lib/python3.11/test/test_os.py", passed: suite,
			script: "m=" + m + "; u=" + pythonFlags[m] + "\n" + python})
	}
	for _, p := range strings.Fields(goPackages) {
		binary := "/var/tmp/bulkhead-apps-" + strings.ReplaceAll(p, "/", "-") + ".test"
		list = append(list, app{name: "Go " + p, need: "go", passed: gotest,
			script: "cd $(go env GOROOT)/src/" + p + " && { [ -x " + binary + " ] || go test -c -o " + binary + " " + p + "; } && " + binary + " -test.v -test.short"})
	}
	for _, c := range strings.Fields(stressors) {
		list = append(list, app{name: "stress-ng " + c, need: "stress-ng", passed: suite, script: "c=" + c + "\n" + stress})
	}
	return list
}
