/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The connection tracker: which packets of a port belong to a connection that rules have let begin. docs/design/conntrack.md;
 * reference/conntrack.py says the same, and tests hold the two together.
 */
#pragma once

#include "drop.h"
#include "ftp.h"

#define SWEEP_NS 1000000000ULL /* where nobody sweeps, a full table is swept as a connection begins, once in so long */
#define AGENT_SWEEPS_NS 15000000000ULL /* an agent that has swept does so again within so long */
#define DATAGRAM_LIFE_NS 30000000000ULL

/* What became of a connection, for whoever listens. A reader that does not keep up misses some: first those of whose tenant has most. */
static __noinline int tell(struct flow *f, const struct connection_key *key, struct connection *c, __u32 what)
{
	struct tracking *t = tracking_of_host();

	if (!f || !key || !c || !t || !(t->flags & TRACKING_EVENTS))
		return 0;
	f->event.key = *key;
	f->event.what = what;
	f->event.state = c->state;
	f->event.opener = c->opener;
	f->event.rule = c->rule;
	f->event.packets[0] = c->packets[0];
	f->event.packets[1] = c->packets[1];
	f->event.bytes[0] = c->bytes[0];
	f->event.bytes[1] = c->bytes[1];
	put_event(f);
	return 0;
}

/* Of what a port's guest begins, and of what others do: one is no room for the other. */
INLINE __u64 quota_of(__u64 port, __u32 charged)
{
	return (port & ~1ULL) | (charged & CHARGED_TO_OTHERS ? 1 : 0);
}

/* Where in peers whoever is at the other end is counted: by the port that policy places it at, whatever addresses it has, or that
 * the way to it leads by; where policy knows none, by its address. Never 0. Of keys that nobody knows a sum of products, of which the
 * highest bits count (multiply-shift hashing): two fall together once in so many places, whatever they choose.
 */
static __noinline __u32 peer_of(struct flow *f)
{
	struct tracked *t = tracked_of_host();
	struct record *record;
	struct subnet *subnet;
	struct route *r;
	__u32 words[4] = {}, vsid, place;
	__u64 sum;
	int i;

	if (!f || !t)
		return 1;
	if (!t->keys[0])
#pragma unroll
		for (i = 0; i < PEER_KEYS; i++)
			t->keys[i] = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32() | 1;
	vsid = f->vsid;
	f->member.vsid = vsid;
	f->member.ca = f->remote;
	record = bpf_map_lookup_elem(&records, &f->member);
	if (!record && !is_link_local(&f->remote)) {
		subnet = subnet_of(vsid);
		r = subnet ? route_of(subnet, &f->remote) : NULL;
		if (r) {
			f->member.vsid = r->vsid;
			if (r->via)
				f->member.ca = r->next_hop;
			record = bpf_map_lookup_elem(&records, &f->member);
			if (record)
				vsid = r->vsid;
		}
	}
	if (record)
		__builtin_memcpy(words, record->mac, 6);
	else
		__builtin_memcpy(words, &f->remote, sizeof(words));
	sum = t->keys[4] * vsid;
#pragma unroll
	for (i = 0; i < 4; i++)
		sum += t->keys[i] * words[i];
	place = sum >> 49;
	return place ? place : 1;
}

/* One connection of a port less. charged: as in struct connection. */
static __noinline int give_room(__u64 port, __u32 charged)
{
	struct tracking *limits = tracking_of_host();
	struct tracked *t = tracked_of_host();
	__u64 key = quota_of(port, charged);
	struct quota *quota = bpf_map_lookup_elem(&quotas, &key);
	__u32 number = charged & (PEER_PLACES - 1), *of_peer = bpf_map_lookup_elem(&peers, &number);
	struct tenant *tenant;

	if (number && of_peer)
		__sync_fetch_and_add(of_peer, -1);
	if (!limits || !t || !quota)
		return 0;
	number = quota->tenant;
	if (__sync_fetch_and_add(&quota->used, -1) <= limits->own_of_port)
		return 0;
	__sync_fetch_and_add(&t->beyond, -1);
	tenant = bpf_map_lookup_elem(&tenants, &number);
	if (tenant)
		__sync_fetch_and_add(&tenant->beyond, -1);
	return 0;
}

/* Of what is nobody's own, one more for a tenant: 0, or why not. */
static __noinline int take_beyond(__u32 of)
{
	struct tracking *limits = tracking_of_host();
	struct tracked *t = tracked_of_host();
	struct tenant *tenant = tenant_at(&of);

	if (!limits || !t)
		return DROP_CONNECTION_TABLE_FULL;
	if (!tenant) {
		__sync_fetch_and_add(&t->beyond, 1); /* which who gives takes back */
		return DROP_CONNECTION_TABLE_FULL;
	}
	switch (take_share(&t->beyond, &tenant->beyond, limits->most)) {
	case 0:
		return 0;
	case SHARE_USED_UP:
		return DROP_CONNECTION_LIMIT;
	}
	return DROP_CONNECTION_TABLE_FULL;
}

