package main

import "regexp"

// sources is where scripts/sources puts what Debian's packages are made of.
const sources = "/var/tmp/bulkhead-apps-src"

// bashSuite runs each of bash's tests as the one who is nobody: some of them fail as
// root. A test is a script whose output is known.
const bashSuite = `cp -r $s/bash/tests t; chmod 755 .; chown -R nobody t; mkdir -m 777 tmp; export TMPDIR=$PWD/tmp THIS_SH=/bin/bash BUILD_DIR=/nonexistent HOME=$PWD/tmp; cd t
for p in recho zecho xcase printenv; do gcc -w -DHAVE_STRING_H -DHAVE_STDLIB_H -DHAVE_UNISTD_H -I$s/bash -I$s/bash/include -o $p $s/bash/support/$p.c; done
rm -f run-all run-minimal run-gprof
for x in run-*; do
	export BASH_TSTOUT=$TMPDIR/out; PATH=.:$PATH timeout -k 1 120 setpriv --reuid=65534 --regid=65534 --clear-groups sh $x </dev/null >$TMPDIR/log 2>&1 && echo PASSED $x || { echo FAILED $x $?; head -25 $TMPDIR/log; }
	rm -f $BASH_TSTOUT
done`

// busyboxSuite leaves out mdev's tests as Debian does: they want to make devices.
const busyboxSuite = `mkdir -p b/scripts; cp -r $s/busybox/testsuite b; cp $s/busybox/scripts/echo.c b/scripts; cp $s/busybox/debian/config/pkg/static b/.config
cp "$(command -v busybox)" b; cd b/testsuite; rm mdev.tests; ./runtest </dev/null 2>&1`

var busyboxTest = regexp.MustCompile(`(?m)^PASS: (.*)$`)

// perlSuite runs those of perl's tests that touch the system, with the modules as they
// are installed. A test's name is its file's and its number in it. Left out is what
// wants the internet, and the tests of documentation.
const perlSuite = `s=$s/perl; mkdir lib; cp -r $s/t t; mkdir -p cpan dist ext; cp -r $s/cpan/Socket $s/cpan/IO-Socket-IP cpan; cp -r $s/dist/IO dist; cp -r $s/ext/POSIX ext; rm -rf */*/lib
for d in /usr/lib/x86_64-linux-gnu/perl-base /usr/lib/x86_64-linux-gnu/perl/5.36 /usr/share/perl/5.36; do cp -rL $d/. lib/; done
ln -s /usr/bin/perl perl; ln -s /usr/bin/perl t/perl; export PERL_CORE=1 PERL5LIB=$PWD/lib PERL_UNICODE= LC_ALL=C
cat >tap.pl <<'END'
my $f = shift; while (<STDIN>) { print; if (/^ok (\d+)(?!.*# (skip|todo))/i) { $ok{$1}++ } }
print "PASSED $f:$_\n" for sort { $a <=> $b } keys %ok;
END
for f in op/fork.t op/exec.t op/alarm.t op/kill0.t op/getpid.t op/getppid.t op/sigdispatch.t op/sigsystem.t op/sselect.t op/select.t op/sleep.t op/time.t op/chdir.t op/mkdir.t op/readdir.t op/stat.t op/filetest.t op/glob.t op/groups.t op/lfs.t op/magic.t op/sysio.t op/die_exit.t op/threads.t op/threads-dirh.t op/unlink.t op/lock.t op/setpgrpstack.t op/waitpid.t op/pwent.t op/grent.t op/write.t op/print.t op/readline.t $(cd t; echo io/*.t); do ( cd t; timeout -k 1 120 ./perl $f 2>&1 </dev/null | perl ../tap.pl $f ); done
for f in cpan/*/t/*.t dist/*/t/*.t ext/*/t/*.t; do d=${f%/t/*}; case $f in *internet*|*pod.t) continue;; esac; ( cd $d; timeout -k 1 120 ../../perl -I../../lib t/${f##*/} 2>&1 </dev/null | perl ../../tap.pl $f ); done`

// entryScript is what the entry scripts of images do: give the data to the user, and
// become that user for good.
const entryScript = `set -e
cat >entry <<'END'
#!/bin/bash
set -Eeo pipefail
shopt -s nullglob
if [ "$(id -u)" = 0 ]; then
	mkdir -p data; find data \! -user nobody -exec chown nobody '{}' +; chmod 700 data
	exec gosu nobody "$BASH_SOURCE" "$@"
fi
for f in init.d/*; do . "$f"; done
exec "$@"
END
chmod +x entry; chmod 755 .; mkdir init.d data; echo 'export FROM_INIT=yes' >init.d/1.sh; echo x >data/f
test "$(./entry sh -c 'echo $(id -un) $FROM_INIT $$ $(stat -c %U data/f); grep -E "^(CapEff|Groups)" /proc/self/status' 2>&1 | sed "s/ [0-9]* / PID /" | tr -s ' \t\n' ' ')" = "nobody yes PID nobody Groups: CapEff: 0000000000000000 "
test "$(gosu nobody:daemon id -un)$(gosu nobody:daemon id -gn)" = nobodydaemon; r=0; gosu nobody sh -c 'kill -TERM $$' || r=$?; test $r = 143
test "$(setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs id -u)" = 65534
test "$(setpriv --reuid=1000 --regid=1000 --clear-groups --inh-caps=+net_bind_service --ambient-caps=+net_bind_service grep CapEff /proc/self/status)" = "$(printf 'CapEff:\t0000000000000400')"
setpriv --bounding-set=-all,+chown --no-new-privs grep -E 'CapBnd|NoNewPrivs' /proc/self/status | tr -s '\t\n' '  ' | grep -qx 'CapBnd: 0000000000000001 NoNewPrivs: 1 '`
