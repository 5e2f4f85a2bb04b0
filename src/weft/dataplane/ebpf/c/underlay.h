/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Out to the physical network: where to is the kernel's own routes and neighbours to say. */
#pragma once

#include "icmp.h"
#include "lookup.h"
#include "nexthop.h"
#include "qos.h"
#include "remember.h"
#include "scratch.h"
#include "tunnel.h"

/* The way of a packet's flow to a peer; NULL: there is but one, and nothing is known of it. */
INLINE const struct way *way_of(const struct host *h, const struct packet *p, const struct addr *pa)
{
	struct path *path;

	if (!(h->flags & HOST_PATHS))
		return NULL;
	path = bpf_map_lookup_elem(&paths, pa);
	return path ? &path->ways[flow_hash(p) >> 24 & (WAYS - 1)] : NULL;
}

/* Hop limit less one and the router's MAC as source, for a routed packet; the destination's MAC always. */
INLINE bool rewrite(struct __sk_buff *skb, const struct packet *p, const struct target *t)
{
	void *end = (void *)(long)skb->data_end;
	struct ethernet *eth = (void *)(long)skb->data;

	if ((void *)(eth + 1) > end)
		return false;
	__builtin_memcpy(eth->destination, t->record->mac, 6);
	if (p->mark)
		mark(skb, p);
	if (!t->routed)
		return true;
	__builtin_memcpy(eth->source, t->from, 6);
	if (p->type == ETHERTYPE_IPV4) {
		struct ipv4 *ip = (void *)(eth + 1);
		__u16 old, new;

		if ((void *)(ip + 1) > end)
			return false;
		__builtin_memcpy(&old, &ip->ttl, 2);
		ip->ttl -= 1;
		__builtin_memcpy(&new, &ip->ttl, 2);
		ip->check = csum_update(ip->check, old, new);
	} else {
		struct ipv6 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end)
			return false;
		ip->hop_limit -= 1;
	}
	return true;
}

/* Counted at the uplink, and on to the next hop. */
INLINE int leave_counted(struct __sk_buff *skb, const struct next_hop *n, __u32 packets)
{
	struct counters *up = counters_at(n->slot);

	if (up) {
		up->sent_packets += packets;
		up->sent_bytes += skb->len;
	}
	return leave(skb, n);
}

/* Within its outer headers, and on to the next hop. */
INLINE int leave_enveloped(struct __sk_buff *skb, const struct packet *p, const struct envelope *e,
			   const struct next_hop *n, struct counters *c)
{
	__u32 segments = packets_in(skb); /* which the kernel forgets as room is made */

	if (tunnel_push(skb, p, e) || (e->rule == RULE_STT && stt_seal(skb, p, addr_is4(e->destination))))
		return drop(skb, c, DROP_ENCAP_FAILED);
	if (e->rule == RULE_STT)
		segments = stt_segments(skb, addr_is4(e->destination)); /* it has segments of its own */
	skb->cb[0] = VERDICT_TO_UNDERLAY;
	skb->cb[1] = n->ifindex;
	return leave_counted(skb, n, segments);
}

/* limit: of the packet, as policy has it; 0: none. */
INLINE int to_underlay(struct __sk_buff *skb, const struct packet *p, const struct target *t, const struct host *h,
		       const struct subnet *own, struct counters *c, __u32 limit)
{
	bool is4 = addr_is4(&t->record->pa);
	const struct addr *source = t->way ? &t->way->source : is4 ? &h->source4 : &h->source6;
	const struct addr *destination = t->way ? &t->way->destination : &t->record->pa;
	const __u16 rule = t->rule;
	const __u32 overhead = tunnel_bytes(rule, &t->record->pa);
	struct envelope e = { .destination = destination, .inner_to = t->record->mac, .vsid = t->vsid, .rule = rule };
	struct next_hop *n;

	if (!is_known_rule(rule))
		return drop(skb, c, DROP_UNSUPPORTED_RULE);
	if (addr_is_zero(source))
		return drop(skb, c, DROP_NO_UNDERLAY);
	/* What our own probes have found is newer than what the kernel has learnt. */
	n = next_hop_to(skb, source, destination, protocol_of_rule(rule),
			t->way && t->way->mtu ? 0 : p->l3_length + overhead);
	if (!n || (!n->ifindex && n->mtu <= overhead))
		return drop(skb, c, DROP_NO_UNDERLAY);
	/* The kernel knows a smaller path MTU than the uplink's own. */
	if (!n->ifindex)
		return icmp_error(skb, p, own, ICMP_TOO_BIG(n->mtu - overhead), c);
	remember_out(skb, p, t, n, limit);
	if (!rewrite(skb, p, t))
		return drop(skb, c, DROP_TRUNCATED);
	e.source = source;
	e.inner_from = t->routed ? t->from : p->from;
	e.tos = p->outer_tos; /* RFC 6040 section 4.1 */
	return leave_enveloped(skb, p, &e, n, c);
}

/* As to_underlay() does, with what is remembered. */
INLINE int leave_again(struct __sk_buff *skb, const struct packet *p, const struct remembered_out *r,
		       struct counters *c)
{
	struct envelope e = { .source = &r->hop.source, .destination = &r->hop.destination, .inner_to = r->mac,
			      .inner_from = p->from, .vsid = r->vsid, .rule = r->rule, .tos = p->outer_tos };

	return leave_enveloped(skb, p, &e, &r->hop, c);
}

/* A copy of broadcast or multicast, whole, for another host. probed: it fits its way, whatever the kernel has learnt. */
INLINE int send_copy(struct __sk_buff *skb, bool probed)
{
	void *end = (void *)(long)skb->data_end;
	struct ethernet *eth = (void *)(long)skb->data;
	struct addr source, destination;
	struct next_hop *n;
	__u8 protocol;

	skb->mark = 0;
	if ((void *)(eth + 1) > end)
		return TC_ACT_SHOT;
	if (eth->type == ETHERTYPE_IPV4) {
		struct ipv4 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end)
			return TC_ACT_SHOT;
		protocol = ip->protocol;
		source = addr_of4(ip->source);
		destination = addr_of4(ip->destination);
	} else {
		struct ipv6 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end)
			return TC_ACT_SHOT;
		protocol = ip->next_header;
		source = ip->source;
		destination = ip->destination;
	}
	n = next_hop_to(skb, &source, &destination, protocol,
			probed || skb->gso_size ? 0 : skb->len - ETHERNET_BYTES);
	return n && n->ifindex ? leave_counted(skb, n, packets_in(skb)) : TC_ACT_SHOT;
}
