/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Data connections of FTP: what control connections say of them, and whether one that comes was spoken of. docs/design/conntrack.md;
 * reference/ftp.py and reference/conntrack.py say the same, and tests hold the two together.
 */
#pragma once

#include "expected.h"
#include "security.h"

#define FTP_FIRST_PORT 1024 /* other services' are below it: RFC 2577 section 3 */
#define SPEECH_BYTES 512 /* of a segment's text are read, and of a line */
#define LINE_LIFE_NS 60000000000ULL /* of a line that is not whole, since its last byte */
#define SPEAKS_LINE 1 /* a segment begins with a line */
#define SPEAKS_ON 2 /* or it goes on with one */
#define EXPECTED_SWEEP_NS 1000000000ULL

enum speech_state {
	SPEECH_KEYWORD = 0,
	SPEECH_SKIP, /* to the line's end */
	SPEECH_SEEK_NUMBER, /* 227: its first digit */
	SPEECH_SEEK_PARENTHESIS, /* 229 */
	SPEECH_NUMBERS,
	SPEECH_DELIMITER,
	SPEECH_FAMILY,
	SPEECH_BEFORE_ADDRESS,
	SPEECH_GROUPS,
	SPEECH_SECOND_DELIMITER, /* of 229, which has three in a row */
	SPEECH_THIRD_DELIMITER,
	SPEECH_PORT,
	SPEECH_END,
};

enum speech_kind { SAID_NOTHING = 0, SAID_PORT, SAID_EPRT, SAID_227, SAID_229 };

/* A segment's text, and its last line, as far as it is read; per CPU, within one run of a program. */
struct speech {
	__u8 text[SPEECH_BYTES];
	struct line line;
	__u32 client; /* it is the client's */
	/* What the last line that was whole says. */
	__u32 said; /* enum speech_kind */
	__u32 said_family; /* 0: no address, so the speaker's own */
	__u32 said_port;
	struct addr said_address;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct speech);
} speeches SEC(".maps");

INLINE struct speech *speech_of_this_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&speeches, &zero);
}

/* For the agent: what becomes of expectations. */
INLINE void count_expected(__u32 what)
{
	struct tracked *t = tracked_of_host();

	if (t)
		__sync_fetch_and_add(&t->expected[what & (EXPECTED_KINDS - 1)], 1);
}

INLINE bool keys_equal(const struct connection_key *a, const struct connection_key *b)
{
	return a->port == b->port && addr_equal(&a->local, &b->local) && addr_equal(&a->remote, &b->remote) &&
	       a->local_port == b->local_port && a->remote_port == b->remote_port && a->protocol == b->protocol;
}

/* Nothing is expected there any more; 1: it was. */
INLINE int drop_expectation(const struct connection_key *awaited)
{
	__u64 *used, port;

	if (!awaited)
		return 0;
	port = awaited->port;
	if (bpf_map_delete_elem(&expectations, awaited))
		return 0;
	used = bpf_map_lookup_elem(&expecting, &port);
	if (used)
		__sync_fetch_and_add(used, -1);
	return 1;
}

/* What a control connection has spoken of last, into f->awaited: 1: nobody else has since, and it is still to come. */
static __noinline int find_expectation(struct flow *f, const struct connection_key *key, const struct connection *c)
{
	struct expectation *e;

	if (!f || !key || !c || !c->expected)
		return 0;
	f->awaited = *key;
	if (c->flags & EXPECTED_SIDE) {
		f->awaited.local_port = c->expected;
		f->awaited.remote_port = 0;
	} else {
		f->awaited.local_port = 0;
		f->awaited.remote_port = c->expected;
	}
	e = bpf_map_lookup_elem(&expectations, &f->awaited);
	return e && keys_equal(&e->control, key);
}

INLINE int unexpect(struct flow *f, const struct connection_key *key, const struct connection *c)
{
	return find_expectation(f, key, c) ? drop_expectation(&f->awaited) : 0;
}

