// What rtnetlink(7) and the requests of netdevice(7) change: links, addresses and routes of
// a network namespace that has lo alone, who hears of it, and who may not.
#include "corpus.h"
#include <arpa/inet.h>
#include <linux/if_addr.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/neighbour.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>

static int s, listener, seq, tentative, quiet;

struct request {
	struct nlmsghdr h;
	union {
		struct ifinfomsg link;
		struct ifaddrmsg addr;
		struct rtmsg route;
		struct ndmsg near;
	};
	char more[400];
};

static void begin(struct request *r, int type, int flags, int fixed)
{
	memset(r, 0, sizeof *r);
	r->h.nlmsg_type = type, r->h.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	r->h.nlmsg_len = NLMSG_LENGTH(fixed), r->h.nlmsg_seq = ++seq;
}

static void add(struct request *r, int type, const void *data, int size)
{
	struct rtattr *a = (void *)((char *)r + NLMSG_ALIGN(r->h.nlmsg_len));
	a->rta_type = type, a->rta_len = RTA_LENGTH(size);
	memcpy(RTA_DATA(a), data, size);
	r->h.nlmsg_len = NLMSG_ALIGN(r->h.nlmsg_len) + RTA_ALIGN(a->rta_len);
}

// ip adds an address in words.
static int ip(struct request *r, int type, const char *words)
{
	unsigned char b[16];
	int six = strchr(words, ':') != NULL;
	inet_pton(six ? AF_INET6 : AF_INET, words, b);
	add(r, type, b, six ? 16 : 4);
	return six ? AF_INET6 : AF_INET;
}

static const char *named(int e)
{
	return e ? errname(e) : "0";
}

static int ask(struct request *r)
{
	char b[8192];
	send(s, r, r->h.nlmsg_len, 0);
	int n = recv(s, b, sizeof b, 0);
	struct nlmsghdr *h = (void *)b;
	return n < 0 ? errno : h->nlmsg_type == NLMSG_ERROR ? -((struct nlmsgerr *)NLMSG_DATA(h))->error : 0;
}

