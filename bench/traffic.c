// SPDX-License-Identifier: Apache-2.0
/* Loads a path and measures it: one stream of TCP, small UDP packets, a ping-pong of one byte, or new TCP connections.
 *
 *   traffic tcp-receive PORT            traffic tcp-send ADDRESS PORT SECONDS
 *   traffic udp-receive PORT            traffic udp-send ADDRESS PORT SECONDS PAYLOAD DESTINATIONS
 *   traffic echo PORT                   traffic ping ADDRESS PORT SECONDS
 *   traffic accept PORT                 traffic connect ADDRESS PORT SECONDS AT_ONCE
 *
 * A receiver says "ready", measures one run and prints one line of JSON. What happens in the first 100 ms is not counted:
 * the path is warming up. DESTINATIONS > 1: each packet goes to another one of so many addresses from ADDRESS on.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
/* What TCP's ends give the kernel and take from it at a time. No multiple of a page: the CPUs of one maker copy some ten
 * times slower where the target begins a few bytes after the source, modulo 4096, and a stream whose pieces were all whole
 * pages would keep for good whichever of the two ways it has come upon. And large: the short segment that the remainder of
 * a write makes is another share of it at each MTU.
 */
#define WRITE_BYTES 1000000
#define READ_BYTES 250000
#define WARM_UP_NS 100000000ULL
#define SILENCE_MS 500 /* after the last packet: the run is over */
#define END_BYTES 1 /* of a datagram that says so, without waiting */
#define PATIENCE_MS 10000 /* for the first one */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static void check(int ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "%s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static struct sockaddr_in address(const char *text, const char *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };

	check(!text || inet_pton(AF_INET, text, &a.sin_addr) == 1, "not an IPv4 address");
	return a;
}

static int listening(int type, const char *port)
{
	struct sockaddr_in a = address(NULL, port);
	int s = socket(AF_INET, type, 0), one = 1, room = 8 << 20;

	check(s >= 0, "socket");
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (type == SOCK_DGRAM) /* not for TCP: it would end the kernel's own tuning of the window */
		setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	check(bind(s, (void *)&a, sizeof(a)) == 0, "bind");
	check(type == SOCK_DGRAM || listen(s, 1024) == 0, "listen");
	return s;
}

static void ready(void)
{
	puts("ready");
	fflush(stdout);
}

static int readable(int s, int wait_ms)
{
	struct pollfd p = { .fd = s, .events = POLLIN };

	return poll(&p, 1, wait_ms) > 0;
}

static int tcp_receive(char **argv)
{
	static char buffer[READ_BYTES];
	int listener = listening(SOCK_STREAM, argv[2]), s;
	uint64_t begin, from = 0, last = 0, bytes = 0;
	ssize_t got;

	ready();
	if (!readable(listener, PATIENCE_MS))
		errno = ETIMEDOUT, check(0, "accept");
	s = accept(listener, NULL, NULL);
	check(s >= 0, "accept");
	begin = now_ns();
	while ((got = recv(s, buffer, sizeof(buffer), 0)) > 0) {
		last = now_ns();
		if (!from) {
			if (last - begin >= WARM_UP_NS)
				from = last;
			continue;
		}
		bytes += got;
	}
	check(from && last > from, "the stream was too short");
	printf("{\"bytes\": %llu, \"seconds\": %.9f}\n", (unsigned long long)bytes, (last - from) / 1e9);
	return 0;
}

/* A path is to be measured, and not what a congestion control that has a model of it (BBR, a default of some kernels)
 * believes of it. Reno, since every kernel has it, and in every namespace.
 */
static void use_reno(int s)
{
	check(setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, "reno", 4) == 0, "TCP_CONGESTION");
}

static int tcp_send(char **argv)
{
	static char buffer[WRITE_BYTES];
	struct sockaddr_in to = address(argv[2], argv[3]);
	uint64_t until = now_ns() + atof(argv[4]) * 1e9 + WARM_UP_NS;
	int s = socket(AF_INET, SOCK_STREAM, 0);

	use_reno(s);
	check(connect(s, (void *)&to, sizeof(to)) == 0, "connect");
	while (now_ns() < until)
		check(send(s, buffer, sizeof(buffer), 0) > 0, "send");
	return 0;
}