static long drop_old_expectation(void *map, struct connection_key *awaited, struct expectation *e, void *of)
{
	struct flow *f = flow_of_this_cpu();

	(void)map;
	(void)of;
	if (!f)
		return 1;
	if (f->now_ns >= e->expires_ns) {
		f->swept = *awaited;
		drop_expectation(&f->swept);
	}
	return 0;
}

/* Room for one more that a port expects: 1; all that has expired goes once in a while when there is none, if that is wanted. */
static __noinline int room_to_expect(struct flow *f, __u32 sweeps)
{
	struct tracking *t = tracking_of_host();
	struct tracked *of = tracked_of_host();
	__u64 port, *used, none = 0, last;

	if (!f || !t || !of)
		return 0;
	port = f->key.port;
	used = bpf_map_lookup_elem(&expecting, &port);
	if (!used) {
		bpf_map_update_elem(&expecting, &port, &none, BPF_NOEXIST);
		used = bpf_map_lookup_elem(&expecting, &port);
		if (!used)
			return 0;
	}
	last = of->swept_expected_ns;
	if (sweeps && *used >= t->most_expected && f->now_ns >= last + EXPECTED_SWEEP_NS &&
	    __sync_val_compare_and_swap(&of->swept_expected_ns, last, f->now_ns) == last)
		bpf_for_each_map_elem(&expectations, drop_old_expectation, NULL, 0);
	if (__sync_fetch_and_add(used, 1) < t->most_expected)
		return 1;
	__sync_fetch_and_add(used, -1);
	return 0;
}

/* The port that an FTP server listens to, of a connection that somebody has begun. */
INLINE __be16 server_port(const struct connection_key *key, __u32 opener)
{
	return opener == DIRECTION_FROM_GUEST ? key->remote_port : key->local_port;
}

INLINE bool may_speak(__u8 state)
{
	return state == STATE_ESTABLISHED || state == STATE_HALF_CLOSED;
}

/* Behind the lock: what a segment of a side that has passed is to the lines of a control connection: SPEAKS_LINE, SPEAKS_ON: it
 * comes next. end: what its side had sent before it.
 */
INLINE int comes_next(struct connection *c, __u32 side, const struct flow *f, __u32 end)
{
	__u16 line = LINE << (side & 1);
	int how = f->segment.seq != end ? 0 : c->flags & line ? SPEAKS_LINE : SPEAKS_ON;

	if (server_port(&f->key, c->opener) != f->ftp_port || c->flags & RELATED)
		return 0;
	if (after(f->segment.seq + f->segment.data_bytes, end)) {
		if (f->ends_line)
			c->flags |= line;
		else
			c->flags &= ~line;
	}
	return may_speak(c->state) && !f->piece ? how : 0;
}

/* What opens a connection, and no rule speaks of: whether a control connection has spoken of it; f->rule is that one's.
 * A port that keeps connections keeps that one, but none begins by it without its rule.
 */
static __noinline int is_expected(struct flow *f, const struct guard *g)
{
	struct expectation *e;
	struct connection *c;
	__u32 opener, same_rules;
	__u64 first;
	__u16 number;
	int allows;

	if (!f || !g || f->kind != FLOW_TCP || !is_opening(&f->segment))
		return 0;
	f->awaited = f->key;
	if (f->side == DIRECTION_FROM_GUEST)
		f->awaited.local_port = 0;
	else
		f->awaited.remote_port = 0;
	e = bpf_map_lookup_elem(&expectations, &f->awaited);
	if (!e || f->now_ns >= e->expires_ns)
		return 0;
	f->control = e->control;
	/* Its element may be another's meanwhile. */
	if (f->control.port != f->key.port || !addr_equal(&f->control.local, &f->key.local) ||
	    !addr_equal(&f->control.remote, &f->key.remote))
		return 0;
	c = bpf_map_lookup_elem(&connections, &f->control);
	if (!c)
		return 0;
	first = first_look(c);
	if (f->now_ns >= c->expires_ns || c->flags & REFUSED || !may_speak(c->state))
		return 0;
	opener = c->opener & 1;
	f->rule = c->rule;
	same_rules = c->epoch == f->epoch;
	if (!was_of(c, &f->control, first))
		return 0;
	if (!same_rules || g->flags & GUARD_KEEP) {
		number = f->number;
		f->number = bpf_ntohs(server_port(&f->control, opener));
		allows = rules_say(f, g, opener);
		f->number = number;
		if (!allows)
			return 0;
	}
	if (!drop_expectation(&f->awaited))
		return 0;
	f->related = RELATED | (opener ? CONTROL_SIDE : 0);
	f->control_port = server_port(&f->control, opener);
	count_expected(EXPECTED_ADMITTED);
	return 1;
}

