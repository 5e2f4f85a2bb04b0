/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Data connections of FTP: what control connections say of them, and whether one that comes was spoken of. docs/design/conntrack.md;
 * reference/ftp.py and reference/conntrack.py say the same, and tests hold the two together.
 */
#pragma once

#include "expected.h"
#include "security.h"

#define FTP_FIRST_PORT 1024 /* other services' are below it: RFC 2577 section 3 */
#define SPEECH_BYTES 512 /* of a segment's text are read */
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

/* A segment's text, and how far it is read; per CPU, within one run of a program. */
struct speech {
	__u8 text[SPEECH_BYTES];
	__u32 state; /* enum speech_state */
	__u32 kind; /* of the line that is read: enum speech_kind */
	__u32 word; /* how it begins */
	__u32 read; /* bytes of that */
	__u32 client; /* it is the client's */
	__u32 number;
	__u32 digits; /* of number */
	__u32 fields; /* numbers to read, and those that were */
	__u32 field;
	__u32 family;
	__u32 groups; /* of an IPv6 address; where its :: is, or 8; and what came before: a colon, ::, or a colon at its start */
	__u32 gap;
	__u32 colon;
	__u8 separator;
	__u8 delimiter;
	__u8 numbers[8];
	struct addr address;
	__u64 high; /* what is behind :: */
	__u64 low;
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

/* Behind the lock: what a segment of a side that has passed is to the lines of a control connection: 1: it comes next, and
 * begins where a line does. end: what its side had sent before it.
 */
INLINE int comes_next(struct connection *c, __u32 side, const struct flow *f, __u32 end)
{
	__u16 line = LINE << (side & 1);
	bool next = f->segment.seq == end && c->flags & line;

	if (server_port(&f->key, c->opener) != f->ftp_port || c->flags & RELATED)
		return 0;
	if (after(f->segment.seq + f->segment.data_bytes, end)) {
		if (f->ends_line)
			c->flags |= line;
		else
			c->flags &= ~line;
	}
	return next && may_speak(c->state) && !f->piece;
}

/* What opens a connection, and no rule speaks of: whether a control connection has spoken of it; f->rule is that one's.
 * A port that keeps connections keeps that one, but none begins by it without its rule.
 */
static __noinline int is_expected(struct flow *f, const struct guard *g)
{
	struct expectation *e;
	struct connection *c;
	__u32 opener;
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
	c = bpf_map_lookup_elem(&connections, &f->control);
	if (!c || f->now_ns >= c->expires_ns || c->flags & REFUSED || !may_speak(c->state))
		return 0;
	opener = c->opener & 1;
	f->rule = c->rule;
	if (c->epoch != f->epoch) {
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
	c->expected = number;
	if (opener)
		c->flags |= EXPECTED_SIDE;
	else
		c->flags &= ~EXPECTED_SIDE;
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
	s->state = SPEECH_NUMBERS;
	s->separator = separator;
	s->fields = fields;
	s->field = s->number = s->digits = 0;
}

INLINE void read_port(struct speech *s)
{
	s->state = SPEECH_PORT;
	s->number = s->digits = 0;
}

/* The line is whole, as far as it matters. */
INLINE void said(struct speech *s, __u32 port)
{
	s->said = s->kind;
	s->said_family = s->family;
	s->said_address = s->address;
	s->said_port = port;
	s->state = SPEECH_SKIP;
}

INLINE void hear_keyword(struct speech *s, __u8 c)
{
	if (s->read < 4) {
		s->word = s->word << 8 | (s->client ? c | 32 : c);
		s->read += 1;
		if (s->client || s->read < 4)
			return;
		s->state = SPEECH_SKIP;
		if (s->word == 0x32323720) { /* 227 */
			s->kind = SAID_227;
			s->state = SPEECH_SEEK_NUMBER;
		} else if (s->word == 0x32323920) { /* 229 */
			s->kind = SAID_229;
			s->state = SPEECH_SEEK_PARENTHESIS;
		}
		return;
	}
	s->state = SPEECH_SKIP;
	if (c != ' ')
		return;
	if (s->word == 0x706f7274) { /* port */
		s->kind = SAID_PORT;
		read_numbers(s, ',', 6);
	} else if (s->word == 0x65707274) { /* eprt */
		s->kind = SAID_EPRT;
		s->state = SPEECH_DELIMITER;
	}
}

INLINE void hear_numbers(struct speech *s, __u8 c)
{
	if (is_digit(c)) {
		s->number = s->number * 10 + (c - '0');
		s->digits += 1;
		if (s->digits > 3 || s->number > 255)
			s->state = SPEECH_SKIP;
		return;
	}
	if (!s->digits) {
		s->state = SPEECH_SKIP;
		return;
	}
	s->numbers[s->field & 7] = s->number;
	s->field += 1;
	s->number = s->digits = 0;
	if (c == s->separator) {
		if (s->field >= s->fields)
			s->state = SPEECH_SKIP;
		return;
	}
	s->state = SPEECH_SKIP;
	if (s->field != s->fields)
		return;
	s->family = 4;
	s->address = addr_of4(bpf_htonl((__u32)s->numbers[0] << 24 | (__u32)s->numbers[1] << 16 |
					(__u32)s->numbers[2] << 8 | s->numbers[3]));
	if (s->kind == SAID_EPRT) {
		if (c == s->delimiter)
			read_port(s);
	} else if (s->kind == SAID_227 || c == '\r' || c == '\n') {
		said(s, (__u32)s->numbers[4] << 8 | s->numbers[5]);
	}
}

#define COLON_ONE 1
#define COLON_TWO 2
#define COLON_FIRST 3

/* What is before :: is put where it belongs, and what is behind it against the end. */
INLINE void put_word(struct speech *s)
{
	if (s->gap == 8) {
		((__be16 *)&s->address)[s->groups & 7] = bpf_htons(s->number);
	} else {
		s->high = s->high << 16 | s->low >> 48;
		s->low = s->low << 16 | (s->number & 0xffff);
	}
	s->groups += 1;
	s->number = s->digits = 0;
}

INLINE void hear_groups(struct speech *s, __u8 c)
{
	__u8 lower = c | 32;

	if (is_digit(c) || (lower >= 'a' && lower <= 'f')) {
		s->number = s->number << 4 | (is_digit(c) ? c - '0' : lower - 'a' + 10);
		s->digits += 1;
		if (s->digits > 4 || s->groups >= 8 || s->colon == COLON_FIRST)
			s->state = SPEECH_SKIP;
		s->colon = 0;
		return;
	}
	if (s->digits) {
		put_word(s);
		if (c == ':') {
			s->colon = COLON_ONE;
			return;
		}
	} else if (c == ':') {
		if (s->colon == COLON_ONE && s->gap == 8 && s->groups < 8) {
			s->gap = s->groups;
			s->colon = COLON_TWO;
		} else if (s->colon == COLON_FIRST) {
			s->gap = 0;
			s->colon = COLON_TWO;
		} else if (!s->colon && !s->groups) {
			s->colon = COLON_FIRST;
		} else {
			s->state = SPEECH_SKIP;
		}
		return;
	}
	s->state = SPEECH_SKIP;
	if (c != s->delimiter || s->colon == COLON_ONE || s->colon == COLON_FIRST)
		return;
	if (s->gap == 8 ? s->groups != 8 : s->groups > 7)
		return;
	s->family = 6;
	s->address.w[0] |= bpf_htonl(s->high >> 32);
	s->address.w[1] |= bpf_htonl(s->high);
	s->address.w[2] |= bpf_htonl(s->low >> 32);
	s->address.w[3] |= bpf_htonl(s->low);
	read_port(s);
}

INLINE void hear_port(struct speech *s, __u8 c)
{
	if (is_digit(c)) {
		s->number = s->number * 10 + (c - '0');
		s->digits += 1;
		if (s->digits > 5)
			s->state = SPEECH_SKIP;
		return;
	}
	s->state = c == s->delimiter && s->digits && s->number < 65536 ? SPEECH_END : SPEECH_SKIP;
}

INLINE void hear(struct speech *s, __u8 c)
{
	switch (s->state) {
	case SPEECH_KEYWORD:
		hear_keyword(s, c);
		break;
	case SPEECH_SEEK_NUMBER:
		if (is_digit(c)) {
			read_numbers(s, ',', 6);
			s->number = c - '0';
			s->digits = 1;
		}
		break;
	case SPEECH_SEEK_PARENTHESIS:
		if (c == '(')
			s->state = SPEECH_DELIMITER;
		break;
	case SPEECH_NUMBERS:
		hear_numbers(s, c);
		break;
	case SPEECH_DELIMITER:
		s->delimiter = c;
		s->state = !can_delimit(c) ? SPEECH_SKIP : s->kind == SAID_229 ? SPEECH_SECOND_DELIMITER : SPEECH_FAMILY;
		break;
	case SPEECH_FAMILY:
		s->family = c == '1' ? 4 : 6;
		s->state = c == '1' || c == '2' ? SPEECH_BEFORE_ADDRESS : SPEECH_SKIP;
		break;
	case SPEECH_BEFORE_ADDRESS:
		s->state = SPEECH_SKIP;
		if (c != s->delimiter)
			break;
		if (s->family == 4) {
			read_numbers(s, '.', 4);
		} else {
			s->state = SPEECH_GROUPS;
			s->groups = s->number = s->digits = s->colon = 0;
			s->gap = 8;
			s->high = s->low = 0;
			s->address = (struct addr){};
		}
		break;
	case SPEECH_GROUPS:
		hear_groups(s, c);
		break;
	case SPEECH_SECOND_DELIMITER:
		s->state = c == s->delimiter ? SPEECH_THIRD_DELIMITER : SPEECH_SKIP;
		break;
	case SPEECH_THIRD_DELIMITER:
		s->family = 0;
		s->state = SPEECH_SKIP;
		if (c == s->delimiter)
			read_port(s);
		break;
	case SPEECH_PORT:
		hear_port(s, c);
		break;
	case SPEECH_END:
		s->state = SPEECH_SKIP;
		if (s->kind == SAID_229 ? c == ')' : c == '\r' || c == '\n')
			said(s, s->number);
		break;
	}
}

static long hear_byte(__u32 i, void *of)
{
	struct speech *s = speech_of_this_cpu();
	__u8 c;

	(void)of;
	if (!s)
		return 1;
	c = s->text[i & (SPEECH_BYTES - 1)];
	hear(s, c);
	if (c == '\n') {
		s->state = SPEECH_KEYWORD;
		s->word = s->read = 0;
	}
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
	s->state = SPEECH_KEYWORD;
	s->word = s->read = 0;
	s->said = SAID_NOTHING;
	bpf_loop(length, hear_byte, NULL, 0);
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