static int udp_receive(char **argv)
{
	static char buffers[BATCH][2048];
	struct iovec parts[BATCH];
	struct mmsghdr messages[BATCH] = { 0 };
	int s = listening(SOCK_DGRAM, argv[2]), got, wait_ms = PATIENCE_MS, over = 0;
	uint64_t begin = 0, from = 0, last = 0, packets = 0, t;

	for (int i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){ buffers[i], sizeof(buffers[i]) };
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &parts[i], .msg_iovlen = 1 };
	}
	ready();
	while (!over) {
		got = recvmmsg(s, messages, BATCH, MSG_DONTWAIT, NULL);
		if (got < 0) {
			check(errno == EAGAIN || errno == EINTR, "recvmmsg");
			if (!readable(s, wait_ms))
				break;
			continue;
		}
		wait_ms = SILENCE_MS;
		t = now_ns();
		if (!begin)
			begin = t;
		if (!from) {
			if (t - begin >= WARM_UP_NS)
				from = last = t;
			continue;
		}
		for (int i = 0; i < got; i++)
			over |= messages[i].msg_len == END_BYTES;
		if (over)
			break;
		packets += got;
		last = t;
	}
	errno = ENODATA;
	check(from && last > from, "too few packets came");
	printf("{\"packets\": %llu, \"seconds\": %.9f}\n", (unsigned long long)packets, (last - from) / 1e9);
	return 0;
}

static int udp_send(char **argv)
{
	static char buffer[2048];
	struct sockaddr_in base = address(argv[2], argv[3]), to[BATCH];
	uint64_t until = now_ns() + atof(argv[4]) * 1e9 + WARM_UP_NS, sent = 0, refused = 0;
	uint32_t first = ntohl(base.sin_addr.s_addr), count = atoi(argv[6]), turn = 0;
	struct iovec part = { buffer, atoi(argv[5]) };
	struct mmsghdr messages[BATCH] = { 0 };
	int s = socket(AF_INET, SOCK_DGRAM, 0), done;

	for (int i = 0; i < BATCH; i++) {
		to[i] = base;
		messages[i].msg_hdr = (struct msghdr){
			.msg_name = &to[i], .msg_namelen = sizeof(to[i]), .msg_iov = &part, .msg_iovlen = 1,
		};
	}
	while (now_ns() < until) {
		/* Far apart from one packet to the next; every one has its turn, since the constant is a prime. */
		for (int i = 0; count > 1 && i < BATCH; i++, turn++)
			to[i].sin_addr.s_addr = htonl(first + (uint32_t)(turn * 2654435761ULL % count));
		done = sendmmsg(s, messages, BATCH, 0);
		if (done > 0)
			sent += done;
		else /* ICMP that came back, or no room: the next one may do */
			refused++;
	}
	for (int i = 0; i < 5; i++) {
		usleep(20000); /* until what is before it is out of the way */
		sendto(s, buffer, END_BYTES, 0, (void *)&base, sizeof(base));
	}
	printf("{\"sent\": %llu, \"refused\": %llu}\n", (unsigned long long)sent, (unsigned long long)refused);
	return 0;
}

static int echo(char **argv)
{
	int s = listening(SOCK_DGRAM, argv[2]);
	struct timeval patience = { .tv_sec = PATIENCE_MS / 1000 };
	struct sockaddr_in from;
	socklen_t size;
	char byte;

	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	ready();
	for (;;) {
		size = sizeof(from);
		if (recvfrom(s, &byte, 1, 0, (void *)&from, &size) != 1)
			break;
		if (byte == 'q')
			break;
		sendto(s, &byte, 1, 0, (void *)&from, size);
	}
	puts("{}");
	return 0;
}

