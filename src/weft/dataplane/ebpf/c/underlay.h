/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Out to the physical network: where to is the kernel's own routes and neighbours to say. */
#pragma once

#include "icmp.h"
#include "lookup.h"
#include "qos.h"
#include "scratch.h"
#include "tunnel.h"

#define LOOPBACK_IFINDEX 1 /* in every network namespace */

/* Where a packet goes, once policy has spoken. */
struct target {
	const struct record *record;
	__u8 from[6]; /* source MAC on arrival */
	__u16 routed;
	__u32 vsid;
	__u32 mtu; /* of the subnet; 0: none */
	__u32 source_vsid;
	__u16 rule; /* by which it travels to another host */
	const struct way *way; /* to another host; NULL: from the first PA of the family to the record's */
};

/* The way of a packet's flow to a peer; NULL: there is but one, and nothing is known of it. */
INLINE const struct way *way_of(const struct host *h, const struct packet *p, const struct addr *pa)
{
	struct path *path;

	if (!(h->flags & HOST_PATHS))
		return NULL;
	path = bpf_map_lookup_elem(&paths, pa);
	return path ? &path->ways[flow_hash(p) >> 24 & (WAYS - 1)] : NULL;
}

/* What the kernel has learnt of a path anybody can have said to it, who can send to this host: ICMP. Whether our own
 * probes know that a packet of this length gets through to the peer, where packets do not ask by which way.
 */
static __noinline bool is_known_to_fit(const struct addr *pa, __u32 length)
{
	struct path *path = pa ? bpf_map_lookup_elem(&paths, pa) : NULL;

	return path && path->ways[0].mtu >= length;
}

