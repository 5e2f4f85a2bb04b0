/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* To where policy has placed the destination: a local port, or another host. docs/design/datapath.md, step 10. */
#pragma once

#include "mirror.h"
#include "moving.h"
#include "neighbour.h"
#include "rewrite.h"
#include "size.h"
#include "underlay.h"

#define TO_INGRESS 0x7e14 /* what is for a guarded port: weft_ingress goes on */

/* For a program of its own, which asks of the packet, and counts it. */
static __noinline int leave_to_ingress(const struct local_port *to, __u32 peer_works)
{
	struct scratch *s = scratch_of_this_cpu();

	if (!s || !to)
		return TC_ACT_SHOT;
	s->arrival.to = *to;
	s->arrival.peer_works = peer_works;
	s->arrival.is_read = 0;
	s->arrival.otherwise = 0;
	return TO_INGRESS;
}

/* Of a port that is moving here: whether it is refused, weft_ingress knows; that there is no way to where it is, we do. */
INLINE void leave_reason(enum drop_reason why)
{
	struct scratch *s = scratch_of_this_cpu();

	if (s)
		s->arrival.otherwise = why;
}

/* weft_ingress need not read the packet again. */
INLINE void leave_read(void)
{
	struct scratch *s = scratch_of_this_cpu();

	if (s)
		s->arrival.is_read = 1;
}

/* To a port that is not guarded, or whose guard has let it pass. */
INLINE int into_guest(struct __sk_buff *skb, const struct local_port *to, bool peer_works)
{
	const __u32 ifindex = to->ifindex, flags = to->flags;

	if (flags & PORT_MIRRORED)
		mirror(skb, ifindex, DIRECTION_TO_GUEST);
	skb->cb[0] = VERDICT_TO_PORT;
	skb->cb[1] = ifindex;
	skb->cb[2] = to->vlan;
	if (to->vlan)
		put_tag(skb, to->vlan);
	if (flags & PORT_PEER && peer_works)
		return bpf_redirect_peer(ifindex, 0);
	skb->mark = WEFT_MARK;
	return bpf_redirect(ifindex, 0);
}

/* skb->cb[2]: of what came by an uplink 0. */
INLINE int to_local_port(struct __sk_buff *skb, const struct local_port *to, bool peer_works)
{
	return to->flags & PORT_GUARDED ? leave_to_ingress(to, peer_works) : into_guest(skb, to, peer_works);
}

/* The local port that a packet may go to now; NULL, and why not. */
INLINE struct local_port *open_port(struct __sk_buff *skb, const struct packet *p, const struct target *t,
				    enum drop_reason *why)
{
	struct local_port *to = local_port_of(t->vsid, t->record->mac);

	*why = DROP_VSID_ACL;
	if (!to)
		return NULL;
	*why = DROP_HAIRPIN;
	if (is_sender(skb, to))
		return NULL;
	*why = DROP_PORT_DOWN;
	if (!(to->flags & PORT_ENABLED))
		return NULL;
	*why = DROP_RATE_LIMIT;
	if ((to->flags & (PORT_QOS | PORT_GUARDED)) == PORT_QOS &&
	    !within_limit(skb, p, seat_of(to->ifindex, to->vlan), DIRECTION_TO_GUEST, 0))
		return NULL;
	return to;
}

INLINE int into_port(struct __sk_buff *skb, const struct packet *p, const struct target *t, const struct local_port *to,
		     struct counters *c)
{
	if (!rewrite(skb, p, t))
		return drop(skb, c, DROP_TRUNCATED);
	if (!(to->flags & PORT_GUARDED))
		count_sent(skb, counters_at(to->slot));
	return to_local_port(skb, to, true);
}

