// SPDX-License-Identifier: Apache-2.0
/* Loads paths and measures them: TCP, small UDP packets, a ping-pong of one byte; or new TCP connections.
 *
 *   traffic tcp CPU CPU TURN_MS TURNS SIDE...
 *   traffic udp CPU CPU TURN_MS TURNS PAYLOAD DESTINATIONS SIDE...
 *   traffic ping CPU CPU TURN_MS TURNS SIDE...
 *   traffic accept PORT                 traffic connect ADDRESS PORT SECONDS AT_ONCE
 *
 * SIDE: CLIENT/SERVER/ADDRESS, two network namespaces by name, and the server's address. A sender on the first CPU and a
 * receiver on the second take the sides in turn, each for TURN_MS, TURNS times, with the same sockets from beginning to
 * end: what the machine does besides, for longer than some turns, all sides see alike. The order of the sides turns round
 * and begins with another one each time. The first WARM_UP_SHARE of a turn is not counted. What was measured is one line of
 * JSON: lists by side, of one number a turn. DESTINATIONS > 1: each packet goes to another one of so many addresses from
 * ADDRESS on.
 *
 * accept says "ready", and goes on until its standard input ends: not until all is silent, as it is on a path that lets
 * nothing through for a while, and on which those who go on asking would then be refused. What happens in the first
 * 100 ms of connect is not counted: the path is warming up. That no connection comes about is a number, too.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
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
#define WARM_UP_NS 100000000ULL /* of connect */
#define WARM_UP_SHARE 4 /* a fourth of a turn */
#define PATIENCE_MS 10000 /* for the end of a turn */
#define AGAIN_MS 20 /* then the end of a turn is said again */
#define PORT 7000
#define SIDES 16
#define TURNS 10000
#define PINGS (1 << 20) /* of a turn */

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

static struct sockaddr_in address(const char *text, uint16_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };

	check(!text || inet_pton(AF_INET, text, &a.sin_addr) == 1, "not an IPv4 address");
	return a;
}

static int listening(int type, uint16_t port)
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

/* One way from a client to a server; from is the client's socket, to the server's. */
struct side {
	int from, to;
	struct sockaddr_in address;
};

/* Between sender and receiver, who are processes. The lists: by side, of each turn. */
struct shared {
	_Atomic uint64_t ends_at; /* the stream is over with so many bytes; before it is known, UINT64_MAX */
	_Atomic uint32_t is_over; /* what arrives from now on is not counted */
	_Atomic uint32_t is_counted; /* some of the turn is; without, on a machine that is busy elsewhere, it goes on */
	uint64_t sent[SIDES], received[SIDES];
	double values[SIDES][TURNS], others[SIDES][TURNS];
};

struct run {
	struct side sides[SIDES];
	int count, turns, done_read, done_write;
	uint64_t turn_ns;
	size_t payload;
	uint32_t destinations;
	struct shared *shared;
};

static int side_of(const struct run *run, int turn, int place)
{
	int round = turn / run->count;

	return (turn + (round % 2 ? run->count - 1 - place : place)) % run->count;
}

static void enter(const char *namespace)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "/run/netns/%s", namespace);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	check(fd >= 0 && setns(fd, CLONE_NEWNET) == 0, path);
	close(fd);
}

static void hold_to(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	check(sched_setaffinity(0, sizeof(set), &set) == 0, "sched_setaffinity");
}

/* A path is to be measured, and not what a congestion control that has a model of it (BBR, a default of some kernels)
 * believes of it. Reno, since every kernel has it, and in every namespace.
 */
static void use_reno(int s)
{
	check(setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, "reno", 4) == 0, "TCP_CONGESTION");
}

static void open_side(struct side *side, int type, uint16_t port, char *words)
{
	const char *client = strtok(words, "/"), *server = strtok(NULL, "/"), *target = strtok(NULL, "/");
	int listener;

	errno = EINVAL;
	check(client && server && target, "SIDE");
	side->address = address(target, port);
	enter(server);
	listener = listening(type, port);
	enter(client);
	side->from = socket(AF_INET, type, 0);
	if (type == SOCK_DGRAM) {
		side->to = listener;
		return;
	}
	use_reno(side->from);
	check(connect(side->from, (void *)&side->address, sizeof(side->address)) == 0, "connect");
	side->to = accept(listener, NULL, NULL);
	check(side->to >= 0, "accept");
	close(listener);
}