/* One more, of who is in f->fresh.charged, if there is room: 0, or why not. */
static __noinline int take_room(struct flow *f)
{
	struct tracking *limits = tracking_of_host();
	struct quota *quota, none = {};
	__u32 place, *of_peer, of_other = 0;
	__u64 key, used;
	int why = 0;

	if (!f || !limits)
		return DROP_CONNECTION_TABLE_FULL;
	key = quota_of(f->key.port, f->fresh.charged);
	quota = bpf_map_lookup_elem(&quotas, &key);
	if (!quota) {
		none.tenant = f->tenant;
		bpf_map_update_elem(&quotas, &key, &none, BPF_NOEXIST);
		quota = bpf_map_lookup_elem(&quotas, &key);
		if (!quota)
			return DROP_CONNECTION_TABLE_FULL;
	}
	place = f->fresh.charged & (PEER_PLACES - 1);
	of_peer = bpf_map_lookup_elem(&peers, &place);
	if (place && of_peer)
		of_other = __sync_fetch_and_add(of_peer, 1);
	used = __sync_fetch_and_add(&quota->used, 1);
	if (used >= limits->own_of_port)
		why = take_beyond(quota->tenant);
	/* Twice as many of others: whatever one guest begins, with however many ports here, each has room for others'. */
	if (used >= (__u64)limits->most_of_port << (f->fresh.charged & CHARGED_TO_OTHERS ? 1 : 0) ||
	    (place && of_other >= limits->most_of_port))
		why = DROP_CONNECTION_LIMIT;
	if (why)
		give_room(f->key.port, f->fresh.charged);
	return why;
}

/* Out of the table, if it is (still) there. It is nobody's before its element can be another's, so that runs that have found it
 * do neither believe what they read there then, nor write to it.
 */
static __noinline int forget(struct flow *f, const struct connection_key *key)
{
	struct connection *c;
	__u32 charged, is_there;

	if (!f || !key)
		return 0;
	c = bpf_map_lookup_elem(&connections, key);
	if (!c)
		return 0;
	unexpect(f, key, c);
	tell(f, key, c, EVENT_DESTROYED);
	bpf_spin_lock(&c->lock);
	is_there = is_of(&c->tag, key);
	charged = c->charged;
	if (is_there)
		*(volatile __u64 *)&c->tag.port = 0;
	bpf_spin_unlock(&c->lock);
	if (!is_there || bpf_map_delete_elem(&connections, key))
		return 0;
	give_room(key->port, charged);
	return 1;
}

static long forget_expired(void *map, struct connection_key *key, struct connection *c, struct flow **of)
{
	struct flow *f = flow_of_this_cpu();

	(void)map;
	(void)of;
	if (!f)
		return 1;
	if (f->now_ns >= c->expires_ns) {
		f->swept = *key;
		forget(f, &f->swept);
	}
	return 0;
}

/* All that has expired, once in a while, unless an agent sees to that: a packet would wait for it, and those behind it; 1: it was
 * looked.
 */
static __noinline int sweep(struct flow *f)
{
	struct tracked *t = tracked_of_host();
	__u64 last;

	if (!f || !t)
		return 0;
	last = t->swept_ns;
	if (f->now_ns < last + SWEEP_NS || __sync_val_compare_and_swap(&t->swept_ns, last, f->now_ns) != last)
		return 0;
	bpf_for_each_map_elem(&connections, forget_expired, NULL, 0);
	return 1;
}

/* Whether a packet can be a connection's first. */
INLINE bool opens(const struct flow *f)
{
	if (f->kind == FLOW_TCP)
		return is_opening(&f->segment);
	if (f->kind == FLOW_SCTP)
		return f->chunk == SCTP_INIT && !f->tag;
	return f->kind != FLOW_ANSWER;
}

/* Whether a connection that is under way can be made out of it. */
INLINE bool is_under_way(const struct flow *f)
{
	return f->kind == FLOW_TCP && !(f->segment.flags & (TCP_SYN | TCP_RST));
}

INLINE __u8 first_state(__u32 kind)
{
	switch (kind) {
	case FLOW_TCP:
		return STATE_SYN_SENT;
	case FLOW_UDP:
		return STATE_UDP_UNREPLIED;
	case FLOW_SCTP:
		return STATE_SCTP_OPENING;
	case FLOW_QUERY:
		return STATE_ICMP_UNREPLIED;
	}
	return STATE_OTHER_UNREPLIED;
}

/* The connection that a flow's first packet makes, into f->fresh. */
static __noinline int make_fresh(struct flow *f)
{
	struct tracking *t = tracking_of_host();
	struct half *me, *them;
	__u32 side;

	if (!f || !t)
		return 0;
	side = f->side & 1;
	__builtin_memset(&f->fresh, 0, sizeof(f->fresh));
	put_owner(&f->fresh.tag, &f->key);
	f->fresh.state = first_state(f->kind);
	f->fresh.opener = side;
	f->fresh.flags = f->related;
	f->fresh.control = f->control_port;
	f->fresh.began_ns = f->now_ns;
	f->fresh.expires_ns = f->now_ns + t->timeouts_ns[f->fresh.state & (STATES - 1)];
	f->fresh.code = f->code;
	f->fresh.epoch = f->epoch;
	f->fresh.rule = f->rule;
	if (opens(f)) {
		f->fresh.packets[side] = 1;
		f->fresh.bytes[side] = f->length;
	}
	/* What the guest begins here, while it is on its way here, is known from its beginning. */
	if (f->arriving && (side || !opens(f)))
		f->fresh.flags |= MOVED;
	me = &f->fresh.halves[side];
	them = &f->fresh.halves[!side];
	if (f->kind == FLOW_TCP) {
		f->fresh.scale[0] = f->fresh.scale[1] = NO_SCALE;
		f->fresh.scale[side] = f->segment.scale;
		me->end = f->segment.end;
		me->edge = f->segment.seq;
		me->window = at_least_one(f->segment.window);
		them->window = 1;
	} else if (f->kind == FLOW_SCTP) {
		me->end = f->initiate;
	}
	return 0;
}