static void shown(struct nlmsghdr *h)
{
	static char *kinds[] = {"NEWLINK", "DELLINK", "?", "SETLINK", "NEWADDR", "DELADDR", "?", "?", "NEWROUTE", "DELROUTE", "?", "?", "NEWNEIGH", "DELNEIGH"};
	char line[500], a[50];
	int kind = h->nlmsg_type - RTM_BASE, fixed = 0, n = sprintf(line, "%s", kinds[kind]);
	struct ifinfomsg *l = NLMSG_DATA(h);
	struct ifaddrmsg *d = NLMSG_DATA(h);
	struct rtmsg *r = NLMSG_DATA(h);
	switch (kind / 4) {
	case 0:
		fixed = sizeof *l;
		n += sprintf(line + n, " index %d type %d flags %x", l->ifi_index, l->ifi_type, l->ifi_flags);
		break;
	case 1:
		fixed = sizeof *d;
		n += sprintf(line + n, " family %d /%d flags %x scope %d index %d", d->ifa_family, d->ifa_prefixlen, d->ifa_flags & ~IFA_F_TENTATIVE, d->ifa_scope, d->ifa_index);
		break;
	case 2:
		fixed = sizeof *r;
		n += sprintf(line + n, " family %d /%d table %d protocol %d scope %d type %d flags %x", r->rtm_family, r->rtm_dst_len, r->rtm_table, r->rtm_protocol,
			     r->rtm_scope, r->rtm_type, r->rtm_flags);
	}
	int size = h->nlmsg_len - NLMSG_LENGTH(fixed), family = *(unsigned char *)NLMSG_DATA(h);
	for (struct rtattr *t = (void *)((char *)NLMSG_DATA(h) + NLMSG_ALIGN(fixed)); RTA_OK(t, size); t = RTA_NEXT(t, size)) {
		int number = *(int *)RTA_DATA(t);
		if (kind / 4 == 0) {
			if (t->rta_type == IFLA_IFNAME)
				n += sprintf(line + n, " name %s", (char *)RTA_DATA(t));
			if (t->rta_type == IFLA_MTU)
				n += sprintf(line + n, " mtu %d", number);
			if (t->rta_type == IFLA_TXQLEN)
				n += sprintf(line + n, " queue %d", number);
			if (t->rta_type == IFLA_OPERSTATE)
				n += sprintf(line + n, " state %d", *(char *)RTA_DATA(t));
			if (t->rta_type == IFLA_QDISC)
				n += sprintf(line + n, " %s", (char *)RTA_DATA(t));
		} else if (kind / 4 == 1) {
			if (t->rta_type == IFA_ADDRESS || t->rta_type == IFA_LOCAL || t->rta_type == IFA_BROADCAST)
				n += sprintf(line + n, " %d=%s", t->rta_type, inet_ntop(family, RTA_DATA(t), a, sizeof a));
			if (t->rta_type == IFA_LABEL)
				n += sprintf(line + n, " label %s", (char *)RTA_DATA(t));
			if (t->rta_type == IFA_FLAGS) {
				tentative += (number & IFA_F_TENTATIVE) != 0;
				n += sprintf(line + n, " %x", number & ~IFA_F_TENTATIVE);
			}
		} else if (kind / 4 == 2) {
			if (t->rta_type == RTA_DST || t->rta_type == RTA_GATEWAY || t->rta_type == RTA_PREFSRC)
				n += sprintf(line + n, " %d=%s", t->rta_type, inet_ntop(family, RTA_DATA(t), a, sizeof a));
			if (t->rta_type == RTA_OIF || t->rta_type == RTA_PRIORITY || t->rta_type == RTA_TABLE)
				n += sprintf(line + n, " %d=%d", t->rta_type, number);
		}
	}
	if (!quiet)
		say("  %s", line);
}

static void list(int type)
{
	struct request r;
	begin(&r, type, NLM_F_DUMP, 16);
	send(s, &r, r.h.nlmsg_len, 0);
	for (int done = 0; !done;) {
		char b[16384];
		int n = recv(s, b, sizeof b, 0);
		for (struct nlmsghdr *h = (void *)b; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n))
			if (h->nlmsg_type == NLMSG_DONE)
				done = 1;
			else
				shown(h);
	}
}

// settle waits until the kernel has no doubt of any address, of which lo's are never in use elsewhere.
static void settle(void)
{
	quiet = 1;
	do
		tentative = 0, list(RTM_GETADDR);
	while (tentative);
	quiet = 0;
}

static void heard(void)
{
	char b[8192];
	struct sockaddr_nl from;
	socklen_t size = sizeof from;
	for (int n; (n = recvfrom(listener, b, sizeof b, MSG_DONTWAIT, (void *)&from, &size)) > 0;)
		for (struct nlmsghdr *h = (void *)b; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
			say(" heard in %x, of the last request %d, by who asked %d", from.nl_groups, h->nlmsg_seq == seq, h->nlmsg_pid != 0);
			shown(h);
		}
}

static void state(void)
{
	say("links");
	list(RTM_GETLINK);
	say("addresses");
	list(RTM_GETADDR);
	say("routes");
	list(RTM_GETROUTE);
}

static void make(unsigned groups)
{
	E(unshare(CLONE_NEWNET));
	s = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	listener = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	struct sockaddr_nl a = {AF_NETLINK, 0, 0, groups};
	E(bind(listener, (void *)&a, sizeof a));
}

static int link_(int type, unsigned flags, unsigned mask)
{
	struct request r;
	begin(&r, type, 0, sizeof r.link);
	r.link.ifi_index = 1, r.link.ifi_flags = flags, r.link.ifi_change = mask;
	return ask(&r);
}