static int ascending(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static int ping(char **argv)
{
	static uint32_t took_ns[8 << 20];
	const size_t most = sizeof(took_ns) / sizeof(*took_ns);
	struct sockaddr_in to = address(argv[2], argv[3]);
	uint64_t from = now_ns() + WARM_UP_NS, until = from + atof(argv[4]) * 1e9, before, after = 0;
	struct timeval patience = { .tv_sec = 1 };
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	size_t count = 0, lost = 0;
	char byte = 'p';

	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	check(connect(s, (void *)&to, sizeof(to)) == 0, "connect");
	while (after < until && count < most) {
		before = now_ns();
		check(send(s, &byte, 1, 0) == 1, "send");
		if (recv(s, &byte, 1, 0) != 1) {
			lost++;
			after = now_ns();
			check(lost < 5, "no answer");
			continue;
		}
		after = now_ns();
		if (after >= from)
			took_ns[count++] = after - before;
	}
	byte = 'q';
	send(s, &byte, 1, 0);
	check(count > 0, "no answer");
	qsort(took_ns, count, sizeof(*took_ns), ascending);
	printf("{\"count\": %zu, \"lost\": %zu, \"p50_ns\": %u, \"p99_ns\": %u}\n", count, lost, took_ns[count / 2],
	       took_ns[count - 1 - count / 100]);
	return 0;
}

/* Takes connections in, and lets go of each once its other end has reset it. */
static int accepting(char **argv)
{
	struct epoll_event here[BATCH], one = { .events = EPOLLIN };
	int listener = listening(SOCK_STREAM, argv[2]), e = epoll_create1(0), wait_ms = PATIENCE_MS, got, s;
	uint64_t accepted = 0;

	one.data.fd = listener;
	check(epoll_ctl(e, EPOLL_CTL_ADD, listener, &one) == 0, "epoll_ctl");
	ready();
	while ((got = epoll_wait(e, here, BATCH, wait_ms)) > 0 || (got < 0 && errno == EINTR)) {
		for (int i = 0; i < got; i++) {
			if (here[i].data.fd != listener) {
				close(here[i].data.fd);
				continue;
			}
			s = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
			if (s < 0) /* it is gone already */
				continue;
			accepted++;
			wait_ms = SILENCE_MS;
			one = (struct epoll_event){ .events = EPOLLRDHUP, .data.fd = s };
			check(epoll_ctl(e, EPOLL_CTL_ADD, s, &one) == 0, "epoll_ctl");
		}
	}
	printf("{\"accepted\": %llu}\n", (unsigned long long)accepted);
	return 0;
}

/* A connection on its way: to be reset when it is closed, so that neither end keeps it in TIME_WAIT. */
static void set_out(int e, const struct sockaddr_in *to)
{
	struct linger reset = { .l_onoff = 1 };
	int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct epoll_event one = { .events = EPOLLOUT, .data.fd = s };

	check(s >= 0, "socket");
	setsockopt(s, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	check(connect(s, (const void *)to, sizeof(*to)) == 0 || errno == EINPROGRESS, "connect");
	check(epoll_ctl(e, EPOLL_CTL_ADD, s, &one) == 0, "epoll_ctl");
}

static int connecting(char **argv)
{
	struct epoll_event here[BATCH];
	struct sockaddr_in to = address(argv[2], argv[3]);
	uint64_t from = now_ns() + WARM_UP_NS, until = from + atof(argv[4]) * 1e9, now, count = 0, failed = 0;
	int e = epoll_create1(0), got, error;
	socklen_t size = sizeof(error);

	for (int i = atoi(argv[5]); i > 0; i--)
		set_out(e, &to);
	while ((now = now_ns()) < until) {
		got = epoll_wait(e, here, BATCH, 100);
		for (int i = 0; i < got; i++) {
			check(getsockopt(here[i].data.fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0, "SO_ERROR");
			failed += error != 0;
			count += !error && now >= from;
			close(here[i].data.fd);
			set_out(e, &to);
		}
	}
	errno = ENODATA;
	check(count > 0, "no connection came about");
	printf("{\"connections\": %llu, \"failed\": %llu, \"seconds\": %.9f}\n", (unsigned long long)count,
	       (unsigned long long)failed, (now - from) / 1e9);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *word;
		int arguments;
		int (*run)(char **);
	} verbs[] = {
		{ "tcp-receive", 1, tcp_receive }, { "tcp-send", 3, tcp_send }, { "udp-receive", 1, udp_receive },
		{ "udp-send", 5, udp_send }, { "echo", 1, echo }, { "ping", 3, ping },
		{ "accept", 1, accepting }, { "connect", 4, connecting },
	};

	for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
		if (argc == verbs[i].arguments + 2 && !strcmp(argv[1], verbs[i].word))
			return verbs[i].run(argv);
	fprintf(stderr, "usage: see the head of traffic.c\n");
	return 2;
}