/* To the record's PA and to the second one: to whichever takes it, and dropped when none does. */
static __noinline int to_both(struct __sk_buff *skb, const struct packet *p, const struct target *t,
			      const struct addr *also, const struct subnet *own)
{
	struct counters *c = counters_of(sender_seat(skb));
	struct crossing *first = NULL, *second = NULL;
	struct local_port *to = NULL;
	enum drop_reason why = DROP_NO_UNDERLAY;
	struct host *h = this_host();
	__u32 limit, headers, mtu = 0;
	bool here, there;
	int verdict;
	__u16 rule;

	if (!p || !t || !also || !own || !h)
		return drop(skb, c, DROP_NO_UNDERLAY);
	here = is_local_pa(h, &t->record->pa);
	there = is_local_pa(h, also);
	limit = t->mtu;
	if (!here)
		limit = limit_to(h, p, t, &t->record->pa, limit);
	if (!there)
		limit = limit_to(h, p, t, also, limit);
	if (limit) {
		if (p->l3_length > limit)
			return icmp_error(skb, p, own, ICMP_TOO_BIG(limit), c);
		headers = p->type == ETHERTYPE_IPV4 ? 40 : 60;
		if (limit > headers && is_syn(skb, p))
			clamp_mss(skb, p, limit - headers);
	}
	rule = t->rule;
	if (!is_known_rule(rule))
		return drop(skb, c, DROP_UNSUPPORTED_RULE);
	if (!here)
		first = crossing_to(skb, p, h, 0, &t->record->pa, rule);
	if (!there)
		second = crossing_to(skb, p, h, 1, also, rule);
	/* The kernel knows a smaller path MTU than the uplink's own. */
	if (first && first->mtu)
		mtu = first->mtu;
	if (second && second->mtu && (!mtu || second->mtu < mtu))
		mtu = second->mtu;
	if (mtu > tunnel_bytes(rule, &t->record->pa))
		return icmp_error(skb, p, own, ICMP_TOO_BIG(mtu - tunnel_bytes(rule, &t->record->pa)), c);
	if (here || there) {
		to = open_port(skb, p, t, &why);
		if (!here)
			why = DROP_NO_UNDERLAY;
	}
	if (first && first->ifindex)
		return cross(skb, p, t, first, second, to, c);
	if (second && second->ifindex)
		return cross(skb, p, t, second, NULL, to, c);
	if (!to)
		return drop(skb, c, why);
	verdict = into_port(skb, p, t, to, c);
	if (!here)
		leave_reason(DROP_NO_UNDERLAY);
	return verdict;
}

/* Step 10. own: the sender's subnet, whose gateway speaks when something does not fit. */
INLINE int deliver(struct __sk_buff *skb, const struct packet *p, struct target *t, const struct subnet *own,
		   struct counters *c)
{
	struct host *h = this_host();
	struct local_port *to;
	const struct addr *also = NULL;
	enum drop_reason why;
	__u32 limit = t->mtu, headers;
	bool local_pa;

	if (!h)
		return drop(skb, c, DROP_NO_UNDERLAY);
	t->rule = record_rule(t->record);
	/* The router's MAC, which every host has, is for no switch to see. */
	if (t->rule == RULE_VLAN && t->routed)
		t->rule = RULE_FALLBACK;
	if (t->record->rule & RECORD_MOVING) {
		/* What moves has two PAs for each address, and is sent to by neither. */
		if (t->rule == RULE_REWRITE)
			t->rule = RULE_FALLBACK;
		also = moving_to(h, t);
		if (also)
			return t->rule == RULE_VLAN ? TO_BRIDGE : to_both(skb, p, t, also, own);
	}
	local_pa = is_local_pa(h, &t->record->pa);
	if (t->rule >= RULE_REWRITE && !local_pa) {
		if (t->rule == RULE_VLAN)
			return TO_BRIDGE;
		if (!have_pas(p, t))
			t->rule = RULE_FALLBACK;
	}
	if (!local_pa && h->uplink_mtu) {
		__u32 left = h->uplink_mtu;

		t->way = way_of(h, p, &t->record->pa);
		if (t->way && t->way->mtu && t->way->mtu < left)
			left = t->way->mtu;
		left -= tunnel_bytes(t->rule, &t->record->pa);
		if (!limit || left < limit)
			limit = left;
	}
	if (limit) {
		if (p->l3_length > limit)
			return icmp_error(skb, p, own, ICMP_TOO_BIG(limit), c);
		headers = p->type == ETHERTYPE_IPV4 ? 40 : 60;
		if (limit > headers && is_syn(skb, p))
			clamp_mss(skb, p, limit - headers);
	}
	if (!local_pa)
		return t->rule == RULE_REWRITE ? leave_to_rewrite(t, limit) : to_underlay(skb, p, t, h, own, c, limit);
	to = open_port(skb, p, t, &why);
	return to ? into_port(skb, p, t, to, c) : drop(skb, c, why);
}