// words: "ADDRESS/PREFIX [brd BROADCAST] [scope N] [label L]"
static int address(int type, int flags, const char *net, int prefix, const char *broadcast, int scope, const char *label, int index)
{
	struct request r;
	begin(&r, type, flags, sizeof r.addr);
	r.addr.ifa_family = ip(&r, IFA_LOCAL, net);
	ip(&r, IFA_ADDRESS, net);
	r.addr.ifa_prefixlen = prefix, r.addr.ifa_scope = scope, r.addr.ifa_index = index;
	if (broadcast)
		ip(&r, IFA_BROADCAST, broadcast);
	if (label)
		add(&r, IFA_LABEL, label, strlen(label) + 1);
	return ask(&r);
}

static int route_(int type, int flags, const char *net, int prefix, const char *gateway, const char *source, int metric, int scope, int index)
{
	struct request r;
	begin(&r, type, flags, sizeof r.route);
	r.route.rtm_family = ip(&r, RTA_DST, net);
	r.route.rtm_dst_len = prefix, r.route.rtm_table = RT_TABLE_MAIN, r.route.rtm_scope = scope;
	if (type == RTM_NEWROUTE)
		r.route.rtm_type = RTN_UNICAST, r.route.rtm_protocol = RTPROT_STATIC;
	if (gateway)
		ip(&r, RTA_GATEWAY, gateway);
	if (source)
		ip(&r, RTA_PREFSRC, source);
	if (metric)
		add(&r, RTA_PRIORITY, &metric, 4);
	if (index)
		add(&r, RTA_OIF, &index, 4);
	return ask(&r);
}

#define A(...) (say("%s: %s", #__VA_ARGS__, named(address(__VA_ARGS__))), heard())
#define R(...) (say("%s: %s", #__VA_ARGS__, named(route_(__VA_ARGS__))), heard())
#define NEW NLM_F_CREATE | NLM_F_EXCL

CASE(netlink_change_links)
{
	make(RTMGRP_LINK);
	state();
	say("up: %s", named(link_(RTM_NEWLINK, IFF_UP, IFF_UP)));
	heard();
	say("again: %s", named(link_(RTM_NEWLINK, IFF_UP, IFF_UP)));
	heard();
	state();
	say("down: %s", named(link_(RTM_SETLINK, 0, IFF_UP)));
	heard();
	state();
	say("up: %s", named(link_(RTM_SETLINK, IFF_UP, IFF_UP)));
	heard();

	struct request r;
	int mtus[] = {1400, 0, 1, 65536, -1};
	for (int i = 0; i < 5; i++) {
		begin(&r, RTM_NEWLINK, 0, sizeof r.link);
		r.link.ifi_index = 1;
		add(&r, IFLA_MTU, &mtus[i], 4);
		say("mtu %d: %s", mtus[i], named(ask(&r)));
		heard();
	}
	char *names[] = {"", ".", "..", "a/b", "a b", "a:b", "lo", "quite-a-long-name-of-it", "inner", "lo"};
	for (int i = 0; i < 10; i++) {
		begin(&r, RTM_NEWLINK, 0, sizeof r.link);
		r.link.ifi_index = 1;
		add(&r, IFLA_IFNAME, names[i], strlen(names[i]) + 1);
		int e = ask(&r);
		say("name \"%s\": %s", names[i], strlen(names[i]) < 16 ? named(e) : e ? "no" : "yes");
		heard();
	}
	begin(&r, RTM_NEWLINK, 0, sizeof r.link);
	add(&r, IFLA_IFNAME, "eth7", 5);
	say("another: %s", named(ask(&r)));
	begin(&r, RTM_DELLINK, 0, sizeof r.link);
	r.link.ifi_index = 77;
	say("delete another: %s", named(ask(&r)));
	r.link.ifi_index = 1;
	say("delete lo: %s", named(ask(&r)));
	begin(&r, RTM_NEWLINK, NEW, sizeof r.link);
	add(&r, IFLA_IFNAME, "lo", 3);
	say("make lo: %s", named(ask(&r)));
	int queue = 500;
	begin(&r, RTM_NEWLINK, 0, sizeof r.link);
	r.link.ifi_index = 1;
	add(&r, IFLA_TXQLEN, &queue, 4);
	say("queue: %s", named(ask(&r)));
	begin(&r, RTM_NEWLINK, 0, 4);
	say("short: %s", named(ask(&r)));
	state();
}

