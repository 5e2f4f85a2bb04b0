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

/* Whether a packet can travel so: from one CA to another that have PAs. */
static __noinline int have_pas(const struct packet *p, const struct target *t)
{
	return p && t && pa_of(t->source_vsid, &p->source) && pa_of(t->vsid, &p->destination);
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
INLINE int leave_to_rewrite(const struct target *t)
{
	struct scratch *s = scratch_of_this_cpu();

	if (!s)
		return TC_ACT_SHOT;
	s->rewrite.source_vsid = t->source_vsid;
	s->rewrite.vsid = t->vsid;
	s->rewrite.routed = t->routed;
	__builtin_memcpy(s->rewrite.to, t->record->mac, 6);
	__builtin_memcpy(s->rewrite.from, t->from, 6);
	return TO_REWRITE;
}

/* Out to the physical network, from PA to PA. */
INLINE int rewritten_to_underlay(struct __sk_buff *skb)
{
	seat at = sender_seat(skb);
	struct scratch *s = scratch_of_this_cpu();
	struct port *port = bpf_map_lookup_elem(&ports, &at);
	struct counters *c = port ? counters_at(port->slot) : counters_of(at);
	struct subnet *own = port ? subnet_of(port->vsid) : NULL;
	struct packet p = {};
	struct record to = {};
	struct target t = { .record = &to };
	const struct addr *source, *destination;
	struct next_hop *n;

	/* All of it was asked before: it can only have changed since. */
	if (!s || !own || parse(skb, &p, 0, skb->len))
		return drop(skb, c, DROP_NO_UNDERLAY);
	parse_transport(skb, &p, ETHERNET_BYTES);
	if (port->flags & PORT_QOS)
		choose_marks(&p, sender_seat(skb));
	t.source_vsid = s->rewrite.source_vsid;
	t.vsid = s->rewrite.vsid;
	t.routed = s->rewrite.routed;
	__builtin_memcpy(to.mac, s->rewrite.to, 6);
	__builtin_memcpy(t.from, s->rewrite.from, 6);
	source = pa_of(t.source_vsid, &p.source);
	destination = pa_of(t.vsid, &p.destination);
	if (!source || !destination)
		return drop(skb, c, DROP_NO_UNDERLAY);
	n = next_hop_to(skb, source, destination, p.protocol, p.l3_length);
	if (!n || (!n->ifindex && !n->mtu))
		return drop(skb, c, DROP_NO_UNDERLAY);
	if (!n->ifindex)
		return icmp_error(skb, &p, own, ICMP_TOO_BIG(n->mtu), c);
	if (!rewrite(skb, &p, &t))
		return drop(skb, c, DROP_TRUNCATED);
	if (put_addresses(skb, &p, source, destination))
		return drop(skb, c, DROP_ENCAP_FAILED);
	skb->cb[0] = VERDICT_TO_UNDERLAY;
	skb->cb[1] = n->ifindex;
	return leave_counted(skb, n, packets_in(skb));
}