/* f->expectation, of what f->awaited says, in place of the one that its control connection, c, spoke of before. */
static __noinline int await(struct flow *f, struct connection *c, __u32 sweeps)
{
	struct expectation *e;
	__u32 opener;
	__be16 number;

	if (!f || !c)
		return 0;
	opener = f->expectation.opener & 1;
	number = opener == DIRECTION_FROM_GUEST ? f->awaited.remote_port : f->awaited.local_port;
	f->expectation.rule = c->rule;
	unexpect(f, &f->expectation.control, c);
	f->awaited = f->expectation.control;
	f->awaited.local_port = opener == DIRECTION_FROM_GUEST ? 0 : number;
	f->awaited.remote_port = opener == DIRECTION_FROM_GUEST ? number : 0;
	e = bpf_map_lookup_elem(&expectations, &f->awaited);
	/* Of two control connections that speak of the same, the later one's it is. */
	if (!e || bpf_map_update_elem(&expectations, &f->awaited, &f->expectation, BPF_EXIST)) {
		if (!room_to_expect(f, sweeps)) {
			count_expected(EXPECTED_NO_ROOM);
			return 0;
		}
		if (bpf_map_update_elem(&expectations, &f->awaited, &f->expectation, BPF_NOEXIST)) {
			__u64 *used = bpf_map_lookup_elem(&expecting, &f->awaited.port);

			if (used)
				__sync_fetch_and_add(used, -1);
			count_expected(EXPECTED_NO_ROOM);
			return 0;
		}
	}
	bpf_spin_lock(&c->lock);
	if (is_of(&c->tag, &f->expectation.control)) {
		c->expected = number;
		if (opener)
			c->flags |= EXPECTED_SIDE;
		else
			c->flags &= ~EXPECTED_SIDE;
	}
	bpf_spin_unlock(&c->lock);
	return 1;
}

/* A data connection to the port of the speaker's. 1: it is expected. */
static __noinline int expect(struct flow *f, __u32 number)
{
	struct tracking *t = tracking_of_host();
	struct connection *c;

	if (!f || !t)
		return 0;
	c = bpf_map_lookup_elem(&connections, &f->key);
	if (!c)
		return 0;
	__builtin_memset(&f->expectation, 0, sizeof(f->expectation));
	f->expectation.control = f->key;
	f->expectation.opener = !(f->side & 1);
	f->expectation.began_ns = f->now_ns;
	f->expectation.expires_ns = f->now_ns + t->timeouts_ns[STATE_EXPECTED & (STATES - 1)];
	f->awaited.local_port = f->awaited.remote_port = bpf_htons(number);
	if (!await(f, c, 1))
		return 0;
	count_expected(EXPECTED_MADE);
	return 1;
}

/* f->expectation, which another host has told of, as long as its control connection is moved: 1: it is taken. What has been said
 * later is not known there.
 */
static __noinline int take_expectation(struct flow *f)
{
	struct connection *c = f ? bpf_map_lookup_elem(&connections, &f->expectation.control) : NULL;
	struct expectation *e;

	if (!f || !c || !(c->flags & MOVED))
		return 0;
	f->control = f->awaited;
	if (find_expectation(f, &f->expectation.control, c)) {
		e = bpf_map_lookup_elem(&expectations, &f->awaited);
		if (e && e->began_ns >= f->expectation.began_ns)
			return 0;
	}
	f->awaited = f->control;
	return await(f, c, 0);
}

INLINE bool is_digit(__u8 c)
{
	return c >= '0' && c <= '9';
}

