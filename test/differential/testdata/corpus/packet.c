// AF_PACKET on the loopback device: names, errors, frames, filters and a ring.
#include "corpus.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>

static struct sockaddr_ll ll(int protocol, int index)
{
	return (struct sockaddr_ll){.sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = index};
}

// only lets datagrams of UDP to one port pass.
static void only(int fd, int port)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 0, 6),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 23), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 4),
		BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 14), BPF_STMT(BPF_LD | BPF_H | BPF_IND, 16),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, port, 0, 1), BPF_STMT(BPF_RET | BPF_K, 60), BPF_STMT(BPF_RET | BPF_K, 0)};
	struct sock_fprog f = {sizeof code / sizeof *code, code};
	E(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &f, sizeof f));
}

static int udp(int port)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in a = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}};
	E(bind(fd, (void *)&a, sizeof a));
	E(connect(fd, (void *)&a, sizeof a));
	return fd;
}

CASE(packet_errors)
{
	E(socket(AF_PACKET, SOCK_STREAM, 0));
	E(socket(AF_PACKET, SOCK_SEQPACKET, 0));
	int fd = socket(AF_PACKET, SOCK_RAW, 0), v;
	struct sockaddr_ll a = ll(ETH_P_ALL, 999);
	E(bind(fd, (void *)&a, sizeof a));
	E(bind(fd, (void *)&a, 12));
	a = ll(0, 1), a.sll_family = AF_INET;
	E(bind(fd, (void *)&a, sizeof a));
	E(listen(fd, 1));
	E(accept(fd, NULL, NULL));
	E(connect(fd, (void *)&a, sizeof a));
	E(shutdown(fd, SHUT_RD));
	socklen_t size = sizeof a;
	E(getpeername(fd, (void *)&a, &size));
	E(send(fd, "abc", 3, 0));
	E(recv(fd, &v, 4, MSG_DONTWAIT));
	E(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &v, 4));
	struct sock_filter bad = BPF_STMT(BPF_LD | BPF_IMM, 0);
	struct sock_fprog f = {1, &bad};
	E(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &f, sizeof f));
	for (int version = -1; version < 5; version++)
		if (version != 2) { // TPACKET_V3, which libpcap falls back from
			v = version, size = sizeof v;
			ROW(getsockopt(fd, SOL_PACKET, PACKET_HDRLEN, &v, &size), "version %d", version);
			say("%d", v);
		}
	struct tpacket_req r[] = {{0}, {4096, 0, 0, 1}, {100, 1, 100, 1}, {4096, 1, 16, 256}, {4096, 1, 2048, 3}, {4096, 1, 8192, 1}, {4096, 1, 2047, 2}};
	v = TPACKET_V2;
	E(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &v, sizeof v));
	for (int i = 0; i < 7; i++)
		ROW(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &r[i], sizeof r[i]), "ring %d", i);
	ROW(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0, "no ring");
	close(fd);
	if (fork() == 0) {
		E(setuid(65534));
		E(socket(AF_PACKET, SOCK_RAW, 0));
		E(socket(AF_PACKET, SOCK_STREAM, 0));
		fflush(stdout);
		_exit(0);
	}
	wait(NULL);
}

CASE(packet_frames)
{
	for (int typ = SOCK_DGRAM; typ <= SOCK_RAW; typ++) {
		int fd = socket(AF_PACKET, typ, 0), u = udp(20000 + typ), one = 1;
		if (typ == SOCK_RAW)
			only(fd, 20000 + typ);
		E(setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &one, sizeof one));
		struct sockaddr_ll a = ll(typ == SOCK_RAW ? ETH_P_ALL : ETH_P_IP, 1);
		E(bind(fd, (void *)&a, sizeof a));
		socklen_t size = sizeof a;
		E(getsockname(fd, (void *)&a, &size));
		say("size %d protocol %x index %d hatype %d halen %d", size, ntohs(a.sll_protocol), a.sll_ifindex, a.sll_hatype, a.sll_halen);
		E(send(u, "one two three four five", 23, 0));
		for (int i = 0; i < (typ == SOCK_RAW ? 2 : 1); i++) {
			unsigned char b[200] = {0}, c[200];
			struct iovec v = {b, sizeof b};
			struct msghdr m = {&a, sizeof a, &v, 1, c, sizeof c};
			struct pollfd p = {fd, POLLIN};
			E(poll(&p, 1, 5000));
			E(recvmsg(fd, &m, 0));
			struct cmsghdr *h = CMSG_FIRSTHDR(&m);
			struct tpacket_auxdata *x = h ? (void *)CMSG_DATA(h) : NULL;
			if (x)
				say("%d %d len %u snaplen %u mac %d net %d", h->cmsg_level, h->cmsg_type, x->tp_len, x->tp_snaplen, x->tp_mac, x->tp_net);
			int net = typ == SOCK_RAW ? 14 : 0;
			say("from %d protocol %x kind %d halen %d flags %x: %02x%02x %02x %d \"%.5s\"", m.msg_namelen, ntohs(a.sll_protocol), a.sll_pkttype,
			    a.sll_halen, m.msg_flags, b[12], b[13], b[net], b[net + 9], b + net + 28);
		}
		struct tpacket_stats st;
		size = sizeof st;
		E(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &st, &size));
		say("%d packets, %d drops", st.tp_packets, st.tp_drops);
		close(fd), close(u);
	}
}

