/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What TCP segments make of a connection that is tracked: reference/tcp.py says the same, and tests hold the two together.
 * All of it runs behind the connection's lock, where no function may be called.
 */
#pragma once

#include "connection_states.h"
#include "maps.h"

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16
#define NO_SCALE 255
#define MOST_SCALE 14 /* RFC 7323 section 2.3 */
#define LATE_BYTES 66000

/* What of a segment counts. */
struct tcp_segment {
	__u32 seq;
	__u32 ack;
	__u32 end; /* the number behind its last: SYN and FIN count one each */
	__u32 data_bytes;
	__u16 window;
	__u8 flags;
	__u8 scale; /* of the option in a SYN, or NO_SCALE */
};

enum step {
	STEP_PASS = 0, /* and the connection's time begins anew */
	STEP_QUIET = 1, /* passes, and is no sign of life */
	STEP_INVALID = 2,
	STEP_ASK = 3, /* it would open a connection: rules say whether it may */
};

/* Whether a comes behind b in the space of sequence numbers. */
INLINE bool after(__u32 a, __u32 b)
{
	return (__s32)(a - b) > 0;
}

INLINE bool before(__u32 a, __u32 b)
{
	return after(b, a);
}

/* RST and SYN are alone but for ACK, and without either there is ACK. */
INLINE bool sound_flags(__u8 flags)
{
	if (flags & TCP_SYN)
		return !(flags & (TCP_RST | TCP_FIN));
	if (flags & TCP_RST)
		return !(flags & TCP_FIN);
	return flags & TCP_ACK;
}