/* RFC 2428: 33 to 126; nothing that an address or a port has. */
INLINE bool can_delimit(__u8 c)
{
	return c > 32 && c < 127 && c != '.' && c != ':' && !is_digit(c) && !((c | 32) >= 'a' && (c | 32) <= 'z');
}

INLINE void read_numbers(struct speech *s, __u8 separator, __u32 fields)
{
	s->line.state = SPEECH_NUMBERS;
	s->line.separator = separator;
	s->line.fields = fields;
	s->line.field = s->line.number = s->line.digits = 0;
}

INLINE void read_port(struct speech *s)
{
	s->line.state = SPEECH_PORT;
	s->line.number = s->line.digits = 0;
}

/* The line is whole, as far as it matters. */
INLINE void said(struct speech *s, __u32 port)
{
	s->said = s->line.kind;
	s->said_family = s->line.family;
	s->said_address = s->line.address;
	s->said_port = port;
	s->line.state = SPEECH_SKIP;
}

INLINE void hear_keyword(struct speech *s, __u8 c)
{
	if (s->line.read < 4) {
		s->line.word = s->line.word << 8 | (s->client ? c | 32 : c);
		s->line.read += 1;
		if (s->client || s->line.read < 4)
			return;
		s->line.state = SPEECH_SKIP;
		if (s->line.word == 0x32323720) { /* 227 */
			s->line.kind = SAID_227;
			s->line.state = SPEECH_SEEK_NUMBER;
		} else if (s->line.word == 0x32323920) { /* 229 */
			s->line.kind = SAID_229;
			s->line.state = SPEECH_SEEK_PARENTHESIS;
		}
		return;
	}
	s->line.state = SPEECH_SKIP;
	if (c != ' ')
		return;
	if (s->line.word == 0x706f7274) { /* port */
		s->line.kind = SAID_PORT;
		read_numbers(s, ',', 6);
	} else if (s->line.word == 0x65707274) { /* eprt */
		s->line.kind = SAID_EPRT;
		s->line.state = SPEECH_DELIMITER;
	}
}

INLINE void hear_numbers(struct speech *s, __u8 c)
{
	if (is_digit(c)) {
		s->line.number = s->line.number * 10 + (c - '0');
		s->line.digits += 1;
		if (s->line.digits > 3 || s->line.number > 255)
			s->line.state = SPEECH_SKIP;
		return;
	}
	if (!s->line.digits) {
		s->line.state = SPEECH_SKIP;
		return;
	}
	s->line.numbers[s->line.field & 7] = s->line.number;
	s->line.field += 1;
	s->line.number = s->line.digits = 0;
	if (c == s->line.separator) {
		if (s->line.field >= s->line.fields)
			s->line.state = SPEECH_SKIP;
		return;
	}
	s->line.state = SPEECH_SKIP;
	if (s->line.field != s->line.fields)
		return;
	s->line.family = 4;
	s->line.address = addr_of4(bpf_htonl((__u32)s->line.numbers[0] << 24 | (__u32)s->line.numbers[1] << 16 |
					(__u32)s->line.numbers[2] << 8 | s->line.numbers[3]));
	if (s->line.kind == SAID_EPRT) {
		if (c == s->line.delimiter)
			read_port(s);
	} else if (s->line.kind == SAID_227 || c == '\r' || c == '\n') {
		said(s, (__u32)s->line.numbers[4] << 8 | s->line.numbers[5]);
	}
}

#define COLON_ONE 1
#define COLON_TWO 2
#define COLON_FIRST 3

/* What is before :: is put where it belongs, and what is behind it against the end. */
INLINE void put_word(struct speech *s)
{
	if (s->line.gap == 8) {
		((__be16 *)&s->line.address)[s->line.groups & 7] = bpf_htons(s->line.number);
	} else {
		s->line.high = s->line.high << 16 | s->line.low >> 48;
		s->line.low = s->line.low << 16 | (s->line.number & 0xffff);
	}
	s->line.groups += 1;
	s->line.number = s->line.digits = 0;
}