/* In place of one that is over: 1; or 0: its element is another's. */
static __noinline int renew(struct connection *c, const struct flow *f)
{
	if (!c || !f)
		return 0;
	bpf_spin_lock(&c->lock);
	if (!is_of(&c->tag, &f->key)) {
		bpf_spin_unlock(&c->lock);
		return 0;
	}
	c->state = f->fresh.state;
	c->opener = f->fresh.opener;
	c->flags = f->fresh.flags;
	c->expected = f->fresh.expected;
	c->control = f->fresh.control;
	c->expires_ns = f->fresh.expires_ns;
	c->began_ns = f->fresh.began_ns;
	c->packets[0] = f->fresh.packets[0];
	c->packets[1] = f->fresh.packets[1];
	c->bytes[0] = f->fresh.bytes[0];
	c->bytes[1] = f->fresh.bytes[1];
	c->halves[0] = f->fresh.halves[0];
	c->halves[1] = f->fresh.halves[1];
	c->epoch = f->fresh.epoch;
	c->rule = f->fresh.rule;
	c->code = f->fresh.code;
	c->scale[0] = f->fresh.scale[0];
	c->scale[1] = f->fresh.scale[1];
	c->pending_end = f->fresh.pending_end;
	c->pending_window = f->fresh.pending_window;
	c->pending_scale = f->fresh.pending_scale;
	bpf_spin_unlock(&c->lock);
	return 1;
}

/* A connection that rules let begin; c: one with its key that is over, or NULL. 0, or why there is none. */
static __noinline int insert(struct flow *f, struct connection *c)
{
	int why;

	if (!f)
		return DROP_CONNECTION_TABLE_FULL;
	make_fresh(f);
	if (c) {
		unexpect(f, &f->key, c);
		tell(f, &f->key, c, EVENT_DESTROYED);
		if (renew(c, f)) {
			tell(f, &f->key, c, EVENT_NEW);
			return 0;
		}
	}
	if (f->side & 1)
		f->fresh.charged = CHARGED_TO_OTHERS | peer_of(f);
	why = take_room(f);
	if (why && sweep(f))
		why = take_room(f);
	if (why)
		return why;
	if (bpf_map_update_elem(&connections, &f->key, &f->fresh, BPF_NOEXIST)) {
		/* Another CPU may have been quicker with the same. */
		give_room(f->key.port, f->fresh.charged);
		return bpf_map_lookup_elem(&connections, &f->key) ? 0 : DROP_CONNECTION_TABLE_FULL;
	}
	c = bpf_map_lookup_elem(&connections, &f->key);
	if (c)
		tell(f, &f->key, c, EVENT_NEW);
	return 0;
}

/* Rules have changed since: may it still begin as it did? */
static __noinline int ask_again(struct flow *f, const struct guard *g, struct connection *c)
{
	__u16 number;
	__u8 numbered;
	__u32 opener;
	__u64 first;
	int allows;

	if (!f || !g || !c)
		return 0;
	first = first_look(c);
	number = f->number;
	numbered = f->numbered;
	opener = c->opener & 1;
	/* Of a packet that quotes another these are not the connection's. */
	f->remote = f->key.remote;
	f->protocol = f->key.protocol;
	f->numbered = 1;
	if (c->state == STATE_ICMP_UNREPLIED || c->state == STATE_ICMP_REPLIED)
		f->number = bpf_ntohs(f->key.remote_port) << 8 | c->code;
	else if (c->state == STATE_OTHER_UNREPLIED || c->state == STATE_OTHER_REPLIED)
		f->numbered = 0;
	else
		f->number = bpf_ntohs(opener == DIRECTION_FROM_GUEST ? f->key.remote_port : f->key.local_port);
	allows = rules_say(f, g, opener);
	if (!allows && !f->rule && c->flags & RELATED) {
		/* Then what of its control connection? */
		f->number = bpf_ntohs(c->control);
		allows = rules_say(f, g, c->flags & CONTROL_SIDE ? DIRECTION_TO_GUEST : DIRECTION_FROM_GUEST);
	}
	f->number = number;
	f->numbered = numbered;
	bpf_spin_lock(&c->lock);
	if (c->tag.ends == first && is_of(&c->tag, &f->key)) {
		c->rule = f->rule;
		if (allows)
			c->flags &= ~REFUSED;
		else
			c->flags |= REFUSED;
		/* Last: the fast way, which takes no lock, looks at flags once the epoch is that of the rules. */
		__sync_lock_test_and_set(&c->epoch, f->epoch);
	}
	bpf_spin_unlock(&c->lock);
	return 0;
}

