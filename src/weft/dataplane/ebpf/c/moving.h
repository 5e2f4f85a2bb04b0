/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* To a port that is moving: one packet to two hosts. docs/design/datapath.md, Moving. Nobody else comes here: a flag of
 * the record says so.
 */
#pragma once

#include "mirror.h"
#include "underlay.h"

/* How to a PA, by the kernel's own routes and neighbours. */
struct crossing {
	struct addr source;
	struct addr destination;
	struct addr next; /* the next hop's address */
	__u32 ifindex; /* 0: there is no way */
	__u32 mtu; /* not 0: too large for the kernel's route, which takes so much */
	__u8 to[6]; /* MACs, where the next hop's is known */
	__u8 from[6];
	__u16 known;
	__u16 probed; /* the way's MTU is known, and newer than what the kernel has learnt */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2); /* to the record's PA, to the second one */
	__type(key, __u32);
	__type(value, struct crossing);
} crossings SEC(".maps");

/* The second PA; NULL when it counts for nothing: of the other family, of this host as the first is, or not known. */
INLINE struct addr *moving_to(const struct host *h, const struct target *t)
{
	struct mac_key key = { .vsid = t->vsid };
	struct addr *also;

	__builtin_memcpy(key.mac, t->record->mac, 6);
	also = bpf_map_lookup_elem(&moving, &key);
	if (!also || addr_is4(also) != addr_is4(&t->record->pa))
		return NULL;
	return is_local_pa(h, also) && is_local_pa(h, &t->record->pa) ? NULL : also;
}

/* What fits on the way to a PA of another host as well; limit 0: anything does. */
INLINE __u32 limit_to(const struct host *h, const struct packet *p, const struct target *t, const struct addr *pa,
		      __u32 limit)
{
	const struct way *way;
	__u32 left = h->uplink_mtu;

	if (!left)
		return limit;
	way = way_of(h, p, pa);
	if (way && way->mtu && way->mtu < left)
		left = way->mtu;
	left -= tunnel_bytes(t->rule, pa);
	return limit && limit < left ? limit : left;
}

/* Whether policy places a source at a PA: at either of two while it moves. */
static __noinline int is_moving_to(const struct record *record, __u32 vsid, const struct addr *pa)
{
	struct mac_key key = { .vsid = vsid };
	struct addr *also;

	if (!record || !pa || !(record->rule & RECORD_MOVING))
		return 0;
	__builtin_memcpy(key.mac, record->mac, 6);
	also = bpf_map_lookup_elem(&moving, &key);
	return also && (addr_equal(also, pa) || is_alias(pa, also));
}

/* As in to_underlay(). length: of the outer packet. */
static __noinline int find_crossing(struct __sk_buff *skb, struct crossing *x, __u32 length, __u32 protocol)
{
	struct next_hop *n;

	if (!x || addr_is_zero(&x->source))
		return 0;
	n = next_hop_to(skb, &x->source, &x->destination, protocol, x->probed ? 0 : length);
	if (!n)
		return 0;
	x->ifindex = n->ifindex;
	x->mtu = n->ifindex ? 0 : n->mtu;
	x->known = n->known;
	__builtin_memcpy(x->to, n->to, 6);
	__builtin_memcpy(x->from, n->from, 6);
	x->next = n->address;
	return 0;
}

/* The crossing to a PA that is not this host's; NULL when there is none. */
INLINE struct crossing *crossing_to(struct __sk_buff *skb, const struct packet *p, const struct host *h, __u32 number,
				    const struct addr *pa, __u16 rule)
{
	struct crossing *x = bpf_map_lookup_elem(&crossings, &number);
	const struct way *way;

	if (!x)
		return NULL;
	way = way_of(h, p, pa);
	x->source = way ? way->source : addr_is4(pa) ? h->source4 : h->source6;
	x->destination = way ? way->destination : *pa;
	x->probed = way && way->mtu;
	x->ifindex = 0;
	x->mtu = 0;
	find_crossing(skb, x, p->l3_length + tunnel_bytes(rule, pa), protocol_of_rule(rule));
	return x;
}