static int readable(int s, int wait_ms)
{
	struct pollfd p = { .fd = s, .events = POLLIN };

	return poll(&p, 1, wait_ms) > 0;
}

static void turn_is_over(const struct run *run)
{
	check(write(run->done_write, "", 1) == 1, "write");
}

/* Whether the receiver has said so. */
static int is_turn_over(const struct run *run, int wait_ms)
{
	char byte;

	return readable(run->done_read, wait_ms) && read(run->done_read, &byte, 1) == 1;
}

/* The sender's. */
static int goes_on(const struct run *run, uint64_t until_ns)
{
	uint64_t now = now_ns();

	return now < until_ns || (!atomic_load(&run->shared->is_counted) && now < until_ns + PATIENCE_MS * 1000000ULL);
}

static void receive_stream(struct run *run, int i, int turn)
{
	static char buffer[READ_BYTES];
	struct shared *shared = run->shared;
	uint64_t begin = 0, from = 0, last = 0, bytes = 0, total = 0;
	ssize_t got;

	do {
		got = recv(run->sides[i].to, buffer, sizeof(buffer), 0);
		check(got > 0, "recv");
		total += got;
		if (atomic_load(&shared->is_over))
			continue;
		last = now_ns();
		if (!begin)
			begin = last;
		if (from) {
			bytes += got;
			atomic_store(&shared->is_counted, 1);
		} else if (last - begin >= run->turn_ns / WARM_UP_SHARE) {
			from = last;
		}
	} while (total != atomic_load(&shared->ends_at));
	errno = ENODATA;
	check(from && last > from, "the turn was too short");
	shared->values[i][turn] = bytes * 8e9 / (last - from);
}

static void send_stream(struct run *run, int i, int turn)
{
	static char buffer[WRITE_BYTES];
	struct shared *shared = run->shared;
	uint64_t until = now_ns() + run->turn_ns, total = 0;
	ssize_t put;

	(void)turn;
	while (goes_on(run, until)) {
		put = send(run->sides[i].from, buffer, sizeof(buffer), 0);
		check(put > 0, "send");
		total += put;
	}
	atomic_store(&shared->is_over, 1);
	atomic_store(&shared->ends_at, total + 1);
	check(send(run->sides[i].from, buffer, 1, 0) == 1, "send"); /* so that it wakes up, and sees that */
	errno = ETIMEDOUT;
	check(is_turn_over(run, PATIENCE_MS), "the end of a turn");
}

/* What says that a turn is over. */
struct end {
	uint32_t turn;
};

static void receive_packets(struct run *run, int i, int turn)
{
	static char buffers[BATCH][2048];
	struct iovec parts[BATCH];
	struct mmsghdr messages[BATCH] = { 0 };
	uint64_t begin = 0, from = 0, last = 0, packets = 0, total = 0, t;
	int got, over = 0;

	for (int n = 0; n < BATCH; n++) {
		parts[n] = (struct iovec){ buffers[n], sizeof(buffers[n]) };
		messages[n].msg_hdr = (struct msghdr){ .msg_iov = &parts[n], .msg_iovlen = 1 };
	}
	while (!over) {
		got = recvmmsg(run->sides[i].to, messages, BATCH, MSG_DONTWAIT, NULL);
		if (got < 0) {
			check(errno == EAGAIN || errno == EINTR, "recvmmsg");
			check(readable(run->sides[i].to, PATIENCE_MS), "the end of a turn");
			continue;
		}
		t = now_ns();
		for (int n = 0; n < got; n++) {
			if (messages[n].msg_len == run->payload) {
				total++;
			} else {
				struct end end;

				memcpy(&end, buffers[n], sizeof(end));
				over |= messages[n].msg_len == sizeof(end) && end.turn == (uint32_t)turn;
			}
		}
		if (over)
			break;
		if (!begin)
			begin = t;
		if (from) {
			packets += got;
			last = t;
			atomic_store(&run->shared->is_counted, 1);
		} else if (t - begin >= run->turn_ns / WARM_UP_SHARE) {
			from = t;
		}
	}
	errno = ENODATA;
	check(from && last > from, "too few packets came");
	run->shared->values[i][turn] = packets * 1e9 / (last - from);
	run->shared->received[i] += total;
}