/* Rules have changed since it was held against them last: what outlives them is not, and is of theirs as well from here on. */
static __noinline int hold_against(struct flow *f, const struct guard *g, struct connection *c)
{
	__u32 former;

	if (!f || !g || !c)
		return 0;
	former = *(volatile __u32 *)&c->epoch;
	if (!(g->flags & GUARD_KEEP) || c->flags & REFUSED || former == EPOCH_TAKEN)
		return ask_again(f, g, c);
	/* Unless somebody else has been here: what has come from another host meanwhile is to be asked of. */
	bpf_spin_lock(&c->lock);
	if (is_of(&c->tag, &f->key) && c->epoch == former)
		c->epoch = f->epoch;
	bpf_spin_unlock(&c->lock);
	return 0;
}

/* Tags are all that is looked at: who does not know them can neither open nor close (RFC 9260 section 8.5). */
INLINE enum step sctp_step(struct connection *c, __u32 side, const struct flow *f)
{
	struct half *me = &c->halves[side & 1], *them = &c->halves[!(side & 1)];
	__u32 expected = them->end;

	if (f->chunk == SCTP_INIT) {
		if (f->tag || (side != c->opener && c->state != STATE_SCTP_CLOSING))
			return STEP_INVALID;
		if (c->state != STATE_SCTP_OPENING)
			return STEP_ASK;
		/* Said again, it changes nothing: an answer to the first may be under way. */
		if (me->end != f->initiate)
			them->end = them->edge = 0;
		me->end = f->initiate;
		return STEP_PASS;
	}
	/* By what waits (wait_for_answer) an end that has forgotten begins anew: only who knows both its tags ends what there is. */
	if (f->tag && f->tag == them->edge && f->tag != them->end) {
		if (side == c->opener) {
			if (f->chunk != SCTP_COOKIE_ECHO)
				return STEP_INVALID;
			if (c->state != STATE_SCTP_OPENING)
				return STEP_QUIET;
			them->end = f->tag; /* of two answers to an INIT that was said twice it takes the second */
			return STEP_PASS;
		}
		if (f->chunk == SCTP_INIT_ACK) {
			me->edge = f->initiate;
			return STEP_QUIET;
		}
		if (f->chunk == SCTP_ABORT)
			return STEP_QUIET;
		if (f->chunk != SCTP_COOKIE_ACK || !me->edge)
			return STEP_INVALID;
		them->end = f->tag;
		me->end = me->edge;
		them->edge = me->edge = 0;
		c->state = STATE_SCTP_ESTABLISHED;
		return STEP_PASS;
	}
	/* The T bit: who does not know the other's tag gives its own back. */
	if ((f->chunk == SCTP_ABORT || f->chunk == SCTP_SHUTDOWN_COMPLETE) && me->end && f->tag == me->end)
		expected = f->tag;
	if (!expected || f->tag != expected)
		return STEP_INVALID;
	if (f->chunk == SCTP_INIT_ACK) {
		if (side == c->opener || c->state != STATE_SCTP_OPENING)
			return STEP_INVALID;
		if (me->end)
			me->edge = f->initiate;
		else
			me->end = f->initiate;
	} else if (f->chunk == SCTP_ABORT || f->chunk == SCTP_SHUTDOWN || f->chunk == SCTP_SHUTDOWN_ACK ||
		   f->chunk == SCTP_SHUTDOWN_COMPLETE) {
		c->state = STATE_SCTP_CLOSING;
	} else if (f->chunk == SCTP_COOKIE_ACK && c->state == STATE_SCTP_OPENING) {
		c->state = STATE_SCTP_ESTABLISHED;
	}
	return STEP_PASS;
}

INLINE enum step step_of(struct connection *c, __u32 side, const struct flow *f)
{
	if (f->kind == FLOW_TCP)
		return tcp_step(c, side, &f->segment);
	if (f->kind == FLOW_SCTP)
		return sctp_step(c, side, f);
	if (f->kind == FLOW_ANSWER && side == c->opener)
		return STEP_INVALID;
	if (f->kind != FLOW_QUERY && side != c->opener) {
		if (c->state == STATE_UDP_UNREPLIED)
			c->state = STATE_UDP_REPLIED;
		else if (c->state == STATE_ICMP_UNREPLIED)
			c->state = STATE_ICMP_REPLIED;
		else if (c->state == STATE_OTHER_UNREPLIED)
			c->state = STATE_OTHER_REPLIED;
	}
	return STEP_PASS;
}

INLINE bool is_established(__u8 state)
{
	return state == STATE_ESTABLISHED || state == STATE_UDP_REPLIED || state == STATE_ICMP_REPLIED ||
	       state == STATE_SCTP_ESTABLISHED || state == STATE_OTHER_REPLIED;
}

#define STEP_ESTABLISHES 16 /* beside a step: told for the first time */
#define STEP_REFUSED 4
#define STEP_SPEAKS 5 /* beside a step, shifted by that: SPEAKS_*, of a control connection's lines, which are to be heard */