INLINE bool is_opening(const struct tcp_segment *s)
{
	return (s->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

INLINE __u32 at_least_one(__u32 window)
{
	return window ? window : 1;
}

INLINE __u32 scaled_window(const struct connection *c, __u32 side, const struct tcp_segment *s)
{
	return s->flags & TCP_SYN ? s->window : (__u32)s->window << (c->scale[side & 1] & 15);
}

/* A SYN that opens. */
INLINE void tcp_begin(struct connection *c, struct half *me, struct half *them, __u32 side, __u32 seq, __u32 end,
		      __u16 window, __u8 scale)
{
	c->state = STATE_SYN_SENT;
	c->opener = side;
	c->flags &= REFUSED | TOLD | RELATED | CONTROL_SIDE | EXPECTED_SIDE | MOVED | SPOKEN;
	c->scale[0] = c->scale[1] = NO_SCALE;
	c->scale[side & 1] = scale;
	me->end = end;
	me->edge = seq;
	me->window = at_least_one(window);
	me->acked = 0;
	them->end = them->edge = them->acked = 0;
	them->window = 1;
}

/* The second SYN, with or without an acknowledgement. */
INLINE void tcp_answer(struct connection *c, struct half *me, struct half *them, __u32 side, const struct tcp_segment *s)
{
	__u32 first = them->edge, window = at_least_one(s->window);
	bool acks = s->flags & TCP_ACK;

	me->end = s->end;
	me->window = window;
	me->edge = s->seq + 1 + them->window;
	them->edge = (acks ? s->ack : them->end) + window;
	me->acked = acks ? s->ack : first;
	c->flags &= ~(HEARD * 3);
	if (acks)
		c->flags |= HEARD << (1 - side);
	them->acked = s->seq;
	c->scale[side & 1] = s->scale;
	if (c->scale[0] == NO_SCALE || c->scale[1] == NO_SCALE)
		c->scale[0] = c->scale[1] = 0;
	c->state = STATE_SYN_RECEIVED;
}

/* While only the opener's SYN is known. */
INLINE enum step tcp_answers(struct connection *c, struct half *me, struct half *them, __u32 side, const struct tcp_segment *s)
{
	bool acceptable;

	if (side == c->opener) {
		if (!(s->flags & TCP_RST))
			return STEP_INVALID;
		if (s->seq == me->end) {
			c->state = STATE_CLOSED;
			return STEP_PASS;
		}
		/* RFC 9293 figure 9: who has forgotten a connection resets what the other still has of it. */
		return c->flags & CHALLENGED && s->seq == them->edge ? STEP_QUIET : STEP_INVALID;
	}
	if (!(s->flags & TCP_ACK))
		return STEP_INVALID;
	acceptable = after(s->ack, them->edge) && !after(s->ack, them->end);
	if (s->flags & TCP_RST) {
		if (!acceptable)
			return STEP_INVALID;
		c->state = STATE_CLOSED;
		return STEP_PASS;
	}
	if (s->flags & TCP_SYN && acceptable) {
		tcp_answer(c, me, them, side, s);
		return STEP_PASS;
	}
	if (s->flags & TCP_FIN || s->data_bytes)
		return STEP_INVALID;
	c->flags |= CHALLENGED;
	me->edge = s->ack;
	return STEP_QUIET;
}

/* Whether it acknowledges the SYN that waits. */
INLINE bool answers_pending(const struct connection *c, __u32 side, const struct tcp_segment *s)
{
	__u32 waits = c->flags & PENDING_SIDE ? 1 : 0;

	return c->flags & PENDING && side != waits && s->flags & TCP_ACK && s->ack == c->pending_end;
}

/* RFC 5961 section 3.2: only the very next number resets; the end itself questions another in its window. */
INLINE enum step tcp_resets(struct connection *c, struct half *me, struct half *them, const struct tcp_segment *s)
{
	if (s->seq == them->acked || s->seq == me->end) {
		if (c->state == STATE_TIME_WAIT || c->state == STATE_CLOSED) /* RFC 1337 */
			return STEP_QUIET;
		c->state = STATE_CLOSED;
		return STEP_PASS;
	}
	return before(s->seq, them->acked) || after(s->seq, me->edge) ? STEP_INVALID : STEP_QUIET;
}

INLINE __u8 tcp_state(const struct connection *c)
{
	const struct half *a = &c->halves[0], *b = &c->halves[1];
	__u16 finished = c->flags & FINISHED * 3;

	if ((c->flags & HEARD * 3) != HEARD * 3)
		return STATE_SYN_RECEIVED;
	if (!finished)
		return STATE_ESTABLISHED;
	if (finished != FINISHED * 3)
		return STATE_HALF_CLOSED;
	/* Nothing comes behind a FIN, so who has acknowledged all has acknowledged it. */
	return before(a->acked, b->end) || before(b->acked, a->end) ? STATE_CLOSING : STATE_TIME_WAIT;
}

/* A side has sent so far: that never goes back, whoever else writes it at once; what is behind it, nobody could acknowledge.
 * False: others were quicker twice.
 */
INLINE bool tcp_reach(struct half *me, __u32 end)
{
	__u32 known = me->end, seen;

	if (!after(end, known))
		return true;
	seen = __sync_val_compare_and_swap(&me->end, known, end);
	if (seen == known || !after(end, seen))
		return true;
	known = __sync_val_compare_and_swap(&me->end, seen, end);
	return known == seen || !after(end, known);
}

/* What a segment that passes says of both sides. */
INLINE void tcp_advance(struct connection *c, struct half *me, struct half *them, __u32 side, const struct tcp_segment *s,
			__u32 window)
{
	__u32 edge;

	if (window > me->window)
		me->window = window;
	if (after(s->end, me->edge))
		me->edge = s->end;
	tcp_reach(me, s->end);
	if (after(s->ack, me->acked)) {
		me->acked = s->ack;
		c->flags |= HEARD << (1 - side);
	}
	edge = s->ack + at_least_one(window);
	if (after(edge, them->edge))
		them->edge = edge;
	if (s->flags & TCP_FIN)
		c->flags |= FINISHED << side;
	c->state = tcp_state(c);
}

/* Of one that is moved: whatever it is, it was sent within windows that are not known here. */
INLINE enum step tcp_carries_on(struct connection *c, struct half *me, struct half *them, __u32 side,
				const struct tcp_segment *s)
{
	if (s->flags & TCP_RST) {
		if (side)
			return STEP_QUIET;
		c->state = STATE_CLOSED;
		return STEP_PASS;
	}
	if (c->state == STATE_CLOSED)
		return STEP_QUIET;
	if (c->state == STATE_SYN_SENT) {
		/* What both SYNs said of windows is not known: they are taken for the largest. */
		c->scale[0] = c->scale[1] = MOST_SCALE;
		me->end = me->edge = them->acked = s->seq;
		them->end = them->edge = me->acked = s->ack;
	}
	c->flags |= HEARD * 3;
	tcp_advance(c, me, them, side, s, scaled_window(c, side, s));
	if (after(s->ack, them->end))
		them->end = s->ack;
	if (!side)
		c->flags |= SPOKEN;
	else if (c->flags & SPOKEN)
		c->flags &= ~(MOVED | SPOKEN);
	return STEP_PASS;
}

/* Whether a segment is within what both sides have said that they may send, and acknowledges what was sent. */
INLINE bool tcp_fits(const struct connection *c, const struct half *me, const struct half *them, __u32 side,
		     const struct tcp_segment *s)
{
	__u32 late = me->window > LATE_BYTES ? me->window : LATE_BYTES;

	return !after(s->seq, me->edge) && !before(s->end, me->end - them->window) && !after(s->ack, them->end) &&
	       !before(s->ack, them->end - late) && (c->flags & HEARD << (1 - side) || after(s->ack, me->acked));
}

INLINE enum step tcp_goes_on(struct connection *c, struct half *me, struct half *them, __u32 side, const struct tcp_segment *s)
{
	if (!tcp_fits(c, me, them, side, s))
		return STEP_INVALID;
	if (c->state == STATE_CLOSED)
		return STEP_QUIET;
	tcp_advance(c, me, them, side, s, scaled_window(c, side, s));
	return STEP_PASS;
}

/* The same of a segment without SYN, FIN and RST, of an established connection, without its lock: true, or nothing is done.
 * What is written only grows, and only by segments of this side. Where two CPUs have some of them at once, what one says of
 * windows and acknowledgements may be lost, until the next says as much. Flags and state, which rules and others write, stay
 * as they are.
 */
INLINE bool tcp_flows(struct connection *c, __u32 side, const struct tcp_segment *s)
{
	struct half *me = &c->halves[side & 1], *them = &c->halves[!(side & 1)];
	__u32 window = scaled_window(c, side, s), edge = s->ack + at_least_one(window);

	if (c->state != STATE_ESTABLISHED || (c->flags & (REFUSED | TOLD | PENDING | MOVED)) != TOLD ||
	    !tcp_fits(c, me, them, side, s) || after(s->end, me->edge) || !tcp_reach(me, s->end))
		return false;
	if (window > me->window)
		me->window = window;
	if (after(s->ack, me->acked))
		me->acked = s->ack;
	if (after(edge, them->edge))
		them->edge = edge;
	return true;
}

/* What becomes of a sound segment of a side, and of the connection with it. */
INLINE enum step tcp_step(struct connection *c, __u32 side, const struct tcp_segment *s)
{
	struct half *me = &c->halves[side & 1], *them = &c->halves[!(side & 1)];

	if (is_opening(s)) {
		if (c->state == STATE_SYN_SENT) {
			if (side == c->opener)
				tcp_begin(c, me, them, side, s->seq, s->end, s->window, s->scale);
			else
				tcp_answer(c, me, them, side, s); /* RFC 9293 figure 7: both open at once */
			return STEP_PASS;
		}
		return c->state == STATE_SYN_RECEIVED && s->end == me->end ? STEP_PASS : STEP_ASK;
	}
	if (c->state == STATE_SYN_SENT && (!(c->flags & MOVED) || s->flags & TCP_SYN))
		return tcp_answers(c, me, them, side, s);
	if (answers_pending(c, side, s)) {
		if (s->flags & TCP_SYN) {
			tcp_begin(c, them, me, !side, c->pending_end - 1, c->pending_end, c->pending_window, c->pending_scale);
			tcp_answer(c, me, them, side, s);
			return STEP_PASS;
		}
		if (s->flags & TCP_RST)
			return STEP_QUIET;
	}
	if (c->flags & MOVED)
		return tcp_carries_on(c, me, them, side, s);
	if (s->flags & TCP_RST)
		return tcp_resets(c, me, them, s);
	return tcp_goes_on(c, me, them, side, s);
}

/* A later fragment of a segment that has passed: its side has sent up to there. */
INLINE void tcp_stretch(struct connection *c, __u32 side, __u32 end)
{
	struct half *me = &c->halves[side & 1];

	if (c->state == STATE_SYN_SENT || c->state == STATE_CLOSED)
		return;
	c->flags &= ~(LINE << (side & 1));
	tcp_reach(me, end);
	if (after(end, me->edge))
		me->edge = end;
}
