// What waits on a netlink socket has a bound (net/netlink/af_netlink.c): answers that
// have no room are lost, which recv(2) tells once, and a dump goes on as it is read.
#include "corpus.h"
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

static int s;

static void make(void)
{
	s = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, NETLINK_ROUTE);
	int size = 50000;
	setsockopt(s, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
}

// ask is for a device that there is not, or for the list of all.
static long ask(int seq, int flags)
{
	struct {
		struct nlmsghdr h;
		struct ifinfomsg i;
	} m = {{sizeof m, RTM_GETLINK, NLM_F_REQUEST | flags, seq, 0}, {0}};
	m.i.ifi_index = flags & NLM_F_DUMP ? 0 : 99999;
	return send(s, &m, sizeof m, 0);
}

static void fill(void)
{
	int sent = 0;
	for (int i = 1; i <= 1000; i++)
		sent += ask(i, 0) == 32;
	say("sent %d", sent);
}

static void events(void)
{
	struct pollfd p = {s, POLLIN};
	poll(&p, 1, 0);
	say("events %x", p.revents);
}

// all reads until an error, and says what came of the error, of the dump and of the
// request with a number.
static void all(int error, int seq)
{
	char b[4096];
	int n, count = 0, errors = 0, done = 0, found = 0;
	while ((n = recv(s, b, sizeof b, 0)) > 0) {
		count++;
		for (struct nlmsghdr *h = (void *)b; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
			found += h->nlmsg_seq == seq;
			done += h->nlmsg_type == NLMSG_DONE;
			errors += h->nlmsg_type == NLMSG_ERROR && ((struct nlmsgerr *)NLMSG_DATA(h))->error == -error;
		}
	}
	say("some %d, less than were asked for %d, %s %d, done %d, of the number %d, then %s", count > 0, count < 1000,
	    errname(error), errors > 0, done, found > 0, errname(errno));
}

CASE(netlink_full)
{
	char b[4096];
	make();
	fill();
	events();
	E(recv(s, b, sizeof b, 0)); // once
	events();
	E(recv(s, b, sizeof b, 0));
	ask(2000, 0); // lost as well: before all is read nothing comes in
	all(ENODEV, 2000);
	events();
	ask(2000, 0);
	all(ENODEV, 2000);

	fill();
	int error = 0;
	socklen_t size = sizeof error;
	getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &size);
	say("%s", errname(error));
	all(ENODEV, 2000);

	E(setsockopt(s, SOL_NETLINK, NETLINK_NO_ENOBUFS, &(int){1}, sizeof(int)));
	fill();
	events();
	E(recv(s, b, sizeof b, 0));
	ask(2000, 0);
	all(ENODEV, 2000);
}

CASE(netlink_dump_waits)
{
	char b[4096];
	make();
	setsockopt(s, SOL_NETLINK, NETLINK_NO_ENOBUFS, &(int){1}, sizeof(int));
	fill();
	ask(2000, NLM_F_DUMP); // begins when there is room
	E(recv(s, b, sizeof b, 0));
	ask(3000, NLM_F_DUMP); // and until then there cannot be another
	all(EBUSY, 2000);
	ask(3000, NLM_F_DUMP);
	all(EBUSY, 3000);
}
