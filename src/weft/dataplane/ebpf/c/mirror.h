/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copies of a port's frames for an operator: to another port of this host, or in GRE or ERSPAN to an address. A copy is
 * none of the port's traffic: it is not counted, and not copied again. docs/design/datapath.md, Mirroring.
 */
#pragma once

#include "drop.h"
#include "lookup.h"
#include "nexthop.h"
#include "tunnel.h"

#define ERSPAN_BYTES 8
#define ERSPAN_TYPE bpf_htons(0x88be)
#define GRE_SEQUENCE bpf_htons(0x1000)
#define GRE_KEY bpf_htons(0x2000)
#define TRANSPARENT_ETHERNET bpf_htons(0x6558)

struct mirrored4 {
	struct ethernet eth;
	struct ipv4 ip;
} WIRE;

struct mirrored6 {
	struct ethernet eth;
	struct ipv6 ip;
} WIRE;

/* GRE with key (RFC 2890), or with sequence number and the ERSPAN type II header (draft-foschiano-erspan). */
struct mirror_head {
	__be16 flags;
	__be16 protocol;
	__be32 number; /* key, or sequence */
	__be32 erspan[2];
} WIRE;

/* Collectors see by it that copies are missing. */
INLINE __u32 next_of(__u32 ifindex)
{
	__u32 first = 1, *last = bpf_map_lookup_elem(&mirror_sequences, &ifindex);

	if (last)
		return __sync_fetch_and_add(last, 1);
	bpf_map_update_elem(&mirror_sequences, &ifindex, &first, BPF_ANY);
	return 0;
}

static __noinline int mirror(struct __sk_buff *skb, __u32 ifindex, __u32 direction)
{
	struct mirror *m = bpf_map_lookup_elem(&mirrors, &ifindex);
	__u32 before = skb->mark;

	if (!m || !(m->directions & (1 << direction)))
		return 0;
	if (m->ifindex) {
		skb->mark = WEFT_MARK;
		bpf_clone_redirect(skb, m->ifindex, 0);
	} else {
		/* The header is put on where the copy leaves by the port's own interface, and it is turned round there. */
		skb->mark = WEFT_MIRROR_MARK;
		bpf_clone_redirect(skb, ifindex, 0);
	}
	skb->mark = before;
	return 0;
}

/* A copy of a packet for a guest, and for whoever watches it; a guarded one is watched once its guard has let it pass.
 * Returns 0 when it is on its way.
 */
static __noinline int copy_into_guest(struct __sk_buff *skb, __u32 ifindex, __u32 vlan, __u32 flags)
{
	int rc = copy_to_port(skb, ifindex, vlan, flags);

	if (!rc && (flags & (PORT_MIRRORED | PORT_GUARDED)) == PORT_MIRRORED)
		mirror(skb, ifindex, DIRECTION_TO_GUEST);
	return rc;
}

/* A copy on its way to an address: cut short to what fits, since it may not be fragmented, and sent. */
static __noinline int send_mirrored(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, fits, room, head_bytes, length, cut = 0;
	struct mirror *m = bpf_map_lookup_elem(&mirrors, &ifindex);
	struct host *h = this_host();
	struct next_hop *n;
	struct mirror_head head = {};
	__u8 inner[ETHERNET_BYTES];
	const struct addr *source;
	bool is4;

	skb->mark = 0;
	if (!m || !h)
		return TC_ACT_SHOT;
	is4 = addr_is4(&m->address);
	source = is4 ? &h->source4 : &h->source6;
	if (addr_is_zero(source) || !h->uplink_mtu)
		return TC_ACT_SHOT;
	head_bytes = m->erspan ? GRE_BYTES + ERSPAN_BYTES : GRE_BYTES;
	room = (is4 ? IPV4_BYTES : IPV6_BYTES) + head_bytes + ETHERNET_BYTES;
	fits = h->uplink_mtu + ETHERNET_BYTES - room;
	if (skb->len > fits || skb->gso_size) {
		cut = 1;
		length = skb->len < fits ? skb->len : fits;
		if (bpf_skb_change_tail(skb, length, 0))
			return TC_ACT_SHOT;
	}
	if (bpf_skb_load_bytes(skb, 0, inner, sizeof(inner)))
		return TC_ACT_SHOT;
	n = next_hop_to(skb, source, &m->address, IPPROTO_GRE, 0);
	if (!n || !n->ifindex)
		return TC_ACT_SHOT;
	if (bpf_skb_adjust_room(skb, room, BPF_ADJ_ROOM_MAC,
				is4 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6))
		return TC_ACT_SHOT;
	if (is4) {
		struct mirrored4 o = {};
		__be16 *words = (void *)&o.ip;
		__u32 sum = 0;
		int i;

		o.eth.type = ETHERTYPE_IPV4;
		o.ip.version_ihl = 0x45;
		o.ip.total_length = bpf_htons(skb->len - ETHERNET_BYTES);
		o.ip.fragment = bpf_htons(IPV4_DF);
		o.ip.ttl = 64;
		o.ip.protocol = IPPROTO_GRE;
		o.ip.source = source->w[3];
		o.ip.destination = m->address.w[3];
#pragma unroll
		for (i = 0; i < 10; i++)
			sum += words[i];
		o.ip.check = csum_fold(sum);
		if (bpf_skb_store_bytes(skb, 0, &o, sizeof(o), 0))
			return TC_ACT_SHOT;
	} else {
		struct mirrored6 o = {};

		o.eth.type = ETHERTYPE_IPV6;
		o.ip.version_class_flow = bpf_htonl(6u << 28);
		o.ip.payload_length = bpf_htons(skb->len - ETHERNET_BYTES - IPV6_BYTES);
		o.ip.next_header = IPPROTO_GRE;
		o.ip.hop_limit = 64;
		o.ip.source = *source;
		o.ip.destination = m->address;
		if (bpf_skb_store_bytes(skb, 0, &o, sizeof(o), 0))
			return TC_ACT_SHOT;
	}
	if (m->erspan) {
		head.flags = GRE_SEQUENCE;
		head.protocol = ERSPAN_TYPE;
		head.number = bpf_htonl(next_of(ifindex));
		/* Version 1, no VLAN; whether it is cut short; the session. */
		head.erspan[0] = bpf_htonl(1u << 28 | cut << 10 | (m->session & 1023));
	} else {
		head.flags = GRE_KEY;
		head.protocol = TRANSPARENT_ETHERNET;
		head.number = bpf_htonl(m->session);
	}
	length = ETHERNET_BYTES + (is4 ? IPV4_BYTES : IPV6_BYTES);
	if (m->erspan ? bpf_skb_store_bytes(skb, length, &head, GRE_BYTES + ERSPAN_BYTES, 0)
		      : bpf_skb_store_bytes(skb, length, &head, GRE_BYTES, 0))
		return TC_ACT_SHOT;
	if (bpf_skb_store_bytes(skb, length + head_bytes, inner, sizeof(inner), 0))
		return TC_ACT_SHOT;
	return leave(skb, n);
}