/* One packet of a connection. */
static __noinline int advance(struct connection *c, const struct flow *f, const struct tracking *t)
{
	__u32 side, step, end;

	if (!c || !f || !t)
		return STEP_INVALID;
	side = f->side & 1;
	bpf_spin_lock(&c->lock);
	if (!is_of(&c->tag, &f->key)) {
		step = STEP_INVALID; /* it has just been forgotten */
	} else if (c->flags & REFUSED) {
		step = STEP_REFUSED;
	} else {
		end = c->halves[side].end;
		step = step_of(c, side, f);
		if (step == STEP_PASS)
			c->expires_ns = f->now_ns + t->timeouts_ns[c->state & (STATES - 1)];
		if (step == STEP_PASS || step == STEP_QUIET) {
			c->packets[side] += 1;
			c->bytes[side] += f->length;
			if (!(c->flags & TOLD) && is_established(c->state)) {
				c->flags |= TOLD;
				step |= STEP_ESTABLISHES;
			}
			if (f->kind == FLOW_TCP && f->listens && !(step & STEP_QUIET))
				step |= comes_next(c, side, f, end) << STEP_SPEAKS;
		}
	}
	bpf_spin_unlock(&c->lock);
	return step;
}

/* A SYN or an INIT that rules let pass, within a connection that is there: its other end may answer it. */
static __noinline int wait_for_answer(struct connection *c, const struct flow *f)
{
	__u32 side;

	if (!c || !f)
		return 0;
	side = f->side & 1;
	bpf_spin_lock(&c->lock);
	if (!is_of(&c->tag, &f->key)) {
		bpf_spin_unlock(&c->lock);
		return 0;
	}
	if (f->kind == FLOW_SCTP) {
		c->halves[side].edge = f->initiate;
		c->halves[!side].edge = 0;
	} else {
		c->flags &= ~PENDING_SIDE;
		c->flags |= PENDING | (side ? PENDING_SIDE : 0);
		c->pending_end = f->segment.end;
		c->pending_window = f->segment.window;
		c->pending_scale = f->segment.scale;
	}
	c->packets[side] += 1;
	c->bytes[side] += f->length;
	bpf_spin_unlock(&c->lock);
	return 0;
}

/* Whether what an error tells of was of a connection that rules let be: it went the other way. */
static __noinline int is_of_connection(const struct flow *f, struct connection *c)
{
	struct half *sender, *receiver;
	__u32 side, reach;

	if (!f || !c || c->flags & REFUSED)
		return 0;
	if (f->key.protocol != IPPROTO_TCP && f->key.protocol != IPPROTO_SCTP_)
		return 1;
	side = !(f->side & 1);
	sender = &c->halves[side & 1];
	receiver = &c->halves[!side];
	/* RFC 9260 section 10: with the other's tag in it; an INIT has none. */
	if (f->key.protocol == IPPROTO_SCTP_)
		return f->segment.seq == receiver->end || (!f->segment.seq && c->state == STATE_SCTP_OPENING);
	/* RFC 5927 section 4.1: of what is under way, and nothing else. */
	reach = receiver->window > LATE_BYTES ? receiver->window : LATE_BYTES;
	return !after(f->segment.seq, sender->end) && !before(f->segment.seq, sender->end - reach);
}

/* Whether a connection may begin with it. */
INLINE int may_begin(struct flow *f, const struct guard *g)
{
	if (!f || !g)
		return 0;
	if (rules_say(f, g, f->side))
		return 1;
	/* What a rule denies, nobody expects; nor whom rules do not know. */
	return !f->found && is_expected(f, g);
}

/* One that is a packet by itself, or the first fragment of one: 0, or why it does not pass. */
static __noinline int judge(struct flow *f, const struct guard *g)
{
	struct tracking *t = tracking_of_host();
	struct connection *c;
	__u64 first;
	int step;

	if (!f || !g || !t)
		return DROP_SECURITY_GROUP;
	if (f->kind == FLOW_MESSAGE || g->flags & GUARD_STATELESS)
		return rules_say(f, g, f->side) ? 0 : DROP_SECURITY_GROUP;
	if (f->kind == FLOW_ERROR && !f->quoted)
		return DROP_CONNECTION_INVALID;
	c = bpf_map_lookup_elem(&connections, &f->key);
	if (f->kind == FLOW_ERROR && (!c || f->now_ns >= c->expires_ns))
		return DROP_CONNECTION_INVALID;
	if (!c || f->now_ns >= c->expires_ns) {
		bool first = opens(f);

		if (!may_begin(f, g))
			return DROP_SECURITY_GROUP;
		if (!first && (!f->arriving || !is_under_way(f)))
			return DROP_CONNECTION_INVALID;
		step = insert(f, c);
		if (step || first)
			return step;
		c = bpf_map_lookup_elem(&connections, &f->key);
		if (!c)
			return DROP_CONNECTION_TABLE_FULL;
	}
	if (*(volatile __u32 *)&c->epoch != f->epoch)
		hold_against(f, g, c);
	if (f->kind == FLOW_ERROR) {
		f->protocol = addr_is4(&f->key.remote) ? IPPROTO_ICMP : IPPROTO_ICMPV6;
		first = first_look(c);
		step = is_of_connection(f, c);
		return was_of(c, &f->key, first) && step ? 0 : DROP_CONNECTION_INVALID;
	}
	step = advance(c, f, t);
	f->speaks = step >> STEP_SPEAKS;
	step &= (1 << STEP_SPEAKS) - 1;
	if (step == STEP_PASS || step == STEP_QUIET)
		return 0;
	if (step & STEP_ESTABLISHES) {
		tell(f, &f->key, c, EVENT_ESTABLISHED);
		return 0;
	}
	if (step == STEP_REFUSED) {
		f->rule = c->rule;
		return DROP_SECURITY_GROUP;
	}
	if (step != STEP_ASK)
		return DROP_CONNECTION_INVALID;
	if (c->state == STATE_TIME_WAIT || c->state == STATE_CLOSED || c->state == STATE_SCTP_CLOSING)
		return may_begin(f, g) ? insert(f, c) : DROP_SECURITY_GROUP;
	if (!rules_say(f, g, f->side))
		return DROP_SECURITY_GROUP;
	wait_for_answer(c, f);
	return 0;
}

