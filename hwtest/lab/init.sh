#!/bin/busybox sh
# PID 1 of the lab: modules, file systems, the job, its exit code, power off.
# The lab (qemu.go, job.go) writes /lab/modules, /lab/mounts and /lab/job.
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /bin /sbin /usr/bin /usr/sbin /etc
/bin/busybox --install -s
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /run/lab
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
chmod 1777 /tmp /dev/shm
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
while read -r module; do insmod "/lab/$module"; done </lab/modules
# Before there is anything else to run (hold.go).
/lab/hold

fail() { echo "lab: $*" >&2; poweroff -f; }

for port in /sys/class/virtio-ports/*; do
	read -r name <"$port/name" && ln -sf "/dev/${port##*/}" "/run/lab/$name"
done

[ ! -e /run/lab/pulse ] || cat /run/lab/pulse >/dev/null & # pulse.go

# The other modules come from the host, and modprobe finds them.
p9=trans=virtio,version=9p2000.L,msize=512000
mkdir -p "/lib/modules/$(uname -r)"
mount -t 9p -o $p9,ro,cache=loose modules "/lib/modules/$(uname -r)" || fail "modules are not shared"
while read -r node major minor; do
	[ -e "/dev/$node" ] || { mkdir -p "$(dirname "/dev/$node")" && mknod -m 666 "/dev/$node" c "$major" "$minor"; }
done </lab/nodes

hostname lab
echo 127.0.0.1 localhost lab >/etc/hosts
ip link set lo up
if grep -q lab.network /proc/cmdline; then
	modprobe virtio_net
	ip link set eth0 up
	ip address add 10.0.2.15/24 dev eth0
	ip route add default via 10.0.2.2
	echo nameserver 10.0.2.3 >/etc/resolv.conf
fi

# The job's root: the host's, seen through a layer in memory, or this one.
root=
if grep -q '^root ' /lab/mounts; then
	mkdir -p /host /layer
	mount -t 9p -o $p9,ro,cache=loose root /host || fail "the host's root is not shared"
	mount -t tmpfs layer /layer
	mkdir -p /layer/upper /layer/work /layer/root
	mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /layer/root || fail "no overlay"
	root=/layer/root
	mkdir -p $root/proc $root/sys $root/dev $root/tmp $root/run "$root/lib/modules/$(uname -r)"
	for dir in /proc /sys /dev /tmp "/lib/modules/$(uname -r)"; do mount --rbind "$dir" "$root$dir"; done
	mount -t tmpfs run $root/run
	cp /etc/hosts /etc/resolv.conf $root/etc/ 2>/dev/null
	cp -r /lab/files/. $root/ 2>/dev/null
else
	cp -r /lab/files/. / 2>/dev/null
fi
mkdir -p /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
[ -z "$root" ] || mount --bind /sys/fs/cgroup $root/sys/fs/cgroup

while read -r tag mode where; do
	[ "$tag" != root ] || continue
	mkdir -p "$root$where"
	mount -t 9p -o $p9,$mode,cache=mmap,access=any "$tag" "$root$where" || fail "share $where"
done </lab/mounts

# job becomes the job, whose root is its mount namespace's as well: in a mere chroot no
# user namespace can be made (user_namespaces(7)). A root file system made of the
# initramfs cannot be exchanged by pivot_root(2), and is covered instead.
cat >/run/become <<'END'
[ -z "$1" ] || { cd "$1" && mount --move . / || exit 125; }
exec chroot . /bin/sh /run/job
END
cp /lab/job $root/run/job
cd /
job="unshare -m /bin/sh /run/become $root"

if grep -q terminal /proc/cmdline; then
	setsid cttyhack $job
	code=$?
else
	# A port can be opened once, and a program may open its /dev/stdout again,
	# so pipes stand between.
	mkfifo /run/lab/1 /run/lab/2
	cat /run/lab/1 >/run/lab/stdout & out=$!
	cat /run/lab/2 >/run/lab/stderr & err=$!
	$job </run/lab/stdin >/run/lab/1 2>/run/lab/2 &
	wait $!
	code=$?
	# What the job left behind would hold the pipes open.
	for task in /proc/[0-9]*; do
		pid=${task##*/}
		[ "$pid" -le 1 ] || [ "$pid" = $out ] || [ "$pid" = $err ] || [ ! -e $task/exe ] ||
			[ "$(cat $task/comm)" = hold ] || kill -9 "$pid" 2>/dev/null
	done
	wait $out $err
fi
sync
echo "exit $code" >/run/lab/control
poweroff -f