static __noinline int push_for(struct __sk_buff *skb, const struct packet *p, const struct target *t,
			       const struct crossing *x)
{
	struct envelope e = {};

	if (!p || !t || !x)
		return -1;
	e.source = &x->source;
	e.destination = &x->destination;
	e.inner_to = t->record->mac;
	e.inner_from = t->routed ? t->from : p->from;
	e.vsid = t->vsid;
	e.rule = t->rule;
	e.tos = p->outer_tos;
	return tunnel_push(skb, p, &e);
}

/* Another's outer addresses and next hop, on a packet that has been encapsulated. */
static __noinline int address_for(struct __sk_buff *skb, const struct crossing *x)
{
	struct ethernet *eth = (void *)(long)skb->data;

	if (!x || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return -1;
	__builtin_memcpy(eth->destination, x->to, 6);
	__builtin_memcpy(eth->source, x->from, 6);
	return readdress(skb, &x->source, &x->destination);
}

static __noinline int count_crossing(struct __sk_buff *skb, const struct crossing *x, __u32 packets)
{
	struct counters *up = x ? counters_of_uplink(x->ifindex) : NULL;

	if (up) {
		up->sent_packets += packets;
		up->sent_bytes += skb->len;
	}
	return 0;
}

/* By the kernel's own neighbour states. */
static __noinline int leave_by(const struct crossing *x)
{
	struct bpf_redir_neigh next_hop = {};

	if (!x)
		return TC_ACT_SHOT;
	if (addr_is4(&x->next)) {
		next_hop.nh_family = AF_INET;
		next_hop.ipv4_nh = x->next.w[3];
	} else {
		next_hop.nh_family = AF_INET6;
		__builtin_memcpy(next_hop.ipv6_nh, &x->next, 16);
	}
	return bpf_redirect_neigh(x->ifindex, &next_hop, sizeof(next_hop), 0);
}

/* To both, as far as there are ways; the packet is as the guest is to have it. to: the local port that has the MAC, if one
 * of the PAs is this host's. The verdict's number is of the copies, without the packet itself.
 */
INLINE int cross(struct __sk_buff *skb, const struct packet *p, const struct target *t, struct crossing *last,
		 struct crossing *copy, const struct local_port *to, struct counters *c)
{
	__u32 segments = packets_in(skb), copies = 0;

	if (!rewrite(skb, p, t))
		return drop(skb, c, DROP_TRUNCATED);
	if (to && !copy_into_guest(skb, to->ifindex, to->vlan, to->flags)) {
		count_sent(skb, counters_at(to->slot));
		copies = 1;
	}
	if (push_for(skb, p, t, last) ||
	    (t->rule == RULE_STT && stt_seal(skb, p, addr_is4(&last->destination))))
		return drop(skb, c, DROP_ENCAP_FAILED);
	if (t->rule == RULE_STT)
		segments = stt_segments(skb, addr_is4(&last->destination)); /* it has segments of its own */
	/* A copy cannot wait for a neighbour: one without a MAC goes last, and is asked for. If neither has one, the other
	 * is known by the time that the next packet comes.
	 */
	if (copy && copy->ifindex && (copy->known || last->known)) {
		struct crossing *first = copy->known ? copy : last;

		if (address_for(skb, first))
			return drop(skb, c, DROP_ENCAP_FAILED);
		count_crossing(skb, first, segments);
		bpf_clone_redirect(skb, first->ifindex, 0);
		copies = 1;
		last = copy->known ? last : copy;
		if (address_for(skb, last))
			return drop(skb, c, DROP_ENCAP_FAILED);
	}
	count_crossing(skb, last, segments);
	skb->cb[0] = copies ? VERDICT_COPIES : VERDICT_TO_UNDERLAY;
	skb->cb[1] = copies ? copies : last->ifindex;
	return leave_by(last);
}