INLINE bool is_datagram(const struct datagram *d, const struct flow *f, const struct packet *p)
{
	return f->now_ns < d->expires_ns && d->identity == f->identity && d->protocol == f->carries &&
	       d->port == f->key.port && d->side == f->side && addr_equal(&d->source, &p->source) &&
	       addr_equal(&d->destination, &p->destination);
}

/* The place of a fragment's datagram; NULL: it is another's, or nobody's. */
static __noinline struct datagram *datagram_of(struct flow *f, const struct packet *p)
{
	struct datagram *d;
	__u32 i;

	if (!f || !p)
		return NULL;
	i = f->identity;
	f->place.port = f->key.port;
	f->place.side = f->side;
	f->place.slot = (i ^ i >> 8 ^ i >> 16 ^ i >> 24) & (DATAGRAM_SLOTS - 1);
	d = bpf_map_lookup_elem(&datagrams, &f->place);
	return d && is_datagram(d, f, p) ? d : NULL;
}

/* Of numbers below 2^16, as 0 or 1, and without a branch: eight pieces would be too many ways for the verifier. */
INLINE __u32 is_less(__u32 a, __u32 b)
{
	__u32 less = a - b;

	asm volatile("" : "+r"(less));
	return less >> 31;
}

INLINE __u32 is_equal(__u32 a, __u32 b)
{
	return 1 - is_less(0, a ^ b);
}

INLINE __u32 is_whole(const struct datagram *d)
{
	__u32 pieces = 0, whole = 0;
	int i;

#pragma unroll
	for (i = 0; i < DATAGRAM_PIECES; i++) {
		__u32 begin = d->pieces[i].begin, end = d->pieces[i].end, there = is_less(0, end);

		pieces += there;
		whole |= there & is_equal(begin, 0) & is_equal(end, d->total);
	}
	return whole & is_equal(pieces, 1);
}

#define PIECE_FITS 0
#define PIECE_UNKNOWN 1
#define PIECE_OVERLAPS 2

/* Behind the lock: where a piece goes, joined with those that it touches. The loops stay loops: the stack has no room for all pieces. */
INLINE int put_piece(struct datagram *d, __u32 begin, __u32 end, bool last)
{
	__u32 joined_begin = begin, joined_end = end, overlaps = 0, room = 0, placed = 0;
	int i;

	if (is_whole(d))
		return PIECE_UNKNOWN;
	if (d->spoilt)
		return PIECE_OVERLAPS;
#pragma clang loop unroll(disable)
	for (i = 0; i < DATAGRAM_PIECES; i++) {
		__u32 from = d->pieces[i].begin, to = d->pieces[i].end, there = is_less(0, to);

		overlaps |= there & is_less(begin, to) & is_less(from, end);
		room |= (1 - there) | is_equal(to, begin) | is_equal(from, end);
	}
	if (overlaps || !room) {
		d->spoilt = 1;
		return PIECE_OVERLAPS;
	}
	if (last)
		d->total = end;
#pragma clang loop unroll(disable)
	for (i = 0; i < DATAGRAM_PIECES; i++) {
		__u32 from = d->pieces[i].begin, to = d->pieces[i].end, there = is_less(0, to);
		__u32 before = there & is_equal(to, begin), behind = there & is_equal(from, end);
		__u32 stays = 1 - (before | behind);

		joined_begin += before * (from - begin);
		joined_end += behind * (to - end);
		d->pieces[i].begin = from * stays;
		d->pieces[i].end = to * stays;
	}
#pragma clang loop unroll(disable)
	for (i = 0; i < DATAGRAM_PIECES; i++) {
		__u32 from = d->pieces[i].begin, to = d->pieces[i].end, here = (1 - is_less(0, to)) & (1 - placed);

		d->pieces[i].begin = from + here * joined_begin;
		d->pieces[i].end = to + here * joined_end;
		placed |= here;
	}
	return PIECE_FITS;
}

/* A later fragment: what became of its first becomes of it, whose connection is in f->key then, and its sequence number in
 * f->segment: 0, or why it does not pass.
 */