CASE(netlink_change_addresses)
{
	make(RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE);
	A(RTM_NEWADDR, NEW, "10.1.1.1", 24, NULL, 0, NULL, 1); // of a device that is down
	state();
	link_(RTM_NEWLINK, IFF_UP, IFF_UP);
	heard();
	state();
	A(RTM_NEWADDR, NEW, "10.1.1.1", 24, NULL, 0, NULL, 1);
	A(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, "10.1.1.1", 24, NULL, 0, NULL, 1);
	A(RTM_NEWADDR, NEW, "10.1.1.2", 24, "10.1.1.255", 0, "lo:2", 1);
	A(RTM_NEWADDR, NEW, "10.1.1.3", 32, NULL, 0, NULL, 1);
	A(RTM_NEWADDR, NEW, "10.1.1.4", 25, NULL, 0, NULL, 1);
	A(RTM_NEWADDR, NEW, "10.1.1.5", 24, NULL, RT_SCOPE_HOST, NULL, 1);
	A(RTM_NEWADDR, NEW, "10.2.0.1", 31, NULL, RT_SCOPE_LINK, NULL, 1);
	A(RTM_NEWADDR, NEW, "10.3.0.1", 16, "10.3.77.77", 0, NULL, 1);
	A(RTM_NEWADDR, NEW, "10.4.0.1", 33, NULL, 0, NULL, 1);
	A(RTM_NEWADDR, NEW, "10.4.0.1", 16, NULL, 0, NULL, 9);
	A(RTM_NEWADDR, NEW, "127.0.0.9", 8, NULL, RT_SCOPE_HOST, NULL, 1);
	state();
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in to = {AF_INET, htons(9), {htonl(0x0a010103)}}, me = {AF_INET, 0, {htonl(0x0a010102)}};
	socklen_t size = sizeof me;
	E(bind(fd, (void *)&me, sizeof me));
	me.sin_addr.s_addr = htonl(0x0a010109);
	E(bind(socket(AF_INET, SOCK_DGRAM, 0), (void *)&me, sizeof me)); // of the net, which lo has all of
	E(connect(fd, (void *)&to, sizeof to));
	A(RTM_DELADDR, 0, "10.1.1.3", 31, NULL, 0, NULL, 1);
	A(RTM_DELADDR, 0, "10.1.1.3", 32, NULL, 0, NULL, 1);
	A(RTM_DELADDR, 0, "10.1.1.3", 32, NULL, 0, NULL, 1);
	A(RTM_DELADDR, 0, "10.1.1.2", 24, NULL, 0, "lo:3", 1);
	A(RTM_DELADDR, 0, "10.1.1.2", 24, NULL, 0, "lo:2", 1);
	A(RTM_NEWADDR, NEW, "10.1.1.6", 24, NULL, 0, NULL, 1);
	A(RTM_DELADDR, 0, "10.3.0.1", 16, NULL, 0, NULL, 9);
	A(RTM_DELADDR, 0, "10.3.0.1", 16, NULL, 0, NULL, 1);
	A(RTM_DELADDR, 0, "127.0.0.1", 8, NULL, 0, NULL, 1); // with the second of its net
	state();
	struct request r;
	begin(&r, RTM_NEWADDR, NEW, sizeof r.addr);
	r.addr.ifa_family = AF_INET, r.addr.ifa_index = 1;
	say("no address: %s", named(ask(&r)));
	begin(&r, RTM_NEWADDR, NEW, 4);
	r.addr.ifa_family = AF_INET;
	say("short: %s", named(ask(&r)));
}

