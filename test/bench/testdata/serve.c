/* serve PORT: sends back what comes, one connection after another. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_in6 name = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(argv[1]))};
	int on = 1, s = socket(AF_INET6, SOCK_STREAM, 0);
	signal(SIGPIPE, SIG_IGN);
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(s, (struct sockaddr *)&name, sizeof name) || listen(s, 1024))
		return 1;
	for (;;) {
		char b[4096];
		int n, c = accept(s, 0, 0);
		if (c < 0)
			continue;
		setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		while ((n = read(c, b, sizeof b)) > 0)
			if (write(c, b, n) != n)
				break;
		close(c);
	}
}