static __noinline int join(struct flow *f, const struct packet *p, struct datagram *d)
{
	int fate = PIECE_UNKNOWN;

	if (!f || !p || !d)
		return DROP_UNKNOWN_FRAGMENT;
	bpf_spin_lock(&d->lock);
	if (is_datagram(d, f, p)) {
		fate = put_piece(d, f->begin, f->end, f->last);
		f->key.local_port = f->side == DIRECTION_FROM_GUEST ? d->source_port : d->destination_port;
		f->key.remote_port = f->side == DIRECTION_FROM_GUEST ? d->destination_port : d->source_port;
		f->key.protocol = d->transport;
		f->segment.seq = d->number;
	}
	bpf_spin_unlock(&d->lock);
	if (fate)
		return fate == PIECE_OVERLAPS ? DROP_FRAGMENT_OVERLAP : DROP_UNKNOWN_FRAGMENT;
	return 0;
}

/* It has passed. */
static __noinline int follow(struct flow *f)
{
	struct connection *c;

	if (!f)
		return 0;
	c = bpf_map_lookup_elem(&connections, &f->key);
	if (c) {
		__u32 side = f->side & 1, end = f->segment.seq + f->end;

		bpf_spin_lock(&c->lock);
		if (is_of(&c->tag, &f->key)) {
			c->packets[side] += 1;
			c->bytes[side] += f->length;
			if (f->key.protocol == IPPROTO_TCP)
				tcp_stretch(c, side, end);
		}
		bpf_spin_unlock(&c->lock);
	}
	return 0;
}

INLINE void put_datagram(struct datagram *to, const struct datagram *d)
{
	to->identity = d->identity;
	to->source = d->source;
	to->destination = d->destination;
	to->expires_ns = d->expires_ns;
	to->number = d->number;
	to->source_port = d->source_port;
	to->destination_port = d->destination_port;
	to->total = d->total;
	to->protocol = d->protocol;
	to->spoilt = 0;
	__builtin_memcpy(to->pieces, d->pieces, sizeof(to->pieces));
	to->transport = d->transport;
}

/* Another first fragment of one that is not whole: nobody's are put together from here on. */
static __noinline int spoil(struct flow *f, const struct packet *p, struct datagram *d)
{
	if (!f || !p || !d)
		return 0;
	bpf_spin_lock(&d->lock);
	if (is_datagram(d, f, p))
		d->spoilt = 1;
	bpf_spin_unlock(&d->lock);
	return 0;
}

/* A first fragment has passed. Its place stays where it is: what the kernel would free here might be another port's at once. */
static __noinline int remember_first(struct flow *f, const struct packet *p)
{
	struct datagram d = {}, *there;

	if (!f || !p)
		return 0;
	d.port = f->key.port;
	d.side = f->side;
	d.identity = f->identity;
	d.source = p->source;
	d.destination = p->destination;
	d.protocol = f->carries;
	d.transport = f->protocol;
	d.expires_ns = f->now_ns + DATAGRAM_LIFE_NS;
	d.number = f->kind == FLOW_TCP ? f->segment.end - f->end : 0;
	d.source_port = f->side == DIRECTION_FROM_GUEST ? f->key.local_port : f->key.remote_port;
	d.destination_port = f->side == DIRECTION_FROM_GUEST ? f->key.remote_port : f->key.local_port;
	d.total = f->last ? f->end : 0;
	d.pieces[0].begin = 0;
	d.pieces[0].end = f->end;
	there = bpf_map_lookup_elem(&datagrams, &f->place);
	if (!there) {
		bpf_map_update_elem(&datagrams, &f->place, &d, BPF_NOEXIST);
		return 0;
	}
	bpf_spin_lock(&there->lock);
	if (there->port == d.port && there->side == d.side)
		put_datagram(there, &d);
	bpf_spin_unlock(&there->lock);
	return 0;
}

/* A control connection has said that another will come. */
INLINE void tell_expects(struct flow *f)
{
	struct connection *c = bpf_map_lookup_elem(&connections, &f->key);

	if (c)
		tell(f, &f->key, c, EVENT_EXPECTS);
}

INLINE int track(struct __sk_buff *skb, const struct packet *p, struct flow *f, const struct tracking *t,
		 const struct guard *g, __u32 direction)
{
	struct datagram *d;
	int why;

	f->side = direction & 1;
	f->vsid = g->vsid;
	f->key.port = g->port;
	f->tenant = g->tenant;
	f->arriving = g->flags & GUARD_ARRIVING;
	f->now_ns = t->clock_ns ? t->clock_ns : bpf_ktime_get_coarse_ns();
	f->ftp_port = t->ftp_port;
	f->control_port = 0;
	f->related = 0;
	f->speaks = 0;
	if (read_flow(skb, p, f))
		return DROP_CONNECTION_INVALID;
	if (f->piece) {
		d = datagram_of(f, p);
		if (f->kind == FLOW_LATER) {
			why = join(f, p, d);
			return why ? why : follow(f);
		}
		if (d && !is_whole(d)) {
			spoil(f, p, d);
			return DROP_FRAGMENT_OVERLAP;
		}
	}
	why = judge(f, g);
	if (!why && f->piece)
		remember_first(f, p);
	else if (!why && f->speaks && hear_control(skb))
		tell_expects(f);
	return why;
}