CASE(netlink_change_addresses6)
{
	make(0);
	link_(RTM_NEWLINK, IFF_UP, IFF_UP);
	heard();
	A(RTM_NEWADDR, NEW, "fd01::1", 64, NULL, 0, NULL, 1);
	A(RTM_NEWADDR, NEW, "fd01::2", 64, NULL, 0, NULL, 1);
	A(RTM_NEWADDR, NEW, "fd02::1", 128, NULL, 0, NULL, 1);
	A(RTM_NEWADDR, NEW, "fd01::1", 64, NULL, 0, NULL, 1);
	A(RTM_NEWADDR, NEW, "fd01::1", 65, NULL, 0, NULL, 1);
	A(RTM_NEWADDR, NEW, "::", 65, NULL, 0, NULL, 1);
	A(RTM_NEWADDR, NEW, "ff02::1:2", 65, NULL, 0, NULL, 1);
	A(RTM_NEWADDR, NEW, "fd01::7", 129, NULL, 0, NULL, 1);
	A(RTM_NEWADDR, NEW, "fd01::7", 64, NULL, 0, NULL, 9);
	say("addresses");
	list(RTM_GETADDR);
	settle();
	int fd = socket(AF_INET6, SOCK_DGRAM, 0);
	struct sockaddr_in6 me = {AF_INET6};
	inet_pton(AF_INET6, "fd01::2", &me.sin6_addr);
	E(bind(fd, (void *)&me, sizeof me));
	inet_pton(AF_INET6, "fd01::3", &me.sin6_addr);
	E(bind(socket(AF_INET6, SOCK_DGRAM, 0), (void *)&me, sizeof me));
	A(RTM_DELADDR, 0, "fd01::1", 63, NULL, 0, NULL, 1);
	A(RTM_DELADDR, 0, "fd01::1", 64, NULL, 0, NULL, 1);
	A(RTM_DELADDR, 0, "fd01::1", 64, NULL, 0, NULL, 1);
	link_(RTM_NEWLINK, 0, IFF_UP);
	say("addresses of a device that is down");
	list(RTM_GETADDR);
}