/* The kernel's own route, whatever it believes of a path's MTU, when our probes know better. pa: of a peer. */
INLINE long find_route(struct __sk_buff *skb, struct bpf_fib_lookup *fib, const struct addr *pa, __u32 length)
{
	long rc = bpf_fib_lookup(skb, fib, sizeof(*fib), 0);

	if (rc != BPF_FIB_LKUP_RET_FRAG_NEEDED || !is_known_to_fit(pa, length))
		return rc;
	fib->tot_len = 0;
	fib->ifindex = LOOPBACK_IFINDEX;
	return bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
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

/* Counted at the uplink, and on to the next hop that the kernel's routes name: its neighbour states do the rest. */
INLINE int leave_counted(struct __sk_buff *skb, const struct bpf_fib_lookup *fib, __u32 packets)
{
	struct bpf_redir_neigh next_hop = { .nh_family = fib->family };
	struct counters *up = counters_of(fib->ifindex);

	if (up) {
		up->sent_packets += packets;
		up->sent_bytes += skb->len;
	}
	if (fib->family == AF_INET)
		next_hop.ipv4_nh = fib->ipv4_dst;
	else
		__builtin_memcpy(next_hop.ipv6_nh, fib->ipv6_dst, 16);
	return bpf_redirect_neigh(fib->ifindex, &next_hop, sizeof(next_hop), 0);
}

INLINE int to_underlay(struct __sk_buff *skb, const struct packet *p, const struct target *t, const struct host *h,
		       const struct subnet *own, struct counters *c)
{
	struct scratch *room = scratch_of_this_cpu();
	struct bpf_fib_lookup *fib; /* not on the stack, which is full */
	bool is4 = addr_is4(&t->record->pa);
	const struct addr *source = t->way ? &t->way->source : is4 ? &h->source4 : &h->source6;
	const struct addr *destination = t->way ? &t->way->destination : &t->record->pa;
	const __u16 rule = t->rule;
	const __u32 overhead = tunnel_bytes(rule, &t->record->pa);
	struct envelope e = { .destination = destination, .inner_to = t->record->mac, .vsid = t->vsid, .rule = rule };
	__u32 segments;
	long rc;

	if (!room)
		return drop(skb, c, DROP_NO_UNDERLAY);
	fib = &room->fib;
	__builtin_memset(fib, 0, sizeof(*fib));
	if (!is_known_rule(rule))
		return drop(skb, c, DROP_UNSUPPORTED_RULE);
	if (addr_is_zero(source))
		return drop(skb, c, DROP_NO_UNDERLAY);
	fib->l4_protocol = is_udp_rule(rule) ? IPPROTO_UDP : rule == RULE_STT ? IPPROTO_TCP : IPPROTO_GRE;
	/* What our own probes have found is newer than what the kernel has learnt. */
	fib->tot_len = t->way && t->way->mtu ? 0 : p->l3_length + overhead;
	/* As for the host's own packets: the look-up wants an interface that forwards, and a guest's must not. */
	fib->ifindex = LOOPBACK_IFINDEX;
	if (is4) {
		fib->family = AF_INET;
		fib->ipv4_src = source->w[3];
		fib->ipv4_dst = destination->w[3];
	} else {
		fib->family = AF_INET6;
		__builtin_memcpy(fib->ipv6_src, source, 16);
		__builtin_memcpy(fib->ipv6_dst, destination, 16);
	}
	rc = find_route(skb, fib, destination, p->l3_length + overhead);
	/* The kernel knows a smaller path MTU than the uplink's own. */
	if (rc == BPF_FIB_LKUP_RET_FRAG_NEEDED && fib->mtu_result > overhead)
		return icmp_error(skb, p, own, ICMP_TOO_BIG(fib->mtu_result - overhead), c);
	if (rc != BPF_FIB_LKUP_RET_SUCCESS && rc != BPF_FIB_LKUP_RET_NO_NEIGH)
		return drop(skb, c, DROP_NO_UNDERLAY);
	if (!rewrite(skb, p, t))
		return drop(skb, c, DROP_TRUNCATED);
	segments = packets_in(skb); /* which the kernel forgets as room is made */
	e.source = source;
	e.inner_from = t->routed ? t->from : p->from;
	e.tos = p->outer_tos; /* RFC 6040 section 4.1 */
	if (tunnel_push(skb, p, &e) || (rule == RULE_STT && stt_seal(skb, p, is4)))
		return drop(skb, c, DROP_ENCAP_FAILED);
	if (rule == RULE_STT)
		segments = packets_in(skb); /* it has segments of its own */
	skb->cb[0] = VERDICT_TO_UNDERLAY;
	skb->cb[1] = fib->ifindex;
	return leave_counted(skb, fib, segments);
}

/* A copy of broadcast or multicast, whole, for another host. probed: it fits its way, whatever the kernel has learnt. */
INLINE int send_copy(struct __sk_buff *skb, bool probed)
{
	void *end = (void *)(long)skb->data_end;
	struct ethernet *eth = (void *)(long)skb->data;
	struct bpf_fib_lookup fib = {};
	struct addr to;
	long rc;

	skb->mark = 0;
	fib.tot_len = probed ? 0 : skb->gso_size ? 0 : skb->len - ETHERNET_BYTES;
	fib.ifindex = LOOPBACK_IFINDEX;
	if ((void *)(eth + 1) > end)
		return TC_ACT_SHOT;
	if (eth->type == ETHERTYPE_IPV4) {
		struct ipv4 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end)
			return TC_ACT_SHOT;
		fib.l4_protocol = ip->protocol;
		fib.family = AF_INET;
		fib.ipv4_src = ip->source;
		fib.ipv4_dst = ip->destination;
		to = addr_of4(ip->destination);
	} else {
		struct ipv6 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end)
			return TC_ACT_SHOT;
		fib.l4_protocol = ip->next_header;
		fib.family = AF_INET6;
		__builtin_memcpy(fib.ipv6_src, &ip->source, 16);
		__builtin_memcpy(fib.ipv6_dst, &ip->destination, 16);
		to = ip->destination;
	}
	rc = find_route(skb, &fib, &to, skb->len - ETHERNET_BYTES);
	if (rc != BPF_FIB_LKUP_RET_SUCCESS && rc != BPF_FIB_LKUP_RET_NO_NEIGH)
		return TC_ACT_SHOT;
	return leave_counted(skb, &fib, packets_in(skb));
}