/* The packet of the port at a seat, in a direction: 0: it passes; or why it does not. */
INLINE int guarded(struct __sk_buff *skb, const struct packet *p, seat at, __u32 direction)
{
	struct flow *f = flow_of_this_cpu();
	struct tracking *t = tracking_of_host();
	struct guard *g;
	int why;

	if (!f || !p || !t)
		return DROP_SECURITY_GROUP;
	/* Before the guard, and all that it names: no connection is of an epoch before whose rules it has begun. */
	f->epoch = *(volatile __u32 *)&t->epoch;
	in_order();
	g = bpf_map_lookup_elem(&guards, &at);
	if (!g)
		return DROP_SECURITY_GROUP;
	why = track(skb, p, f, t, g, direction);
	/* Of a copy for a guest that is on the other host, these say only that this host does not know as much. */
	if (why && direction == DIRECTION_TO_GUEST && g->flags & (GUARD_ARRIVING | GUARD_LEAVING) &&
	    (why == DROP_SECURITY_GROUP || why == DROP_CONNECTION_INVALID || why == DROP_UNKNOWN_FRAGMENT))
		return DROP_MOVING;
	if (why == DROP_SECURITY_GROUP)
		count_denial(f, packets_in(skb));
	return why;
}

/* What the agent asks of the table, in the packet of a test run: it cannot count as the programs do. */
#define ASKED_EXPIRED 0 /* forget those that have expired; of none, too: the agent has swept */
#define ASKED_FORGET 1 /* forget them */
#define ASKED_INSERT 2 /* each with its value, but for its tag, behind it, where there is none */
#define ASKED_TAKE 3 /* as to insert; or in place of one that is moved and in which the guest has not spoken here */
#define ASKED_EXPECT 4 /* what control connections that are moved have spoken of, each with its value behind it */
#define ASKED_MOST 20

struct asking {
	struct __sk_buff *skb;
	__u32 what; /* ASKED_* */
	__u32 count;
	__u32 tenant; /* as in struct guard: whose ports' they are that are inserted or taken */
	__u32 at; /* of the next, in the packet */
	__u32 done;
};

/* Of one key. */
static long do_next_asked(__u32 i, struct asking *a)
{
	struct flow *f = flow_of_agent();
	struct expectation *e;
	struct connection *c;

	if (!f || i >= a->count || bpf_skb_load_bytes(a->skb, a->at, &f->key, sizeof(f->key)))
		return 1;
	a->at += sizeof(f->key);
	if (a->what == ASKED_EXPECT) {
		f->awaited = f->key;
		if (bpf_skb_load_bytes(a->skb, a->at, &f->expectation, sizeof(f->expectation)))
			return 1;
		a->at += sizeof(f->expectation);
		a->done += take_expectation(f);
		return 0;
	}
	c = bpf_map_lookup_elem(&connections, &f->key);
	if (a->what >= ASKED_INSERT) {
		if (bpf_skb_load_bytes(a->skb, a->at, &f->fresh, offsetof(struct fresh, tag)))
			return 1;
		a->at += offsetof(struct fresh, tag);
		f->fresh.lock = 0;
		put_owner(&f->fresh.tag, &f->key);
		/* Held against the rules of here with its next packet; what this host's own programs had is as it was, if it is kept. */
		if (a->what == ASKED_TAKE || f->fresh.epoch == EPOCH_TAKEN)
			f->fresh.epoch = EPOCH_TAKEN;
		else
			f->fresh.epoch = EPOCH_FORMER;
		if (c) {
			if (a->what != ASKED_TAKE || (c->flags & (MOVED | SPOKEN)) != MOVED)
				return 0;
			/* What it has spoken of here is known here. */
			f->fresh.expected = c->expected;
			f->fresh.flags |= c->flags & EXPECTED_SIDE;
			a->done += renew(c, f);
			return 0;
		}
		/* A place of another host's says nothing here. */
		if (a->what == ASKED_TAKE)
			f->fresh.charged = f->fresh.opener ? CHARGED_TO_OTHERS : 0;
		if (take_room(f))
			return 0;
		if (bpf_map_update_elem(&connections, &f->key, &f->fresh, BPF_NOEXIST))
			give_room(f->key.port, f->fresh.charged);
		else
			a->done += 1;
		return 0;
	}
	e = bpf_map_lookup_elem(&expectations, &f->key);
	if (e && (a->what != ASKED_EXPIRED || f->now_ns >= e->expires_ns))
		a->done += drop_expectation(&f->key);
	if (c && (a->what != ASKED_EXPIRED || f->now_ns >= c->expires_ns))
		a->done += forget(f, &f->key);
	return 0;
}

/* How many were. */
static __noinline int do_asked(struct __sk_buff *skb)
{
	struct flow *f = flow_of_agent();
	struct tracking *t = tracking_of_host();
	struct tracked *counted = tracked_of_host();
	struct asking a = { .skb = skb, .at = ETHERNET_BYTES + 12 };

	if (!f || !t || !counted || bpf_skb_load_bytes(skb, ETHERNET_BYTES, &a.what, 12))
		return -1;
	f->now_ns = t->clock_ns ? t->clock_ns : bpf_ktime_get_coarse_ns();
	f->tenant = a.tenant;
	if (a.what == ASKED_EXPIRED) {
		counted->swept_ns = f->now_ns + AGENT_SWEEPS_NS - SWEEP_NS;
		counted->swept_expected_ns = f->now_ns + AGENT_SWEEPS_NS - EXPECTED_SWEEP_NS;
	}
	bpf_loop(ASKED_MOST, do_next_asked, &a, 0);
	return a.done;
}