CASE(netlink_change_routes)
{
	make(RTMGRP_IPV4_ROUTE);
	R(RTM_NEWROUTE, NEW, "192.0.2.0", 24, NULL, NULL, 0, RT_SCOPE_LINK, 1); // of a device that is down
	link_(RTM_NEWLINK, IFF_UP, IFF_UP);
	A(RTM_NEWADDR, NEW, "10.1.1.1", 24, NULL, 0, NULL, 1);
	R(RTM_NEWROUTE, NEW, "192.0.2.0", 24, NULL, NULL, 0, RT_SCOPE_LINK, 1);
	R(RTM_NEWROUTE, NEW, "192.0.2.0", 24, NULL, NULL, 0, RT_SCOPE_LINK, 1);
	R(RTM_NEWROUTE, NEW, "192.0.2.0", 24, NULL, NULL, 5, RT_SCOPE_LINK, 1);
	R(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, "192.0.2.0", 24, NULL, "10.1.1.1", 0, RT_SCOPE_LINK, 1);
	R(RTM_NEWROUTE, 0, "192.0.3.0", 24, NULL, NULL, 0, RT_SCOPE_LINK, 1);
	R(RTM_NEWROUTE, NEW, "192.0.3.7", 24, NULL, NULL, 0, RT_SCOPE_LINK, 1);
	R(RTM_NEWROUTE, NEW, "192.0.3.0", 33, NULL, NULL, 0, RT_SCOPE_LINK, 1);
	R(RTM_NEWROUTE, NEW, "192.0.3.0", 24, NULL, NULL, 0, RT_SCOPE_LINK, 9);
	R(RTM_NEWROUTE, NEW, "192.0.3.0", 24, NULL, NULL, 0, RT_SCOPE_LINK, 0);
	R(RTM_NEWROUTE, NEW, "192.0.3.0", 24, NULL, "10.1.1.200", 0, RT_SCOPE_LINK, 1);
	R(RTM_NEWROUTE, NEW, "192.0.3.0", 24, NULL, "11.1.1.200", 0, RT_SCOPE_LINK, 1);
	R(RTM_NEWROUTE, NEW, "192.0.4.0", 24, "192.0.2.77", NULL, 0, RT_SCOPE_UNIVERSE, 0);
	R(RTM_NEWROUTE, NEW, "192.0.5.0", 24, "192.0.2.78", NULL, 0, RT_SCOPE_LINK, 0);
	R(RTM_NEWROUTE, NEW, "192.0.5.0", 24, "192.0.4.78", NULL, 0, RT_SCOPE_UNIVERSE, 0); // by a gateway behind a gateway
	R(RTM_NEWROUTE, NEW, "192.0.5.0", 24, "11.1.1.1", NULL, 0, RT_SCOPE_UNIVERSE, 0);
	R(RTM_NEWROUTE, NEW, "192.0.5.0", 24, "10.1.1.1", NULL, 0, RT_SCOPE_UNIVERSE, 0);
	R(RTM_NEWROUTE, NEW, "192.0.5.0", 24, "224.0.0.1", NULL, 0, RT_SCOPE_UNIVERSE, 1);
	R(RTM_NEWROUTE, NEW, "0.0.0.0", 0, "192.0.2.1", NULL, 100, RT_SCOPE_UNIVERSE, 1);
	state();
	R(RTM_DELROUTE, 0, "192.0.2.0", 24, NULL, NULL, 7, RT_SCOPE_NOWHERE, 0);
	R(RTM_DELROUTE, 0, "192.0.2.0", 24, "10.1.1.7", NULL, 0, RT_SCOPE_NOWHERE, 0);
	R(RTM_DELROUTE, 0, "192.0.2.0", 24, NULL, NULL, 0, RT_SCOPE_HOST, 0);
	R(RTM_DELROUTE, 0, "192.0.2.0", 24, NULL, NULL, 5, RT_SCOPE_NOWHERE, 1);
	R(RTM_DELROUTE, 0, "192.0.4.0", 24, "192.0.2.77", NULL, 0, RT_SCOPE_NOWHERE, 0);
	R(RTM_DELROUTE, 0, "192.0.4.0", 24, NULL, NULL, 0, RT_SCOPE_NOWHERE, 0);
	R(RTM_DELROUTE, 0, "0.0.0.0", 0, NULL, NULL, 0, RT_SCOPE_NOWHERE, 0);
	R(RTM_DELROUTE, 0, "192.0.2.0", 25, NULL, NULL, 0, RT_SCOPE_NOWHERE, 0);
	A(RTM_DELADDR, 0, "10.1.1.1", 24, NULL, 0, NULL, 1); // with what goes out under its name
	state();
	R(RTM_NEWROUTE, NEW, "192.0.6.0", 24, NULL, NULL, 0, RT_SCOPE_LINK, 1);
	link_(RTM_NEWLINK, 0, IFF_UP);
	heard();
	state();
}

