/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IP rewrite on the way out: CAs become PAs. Adds no byte. docs/design/datapath.md */
#pragma once

#include "underlay.h"

/* The PA that stands for a CA. */
INLINE const struct addr *pa_of(__u32 vsid, const struct addr *ca)
{
	struct record_key key = { .vsid = vsid, .ca = *ca };

	return bpf_map_lookup_elem(&pas, &key);
}

/* Whether a packet can travel so: from one CA to another that have PAs; they are noted for weft_rewrite. */
static __noinline int have_pas(const struct packet *p, const struct target *t)
{
	struct scratch *s = scratch_of_this_cpu();
	const struct addr *source, *destination;

	if (!s || !p || !t)
		return 0;
	source = pa_of(t->source_vsid, &p->source);
	if (!source)
		return 0;
	s->rewrite.source = *source;
	destination = pa_of(t->vsid, &p->destination);
	if (!destination)
		return 0;
	s->rewrite.destination = *destination;
	return 1;
}

/* Where the transport's checksum is, when it covers the addresses; 0: it does not. */
INLINE __u32 checksum_at(struct __sk_buff *skb, const struct packet *p, __u8 *protocol)
{
	__u32 start = p->l4_offset, offset;

	*protocol = p->protocol;
	if (p->fragment & FRAGMENT_LATER)
		return 0;
	if (p->type == ETHERTYPE_IPV6 && p->protocol == IPPROTO_FRAGMENT) {
		if (bpf_skb_load_bytes(skb, ETHERNET_BYTES + start, protocol, 1))
			return 0;
		start += sizeof(struct ipv6_fragment);
	}
	if (*protocol == IPPROTO_TCP)
		offset = 16;
	else if (*protocol == IPPROTO_UDP)
		offset = 6;
	else if (*protocol == IPPROTO_ICMPV6 && p->type == ETHERTYPE_IPV6)
		offset = 2;
	else
		return 0;
	return start + offset + 2 <= p->ip_length ? ETHERNET_BYTES + start + offset : 0;
}

/* Other addresses, and every checksum that covers them updated: also one that the sender has left to its hardware, and
 * those of the segments that a large packet will be. 0 or an errno.
 */
static __noinline int put_addresses(struct __sk_buff *skb, const struct packet *p, const struct addr *source,
				    const struct addr *destination)
{
	struct scratch *s = scratch_of_this_cpu();
	__u8 protocol;
	__u32 at;
	__s64 diff;

	if (!s || !p || !source || !destination)
		return -1;
	at = checksum_at(skb, p, &protocol);
	if (p->type == ETHERTYPE_IPV4) {
		__be32 was4[2] = { p->source.w[3], p->destination.w[3] }, is4[2] = { source->w[3], destination->w[3] };

		diff = bpf_csum_diff(was4, sizeof(was4), is4, sizeof(is4), 0);
		if (bpf_skb_store_bytes(skb, ETHERNET_BYTES + offsetof(struct ipv4, source), is4, sizeof(is4), 0) ||
		    bpf_l3_csum_replace(skb, ETHERNET_BYTES + offsetof(struct ipv4, check), 0, diff, 0))
			return -1;
	} else {
		struct addr *was = s->addresses, *is = s->addresses + 2;

		was[0] = p->source;
		was[1] = p->destination;
		is[0] = *source;
		is[1] = *destination;
		diff = bpf_csum_diff((void *)was, 2 * sizeof(*was), (void *)is, 2 * sizeof(*is), 0);
		if (bpf_skb_store_bytes(skb, ETHERNET_BYTES + offsetof(struct ipv6, source), is, 2 * sizeof(*is),
					BPF_F_RECOMPUTE_CSUM))
			return -1;
	}
	if (!at)
		return 0;
	/* No checksum is none, and stays so: RFC 768. */
	return bpf_l4_csum_replace(skb, at, 0, diff, BPF_F_PSEUDO_HDR | (protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0));
}

#define TO_REWRITE 0x7e11 /* what deliver() returns: weft_rewrite goes on */

/* For a program of its own: there is no room left on the stack of this one. */
INLINE int leave_to_rewrite(const struct target *t, __u32 limit)
{
	struct scratch *s = scratch_of_this_cpu();

	if (!s)
		return TC_ACT_SHOT;
	s->rewrite.source_vsid = t->source_vsid;
	s->rewrite.routed = t->routed;
	s->rewrite.limit = limit;
	s->rewrite.of_flow = t->way != NULL;
	__builtin_memcpy(s->rewrite.to, t->record->mac, 6);
	__builtin_memcpy(s->rewrite.from, t->from, 6);
	return TO_REWRITE;
}

/* From the PA to the PA that the next hop is of. c: where it is counted when that cannot be. */
INLINE int leave_as(struct __sk_buff *skb, const struct packet *p, const struct next_hop *n, struct counters *c)
{
	if (put_addresses(skb, p, &n->source, &n->destination))
		return drop(skb, c, DROP_ENCAP_FAILED);
	skb->cb[0] = VERDICT_TO_UNDERLAY;
	skb->cb[1] = n->ifindex;
	return leave_counted(skb, n, packets_in(skb));
}

/* Out to the physical network, from PA to PA; the packet is as weft_from_port has read it. */
INLINE int rewritten_to_underlay(struct __sk_buff *skb)
{
	struct scratch *s = scratch_of_this_cpu();
	struct record to = {};
	struct target t = { .record = &to, .rule = RULE_REWRITE };
	struct next_hop *n;
	__u32 zero = 0;
	struct packet *p = bpf_map_lookup_elem(&packets, &zero);

	if (!s || !p)
		return drop(skb, counters_of(sender_seat(skb)), DROP_NO_UNDERLAY);
	t.routed = s->rewrite.routed;
	__builtin_memcpy(to.mac, s->rewrite.to, 6);
	__builtin_memcpy(t.from, s->rewrite.from, 6);
	n = next_hop_to(skb, &s->rewrite.source, &s->rewrite.destination, p->protocol, p->l3_length);
	if (!n || (!n->ifindex && !n->mtu))
		return drop(skb, counters_of(sender_seat(skb)), DROP_NO_UNDERLAY);
	if (!n->ifindex) {
		struct subnet *own = subnet_of(s->rewrite.source_vsid);
		struct counters *c = counters_of(sender_seat(skb));

		return own ? icmp_error(skb, p, own, ICMP_TOO_BIG(n->mtu), c) : drop(skb, c, DROP_UNKNOWN_VSID);
	}
	if (!s->rewrite.of_flow)
		remember_out(skb, p, &t, n, s->rewrite.limit);
	if (!rewrite(skb, p, &t))
		return drop(skb, counters_of(sender_seat(skb)), DROP_TRUNCATED);
	return leave_as(skb, p, n, counters_of(sender_seat(skb)));
}

/* As rewritten_to_underlay() does, with what is remembered. */
INLINE int leave_rewritten_again(struct __sk_buff *skb, const struct packet *p, const struct remembered_out *r,
				 struct counters *c)
{
	struct ethernet *eth = (void *)(long)skb->data;

	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return drop(skb, c, DROP_TRUNCATED);
	__builtin_memcpy(eth->destination, r->mac, 6);
	return leave_as(skb, p, &r->hop, c);
}
