# programs.sh PROGRAM DIRECTORY RUNS SOURCE: prints what PROGRAM takes, in nanoseconds, or what it
# does a second, RUNS times, working below DIRECTORY. In SOURCE is what gcc compiles.
set -e
program=$1 dir=$2 runs=$3 source=$4
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=$dir LC_ALL=C
rm -rf "$dir"; mkdir -p "$dir"; cd "$dir"
now() { date +%s%N; }
# each COUNT COMMAND...: one of COUNT, on the average.
each() {
	count=$1; shift
	for _ in $(seq "$runs"); do
		begin=$(now)
		for _ in $(seq "$count"); do "$@" >/dev/null; done
		echo $((($(now) - begin) / count))
	done
}
case $program in
git)
	export GIT_CONFIG_GLOBAL=/dev/null
	git init -q .
	for d in $(seq 50); do
		mkdir "d$d"
		for f in $(seq 100); do echo "$d $f" >"d$d/$f"; done
	done
	git add . && git -c user.name=T -c user.email=t@example.org commit -qm all
	git status >/dev/null
	each 5 git status
	;;
python3)
	python3 -c pass
	each 10 python3 -c pass
	;;
gcc)
	cp "$source"/*.[ch] .
	printf 'all: $(patsubst %%.c,%%.o,$(wildcard *.c))\n%%.o: %%.c\n\tgcc -O2 -c -o $@ $<\n' >Makefile
	runs=1
	each 1 make -s -j4
	;;
make)
	for i in $(seq 60); do
		printf '#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nint f%d(int n) { char b[64]; snprintf(b, 64, "%%d", n); return (int)strlen(b) + %d; }\n' "$i" "$i" >"f$i.c"
	done
	printf 'all: $(patsubst %%.c,%%.o,$(wildcard *.c))\n%%.o: %%.c\n\tgcc -O2 -c -o $@ $<\n' >Makefile
	build() { rm -f ./*.o && make -s -j4; }
	build
	each 1 build
	;;
redis-server)
	redis-server --port 0 --unixsocket "$dir/s" --save '' --daemonize yes >/dev/null
	until redis-cli -s "$dir/s" ping >/dev/null 2>&1; do :; done
	for _ in $(seq "$runs"); do
		redis-benchmark -s "$dir/s" -t get -n 40000 -q | tr '\r' '\n' | sed -n 's/^GET: \([0-9.]*\) requests.*/\1/p' | tail -1
	done
	redis-cli -s "$dir/s" shutdown nosave 2>/dev/null || :
	;;
initdb)
	chmod 777 "$dir"
	cat >"$dir/pg.sh" <<-'END'
		set -e
		PATH=$PATH:/usr/lib/postgresql/15/bin
		initdb -D "$1/data" -A trust >/dev/null
		pg_ctl -w -s -D "$1/data" -o "-c listen_addresses= -c unix_socket_directories=$1 -c fsync=off" -l "$1/log" start
		createdb -h "$1" t
		pgbench -q -i -s 2 -h "$1" t 2>/dev/null
		for _ in $(seq "$2"); do pgbench -S -T 3 -c 2 -h "$1" t 2>/dev/null | sed -n 's/^tps = \([0-9.]*\).*/\1/p'; done
		pg_ctl -s -D "$1/data" -m immediate stop
	END
	setpriv --reuid=postgres --regid=postgres --clear-groups sh "$dir/pg.sh" "$dir" "$runs"
	;;
esac