CASE(netlink_change_routes6)
{
	make(1 << (RTNLGRP_IPV6_ROUTE - 1));
	link_(RTM_NEWLINK, IFF_UP, IFF_UP);
	heard();
	R(RTM_NEWROUTE, NEW, "fd05::", 64, NULL, NULL, 0, 0, 1);
	R(RTM_NEWROUTE, NEW, "fd05::", 64, NULL, NULL, 0, 0, 1);
	R(RTM_NEWROUTE, NEW, "fd05::", 64, NULL, NULL, 7, 0, 1);
	R(RTM_NEWROUTE, NEW, "fd06::", 64, NULL, NULL, 0, 0, 0);
	R(RTM_NEWROUTE, NEW, "fd06::", 64, NULL, NULL, 0, 0, 9);
	R(RTM_NEWROUTE, NEW, "fd06::", 129, NULL, NULL, 0, 0, 1);
	R(RTM_NEWROUTE, NEW, "fd06::", 64, NULL, "fd99::1", 0, 0, 1);
	R(RTM_DELROUTE, 0, "fd05::", 64, NULL, NULL, 9, 0, 0);
	R(RTM_DELROUTE, 0, "fd05::", 64, "fd05::1", NULL, 0, 0, 0);
	say("routes");
	list(RTM_GETROUTE);
	R(RTM_DELROUTE, 0, "fd05::", 64, NULL, NULL, 7, 0, 1);
	R(RTM_DELROUTE, 0, "fd05::", 64, NULL, NULL, 0, 0, 0);
	R(RTM_DELROUTE, 0, "fd05::", 64, NULL, NULL, 0, 0, 0);
}

// of says what a device's ioctl of one address is.
static void told(int fd, const char *name)
{
	int wants[] = {SIOCGIFADDR, SIOCGIFNETMASK, SIOCGIFBRDADDR};
	char line[200] = "";
	for (int i = 0; i < 3; i++) {
		struct ifreq r = {0};
		strcpy(r.ifr_name, name);
		int e = ioctl(fd, wants[i], &r) < 0 ? errno : 0;
		sprintf(line + strlen(line), " %s", e ? errname(e) : inet_ntoa(((struct sockaddr_in *)&r.ifr_addr)->sin_addr));
	}
	say("%s:%s", name, line);
}

static int set(int fd, int request, const char *name, const char *words)
{
	struct ifreq r = {0};
	strcpy(r.ifr_name, name);
	struct sockaddr_in *a = (void *)&r.ifr_addr;
	a->sin_family = AF_INET;
	inet_pton(AF_INET, words, &a->sin_addr);
	return ioctl(fd, request, &r) < 0 ? errno : 0;
}

#define SET(...) (say("%s: %s", #__VA_ARGS__, named(set(fd, __VA_ARGS__))), heard())