static void send_packets(struct run *run, int i, int turn)
{
	static char buffer[2048];
	static uint32_t n;
	const struct side *side = &run->sides[i];
	uint32_t first = ntohl(side->address.sin_addr.s_addr);
	struct sockaddr_in to[BATCH];
	struct iovec part = { buffer, run->payload };
	struct mmsghdr messages[BATCH] = { 0 };
	struct end end = { turn };
	uint64_t until;
	int done;

	for (int b = 0; b < BATCH; b++) {
		to[b] = side->address;
		messages[b].msg_hdr = (struct msghdr){
			.msg_name = &to[b], .msg_namelen = sizeof(to[b]), .msg_iov = &part, .msg_iovlen = 1,
		};
	}
	until = now_ns() + run->turn_ns;
	while (goes_on(run, until)) {
		/* Far apart from one packet to the next; every one has its turn, since the constant is a prime. */
		for (int b = 0; run->destinations > 1 && b < BATCH; b++, n++)
			to[b].sin_addr.s_addr = htonl(first + (uint32_t)(n * 2654435761ULL % run->destinations));
		done = sendmmsg(side->from, messages, BATCH, 0);
		if (done > 0) /* else: ICMP that came back, or no room; the next one may do */
			run->shared->sent[i] += done;
	}
	for (int tries = PATIENCE_MS / AGAIN_MS; tries; tries--) {
		sendto(side->from, &end, sizeof(end), 0, (void *)&side->address, sizeof(side->address));
		if (is_turn_over(run, AGAIN_MS))
			return;
	}
	errno = ETIMEDOUT;
	check(0, "the end of a turn");
}

static void echo(struct run *run, int i, int turn)
{
	struct sockaddr_in from;
	socklen_t size;
	char byte;

	(void)turn;
	do {
		size = sizeof(from);
		check(readable(run->sides[i].to, PATIENCE_MS), "the end of a turn");
		check(recvfrom(run->sides[i].to, &byte, 1, 0, (void *)&from, &size) == 1, "recvfrom");
		sendto(run->sides[i].to, &byte, 1, 0, (void *)&from, size);
	} while (byte != 'q');
}