CASE(packet_send)
{
	int fd = socket(AF_PACKET, SOCK_RAW, 0), u = udp(20010);
	unsigned char f[14 + 28 + 4] = {[12] = 8, 0, 0x45, [14 + 3] = 32, [14 + 8] = 64, IPPROTO_UDP, [14 + 12] = 127, 0, 0, 1, 127, 0, 0, 1,
		20010 >> 8, 20010 & 255, 20010 >> 8, 20010 & 255, 0, 12, 0, 0, 'p', 'a', 'c', 'k'};
	unsigned sum = 0;
	for (int i = 14; i < 34; i += 2)
		sum += f[i] << 8 | f[i + 1];
	sum = ~((sum >> 16) + (sum & 0xffff));
	f[24] = sum >> 8, f[25] = sum;
	struct sockaddr_ll a = ll(ETH_P_IP, 1);
	E(sendto(fd, f, sizeof f, 0, (void *)&a, sizeof a)); // martian, which the one of IPv6 behind it is not
	E(sendto(fd, f, 10, 0, (void *)&a, sizeof a));
	a.sll_ifindex = 999;
	E(sendto(fd, f, sizeof f, 0, (void *)&a, sizeof a));
	E(sendto(fd, f, sizeof f, 0, (void *)&a, 8));

	int u6 = socket(AF_INET6, SOCK_DGRAM, 0);
	struct sockaddr_in6 to = {AF_INET6, htons(20010), 0, IN6ADDR_LOOPBACK_INIT, 0};
	E(bind(u6, (void *)&to, sizeof to));
	unsigned char g[14 + 40 + 12] = {[12] = 0x86, 0xdd, 0x60, [14 + 5] = 12, IPPROTO_UDP, 64, [14 + 23] = 1, [14 + 39] = 1,
		20010 >> 8, 20010 & 255, 20010 >> 8, 20010 & 255, 0, 12, 0, 0, 'p', 'a', 'c', 'k'};
	sum = IPPROTO_UDP + 12;
	for (int i = 14 + 8; i < (int)sizeof g; i += 2)
		sum += g[i] << 8 | g[i + 1];
	sum = ~((sum >> 16) + (sum & 0xffff));
	g[60] = sum >> 8, g[61] = sum;
	a = ll(ETH_P_IPV6, 1);
	E(sendto(fd, g, sizeof g, 0, (void *)&a, sizeof a));
	struct pollfd p = {u6, POLLIN};
	E(poll(&p, 1, 5000));
	char b[10] = "";
	E(recv(u6, b, sizeof b, MSG_DONTWAIT));
	say("%.4s", b);
	E(recv(u, b, sizeof b, MSG_DONTWAIT));
}

CASE(packet_ring)
{
	int fd = socket(AF_PACKET, SOCK_RAW, 0), u = udp(20020), v = TPACKET_V2;
	E(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &v, sizeof v));
	struct tpacket_req r = {4096, 2, 2048, 4};
	E(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &r, sizeof r));
	E(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &r, sizeof r));
	E(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &v, sizeof v));
	ROW(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0, "half");
	char *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	only(fd, 20020);
	struct sockaddr_ll a = ll(ETH_P_ALL, 1);
	E(bind(fd, (void *)&a, sizeof a));
	for (int i = 0; i < 3; i++) // six frames for four slots
		E(send(u, "ring of frames, one after another", 33, 0));
	struct pollfd p = {fd, POLLIN};
	E(poll(&p, 1, 5000));
	struct tpacket_stats st;
	for (int i = 0; i < 4; i++) {
		struct tpacket2_hdr *h = (void *)(m + 2048 * i);
		struct sockaddr_ll *l = (void *)(m + 2048 * i + TPACKET_ALIGN(sizeof *h));
		say("user %d len %d snaplen %d mac %d net %d kind %d \"%.4s\"", h->tp_status & TP_STATUS_USER, h->tp_len, h->tp_snaplen, h->tp_mac, h->tp_net,
		    l->sll_pkttype, m + 2048 * i + h->tp_net + 28);
	}
	socklen_t size = sizeof st;
	E(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &st, &size));
	say("%d packets, %d drops", st.tp_packets, st.tp_drops);
	for (int i = 0; i < 4; i++)
		((struct tpacket2_hdr *)(m + 2048 * i))->tp_status = TP_STATUS_KERNEL;
	E(poll(&p, 1, 0));
	E(send(u, "again", 5, 0));
	E(poll(&p, 1, 5000));
	say("%d", ((struct tpacket2_hdr *)m)->tp_status & TP_STATUS_USER);
	munmap(m, 8192);
}

CASE(packet_proc)
{
	E(unshare(CLONE_NEWNET));
	int one = socket(AF_PACKET, SOCK_RAW, 0), two = socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_ARP));
	struct sockaddr_ll a = ll(ETH_P_IP, 1);
	E(bind(one, (void *)&a, sizeof a)); // of a device that is down
	int e = -1;
	socklen_t size = sizeof e;
	E(getsockopt(one, SOL_SOCKET, SO_ERROR, &e, &size));
	say("%s", errname(e));
	E(seteuid(1000));
	E(socket(AF_PACKET, SOCK_RAW, 0));
	E(seteuid(0));
	for (int i = 0; i < 2; i++) {
		char row[200];
		FILE *f = fopen("/proc/self/net/packet", "r");
		while (fgets(row, sizeof row, f)) {
			unsigned long inode;
			struct stat st[2];
			fstat(one, &st[0]), fstat(two, &st[1]);
			if (row[0] == 's' || sscanf(row, "%*s %*s %*s %*s %*s %*s %*s %*s %lu", &inode) != 1)
				say("%s", row);
			else
				say("%.40s; of one %d, of two %d", row + 17, inode == st[0].st_ino, inode == st[1].st_ino);
		}
		fclose(f);
		close(one), one = -1;
	}
}