INLINE void hear_groups(struct speech *s, __u8 c)
{
	__u8 lower = c | 32;

	if (is_digit(c) || (lower >= 'a' && lower <= 'f')) {
		s->line.number = s->line.number << 4 | (is_digit(c) ? c - '0' : lower - 'a' + 10);
		s->line.digits += 1;
		if (s->line.digits > 4 || s->line.groups >= 8 || s->line.colon == COLON_FIRST)
			s->line.state = SPEECH_SKIP;
		s->line.colon = 0;
		return;
	}
	if (s->line.digits) {
		put_word(s);
		if (c == ':') {
			s->line.colon = COLON_ONE;
			return;
		}
	} else if (c == ':') {
		if (s->line.colon == COLON_ONE && s->line.gap == 8 && s->line.groups < 8) {
			s->line.gap = s->line.groups;
			s->line.colon = COLON_TWO;
		} else if (s->line.colon == COLON_FIRST) {
			s->line.gap = 0;
			s->line.colon = COLON_TWO;
		} else if (!s->line.colon && !s->line.groups) {
			s->line.colon = COLON_FIRST;
		} else {
			s->line.state = SPEECH_SKIP;
		}
		return;
	}
	s->line.state = SPEECH_SKIP;
	if (c != s->line.delimiter || s->line.colon == COLON_ONE || s->line.colon == COLON_FIRST)
		return;
	if (s->line.gap == 8 ? s->line.groups != 8 : s->line.groups > 7)
		return;
	s->line.family = 6;
	s->line.address.w[0] |= bpf_htonl(s->line.high >> 32);
	s->line.address.w[1] |= bpf_htonl(s->line.high);
	s->line.address.w[2] |= bpf_htonl(s->line.low >> 32);
	s->line.address.w[3] |= bpf_htonl(s->line.low);
	read_port(s);
}

INLINE void hear_port(struct speech *s, __u8 c)
{
	if (is_digit(c)) {
		s->line.number = s->line.number * 10 + (c - '0');
		s->line.digits += 1;
		if (s->line.digits > 5)
			s->line.state = SPEECH_SKIP;
		return;
	}
	s->line.state = c == s->line.delimiter && s->line.digits && s->line.number < 65536 ? SPEECH_END : SPEECH_SKIP;
}

INLINE void hear(struct speech *s, __u8 c)
{
	switch (s->line.state) {
	case SPEECH_KEYWORD:
		hear_keyword(s, c);
		break;
	case SPEECH_SEEK_NUMBER:
		if (is_digit(c)) {
			read_numbers(s, ',', 6);
			s->line.number = c - '0';
			s->line.digits = 1;
		}
		break;
	case SPEECH_SEEK_PARENTHESIS:
		if (c == '(')
			s->line.state = SPEECH_DELIMITER;
		break;
	case SPEECH_NUMBERS:
		hear_numbers(s, c);
		break;
	case SPEECH_DELIMITER:
		s->line.delimiter = c;
		s->line.state = !can_delimit(c) ? SPEECH_SKIP : s->line.kind == SAID_229 ? SPEECH_SECOND_DELIMITER : SPEECH_FAMILY;
		break;
	case SPEECH_FAMILY:
		s->line.family = c == '1' ? 4 : 6;
		s->line.state = c == '1' || c == '2' ? SPEECH_BEFORE_ADDRESS : SPEECH_SKIP;
		break;
	case SPEECH_BEFORE_ADDRESS:
		s->line.state = SPEECH_SKIP;
		if (c != s->line.delimiter)
			break;
		if (s->line.family == 4) {
			read_numbers(s, '.', 4);
		} else {
			s->line.state = SPEECH_GROUPS;
			s->line.groups = s->line.number = s->line.digits = s->line.colon = 0;
			s->line.gap = 8;
			s->line.high = s->line.low = 0;
			s->line.address = (struct addr){};
		}
		break;
	case SPEECH_GROUPS:
		hear_groups(s, c);
		break;
	case SPEECH_SECOND_DELIMITER:
		s->line.state = c == s->line.delimiter ? SPEECH_THIRD_DELIMITER : SPEECH_SKIP;
		break;
	case SPEECH_THIRD_DELIMITER:
		s->line.family = 0;
		s->line.state = SPEECH_SKIP;
		if (c == s->line.delimiter)
			read_port(s);
		break;
	case SPEECH_PORT:
		hear_port(s, c);
		break;
	case SPEECH_END:
		s->line.state = SPEECH_SKIP;
		if (s->line.kind == SAID_229 ? c == ')' : c == '\r' || c == '\n')
			said(s, s->line.number);
		break;
	}
}