CASE(netlink_change_ioctl)
{
	make(RTMGRP_IPV4_IFADDR | RTMGRP_LINK);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct ifreq r = {.ifr_name = "lo"};
	r.ifr_flags = IFF_UP;
	E(ioctl(fd, SIOCSIFFLAGS, &r));
	heard();
	E(ioctl(fd, SIOCGIFFLAGS, &r));
	say("flags %x", r.ifr_flags);
	told(fd, "lo");
	SET(SIOCSIFADDR, "lo", "10.9.8.7");
	told(fd, "lo");
	SET(SIOCSIFNETMASK, "lo", "255.255.255.0");
	SET(SIOCSIFNETMASK, "lo", "255.0.255.0");
	SET(SIOCSIFBRDADDR, "lo", "10.9.8.200");
	told(fd, "lo");
	SET(SIOCSIFADDR, "lo:1", "192.168.3.4");
	SET(SIOCSIFADDR, "lo:2", "224.1.1.1");
	SET(SIOCSIFADDR, "eth9", "1.2.3.4");
	SET(SIOCSIFNETMASK, "lo:3", "255.255.255.0");
	told(fd, "lo:1");
	told(fd, "lo:2");
	struct ifreq many[8];
	struct ifconf c = {sizeof many, {(void *)many}};
	E(ioctl(fd, SIOCGIFCONF, &c));
	for (int i = 0; i < c.ifc_len / (int)sizeof *many; i++)
		say("%s %s", many[i].ifr_name, inet_ntoa(((struct sockaddr_in *)&many[i].ifr_addr)->sin_addr));
	state();

	struct rtentry t = {0};
	struct sockaddr_in *dst = (void *)&t.rt_dst, *gateway = (void *)&t.rt_gateway, *mask = (void *)&t.rt_genmask;
	E(ioctl(fd, SIOCADDRT, &t));
	dst->sin_family = mask->sin_family = AF_INET;
	inet_pton(AF_INET, "192.0.2.0", &dst->sin_addr), inet_pton(AF_INET, "255.255.255.0", &mask->sin_addr);
	t.rt_flags = RTF_UP;
	E(ioctl(fd, SIOCADDRT, &t)); // by nothing
	t.rt_dev = "lo";
	E(ioctl(fd, SIOCADDRT, &t));
	E(ioctl(fd, SIOCADDRT, &t));
	t.rt_dev = "eth9";
	E(ioctl(fd, SIOCADDRT, &t));
	t.rt_dev = NULL;
	inet_pton(AF_INET, "192.0.2.1", &dst->sin_addr);
	E(ioctl(fd, SIOCADDRT, &t));
	inet_pton(AF_INET, "192.0.5.0", &dst->sin_addr), inet_pton(AF_INET, "192.0.2.9", &gateway->sin_addr);
	gateway->sin_family = AF_INET, t.rt_flags = RTF_UP | RTF_GATEWAY, t.rt_metric = 4;
	E(ioctl(fd, SIOCADDRT, &t));
	inet_pton(AF_INET, "255.0.255.0", &mask->sin_addr);
	E(ioctl(fd, SIOCADDRT, &t));
	say("routes");
	list(RTM_GETROUTE);
	inet_pton(AF_INET, "255.255.255.0", &mask->sin_addr);
	t.rt_metric = 0;
	E(ioctl(fd, SIOCDELRT, &t));
	E(ioctl(fd, SIOCDELRT, &t));

	SET(SIOCSIFADDR, "lo", "0.0.0.0");
	told(fd, "lo");
	memset(&r, 0, sizeof r), strcpy(r.ifr_name, "lo:1");
	E(ioctl(fd, SIOCSIFFLAGS, &r));
	E(ioctl(fd, SIOCSIFFLAGS, &r));
	strcpy(r.ifr_name, "lo"), r.ifr_mtu = 1300;
	E(ioctl(fd, SIOCSIFMTU, &r));
	r.ifr_mtu = -1;
	E(ioctl(fd, SIOCSIFMTU, &r));
	r.ifr_qlen = 7;
	E(ioctl(fd, SIOCSIFTXQLEN, &r));
	r.ifr_qlen = -7;
	E(ioctl(fd, SIOCSIFTXQLEN, &r));
	strcpy(r.ifr_newname, "inner");
	E(ioctl(fd, SIOCSIFNAME, &r));
	E(ioctl(fd, SIOCSIFNAME, &r));
	heard();
	state();
}

// A namespace's network is its owner's to change, whatever a process may do elsewhere.
CASE(netlink_change_rights)
{
	make(RTMGRP_LINK);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fork() == 0) {
		E(setresuid(1000, 1000, 1000));
		int old = s, mine;
		struct ifreq r = {.ifr_name = "lo"};
		r.ifr_flags = IFF_UP;
		say("by who made the socket, not by who asks: %s", named(link_(RTM_NEWLINK, IFF_UP, IFF_UP)));
		E(ioctl(fd, SIOCSIFFLAGS, &r));
		s = mine = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
		say("by nobody: %s", named(link_(RTM_NEWLINK, IFF_UP, IFF_UP)));
		E(unshare(CLONE_NEWUSER | CLONE_NEWNET));
		say("of the old network, by root of another: %s", named(link_(RTM_NEWLINK, IFF_UP, IFF_UP)));
		s = old;
		say("and by a socket that root made: %s", named(link_(RTM_NEWLINK, IFF_UP, IFF_UP)));
		E(ioctl(fd, SIOCSIFFLAGS, &r));
		s = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
		say("of its own: %s", named(link_(RTM_NEWLINK, IFF_UP, IFF_UP)));
		list(RTM_GETLINK);
		fflush(stdout);
		_exit(0);
	}
	wait(NULL);
	say("not changed");
	list(RTM_GETLINK);
	heard();
}