static int ascending(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void ping(struct run *run, int i, int turn)
{
	static uint32_t took_ns[PINGS];
	const struct side *side = &run->sides[i];
	uint64_t from = now_ns() + run->turn_ns / WARM_UP_SHARE, until = from + run->turn_ns, before, after = 0;
	size_t count = 0;
	char byte = 'p';

	while (after < until && count < PINGS) {
		before = now_ns();
		check(sendto(side->from, &byte, 1, 0, (void *)&side->address, sizeof(side->address)) == 1, "send");
		check(recv(side->from, &byte, 1, 0) == 1, "no answer");
		after = now_ns();
		if (after >= from)
			took_ns[count++] = after - before;
	}
	byte = 'q';
	check(sendto(side->from, &byte, 1, 0, (void *)&side->address, sizeof(side->address)) == 1, "send");
	check(recv(side->from, &byte, 1, 0) == 1, "no answer");
	errno = ENODATA;
	check(count > 0 && is_turn_over(run, PATIENCE_MS), "no answer");
	qsort(took_ns, count, sizeof(*took_ns), ascending);
	run->shared->values[i][turn] = took_ns[count / 2];
	run->shared->others[i][turn] = took_ns[count - 1 - count / 100];
}

typedef void act(struct run *run, int i, int turn);

static void take_turns(struct run *run, act *act, int as_receiver)
{
	for (int turn = 0; turn < run->turns; turn++)
		for (int place = 0; place < run->count; place++) {
			if (as_receiver) {
				act(run, side_of(run, turn, place), turn);
				turn_is_over(run);
			} else {
				atomic_store(&run->shared->is_over, 0);
				atomic_store(&run->shared->is_counted, 0);
				atomic_store(&run->shared->ends_at, UINT64_MAX);
				act(run, side_of(run, turn, place), turn);
			}
		}
}

static void print_lists(const struct run *run, const char *name, double (*lists)[TURNS])
{
	printf("\"%s\": [", name);
	for (int i = 0; i < run->count; i++)
		for (int turn = 0; turn < run->turns; turn++)
			printf("%s%.1f%s", turn ? ", " : i ? ", [" : "[", lists[i][turn], turn == run->turns - 1 ? "]" : "");
	printf("]");
}

/* first: of the words that are sides. */
static int turns(char **argv, int words, int first, int type, act *send, act *receive)
{
	static struct run run;
	struct timeval patience = { .tv_sec = 1 };
	int done[2], status;
	pid_t child;

	run.turn_ns = atof(argv[4]) * 1e6;
	run.turns = atoi(argv[5]);
	run.payload = first > 6 ? atoi(argv[6]) : 0;
	run.destinations = first > 6 ? atoi(argv[7]) : 1;
	run.count = words - first;
	run.shared = mmap(NULL, sizeof(*run.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	errno = EINVAL;
	check(run.count >= 1 && run.count <= SIDES && run.turns >= 1 && run.turns <= TURNS, "SIDE or TURNS");
	check(run.shared != MAP_FAILED && pipe(done) == 0, "pipe");
	run.done_read = done[0];
	run.done_write = done[1];
	for (int i = 0; i < run.count; i++) {
		open_side(&run.sides[i], type, PORT + i, argv[first + i]);
		if (type == SOCK_DGRAM)
			setsockopt(run.sides[i].from, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	}
	child = fork();
	check(child >= 0 && (child || prctl(PR_SET_PDEATHSIG, SIGKILL) == 0), "fork");
	hold_to(atoi(argv[child ? 2 : 3]));
	take_turns(&run, child ? send : receive, !child);
	if (!child)
		return 0;
	check(waitpid(child, &status, 0) == child && status == 0, "the receiver");
	printf("{");
	print_lists(&run, "values", run.shared->values);
	printf(", ");
	print_lists(&run, "others", run.shared->others);
	printf(", \"sent\": [");
	for (int i = 0; i < run.count; i++)
		printf("%s%llu", i ? ", " : "", (unsigned long long)run.shared->sent[i]);
	printf("], \"received\": [");
	for (int i = 0; i < run.count; i++)
		printf("%s%llu", i ? ", " : "", (unsigned long long)run.shared->received[i]);
	printf("]}\n");
	return 0;
}

static void ready(void)
{
	puts("ready");
	fflush(stdout);
}

/* Takes connections in, and lets go of each once its other end has reset it. */
static int accepting(char **argv)
{
	struct epoll_event here[BATCH], one = { .events = EPOLLIN };
	int listener = listening(SOCK_STREAM, atoi(argv[2])), e = epoll_create1(0), got, s;

	one.data.fd = listener;
	check(epoll_ctl(e, EPOLL_CTL_ADD, listener, &one) == 0, "epoll_ctl");
	one.data.fd = STDIN_FILENO;
	check(epoll_ctl(e, EPOLL_CTL_ADD, STDIN_FILENO, &one) == 0, "epoll_ctl");
	ready();
	while ((got = epoll_wait(e, here, BATCH, -1)) > 0 || (got < 0 && errno == EINTR)) {
		for (int i = 0; i < got; i++) {
			if (here[i].data.fd == STDIN_FILENO)
				return 0;
			if (here[i].data.fd != listener) {
				close(here[i].data.fd);
				continue;
			}
			s = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
			if (s < 0) /* it is gone already */
				continue;
			one = (struct epoll_event){ .events = EPOLLRDHUP, .data.fd = s };
			check(epoll_ctl(e, EPOLL_CTL_ADD, s, &one) == 0, "epoll_ctl");
		}
	}
	check(0, "epoll_wait");
	return 1;
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
	struct sockaddr_in to = address(argv[2], atoi(argv[3]));
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
	printf("{\"connections\": %llu, \"failed\": %llu, \"seconds\": %.9f}\n", (unsigned long long)count,
	       (unsigned long long)failed, (now - from) / 1e9);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 6 && !strcmp(argv[1], "tcp"))
		return turns(argv, argc, 6, SOCK_STREAM, send_stream, receive_stream);
	if (argc > 6 && !strcmp(argv[1], "ping"))
		return turns(argv, argc, 6, SOCK_DGRAM, ping, echo);
	if (argc > 8 && !strcmp(argv[1], "udp"))
		return turns(argv, argc, 8, SOCK_DGRAM, send_packets, receive_packets);
	if (argc == 3 && !strcmp(argv[1], "accept"))
		return accepting(argv);
	if (argc == 6 && !strcmp(argv[1], "connect"))
		return connecting(argv);
	fprintf(stderr, "usage: see the head of traffic.c\n");
	return 2;
}