INLINE void begin_line(struct line *l)
{
	l->state = SPEECH_KEYWORD;
	l->word = l->read = l->bytes = 0;
}

static long hear_byte(__u32 i, void *of)
{
	struct speech *s = speech_of_this_cpu();
	__u8 c;

	(void)of;
	if (!s)
		return 1;
	c = s->text[i & (SPEECH_BYTES - 1)];
	if (s->line.bytes < SPEECH_BYTES)
		hear(s, c);
	s->line.bytes += 1;
	if (c == '\n')
		begin_line(&s->line);
	return 0;
}

/* The line that a segment goes on with, out of its place: 1: it is there. Otherwise a line begins, or nothing is read. */
static __noinline int recall_line(struct flow *f)
{
	struct speech *s = speech_of_this_cpu();
	struct line *l;

	if (!f || !s)
		return 0;
	if (f->speaks == SPEAKS_LINE) {
		begin_line(&s->line);
		return 1;
	}
	l = bpf_map_lookup_elem(&lines, &f->line);
	if (!l)
		return 0;
	s->line = *l;
	in_order();
	/* Of what has been read, and still: another's may be in its element meanwhile. */
	return s->line.next == f->segment.seq && f->now_ns < s->line.expires_ns && keys_equal(&s->line.key, &f->key) &&
	       keys_equal(&l->key, &f->key);
}

/* What is not whole yet waits in its place, in which there may be another's: that one says nothing then. */
static __noinline int keep_line(struct flow *f)
{
	struct speech *s = speech_of_this_cpu();

	if (!f || !s || !s->line.bytes || s->line.bytes > SPEECH_BYTES || f->segment.data_bytes > SPEECH_BYTES)
		return 0;
	s->line.key = f->key;
	s->line.next = f->segment.seq + f->segment.data_bytes;
	s->line.expires_ns = f->now_ns + LINE_LIFE_NS;
	bpf_map_update_elem(&lines, &f->line, &s->line, BPF_ANY);
	return 0;
}

/* What a control connection's segment says, which f is of. A global function: the verifier takes it by itself. */
__noinline int hear_control(struct __sk_buff *skb)
{
	struct flow *f = flow_of_this_cpu();
	struct speech *s = speech_of_this_cpu();
	struct connection *c;
	struct addr *own;
	__u32 length;

	if (!f || !s)
		return 0;
	f->line.port = f->key.port;
	f->line.side = f->side;
	f->line.slot = (bpf_ntohs(f->key.local_port) + bpf_ntohs(f->key.remote_port)) & (LINE_SLOTS - 1);
	if (!recall_line(f))
		return 0;
	length = f->segment.data_bytes;
	if (length > SPEECH_BYTES)
		length = SPEECH_BYTES;
	BOUND(length, SPEECH_BYTES, return 0);
	if (bpf_skb_load_bytes(skb, f->text_at, s->text, length))
		return 0;
	c = bpf_map_lookup_elem(&connections, &f->key);
	if (!c)
		return 0;
	s->client = f->side == c->opener;
	s->said = SAID_NOTHING;
	bpf_loop(length, hear_byte, NULL, 0);
	keep_line(f);
	if (s->said == SAID_NOTHING)
		return 0;
	own = f->side == DIRECTION_FROM_GUEST ? &f->key.local : &f->key.remote;
	if (s->said_family && (s->said_family != (addr_is4(own) ? 4 : 6) || !addr_equal(own, &s->said_address))) {
		count_expected(EXPECTED_OTHER_ADDRESS);
		return 0;
	}
	if (s->said_port < FTP_FIRST_PORT) {
		count_expected(EXPECTED_LOW_PORT);
		return 0;
	}
	return expect(f, s->said_port);
}
