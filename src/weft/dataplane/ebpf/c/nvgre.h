/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* NVGRE (RFC 7637) over IPv4: puts the outer header on and takes it off. GSO packets cross whole. */
#pragma once

#include "parse.h"

#define NVGRE_FLAGS_PROTOCOL bpf_htonl(0x20006558) /* key, nothing else; Transparent Ethernet Bridging */
#define NVGRE4_BYTES (IPV4_BYTES + GRE_BYTES + ETHERNET_BYTES)
#define ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8) /* BPF_F_ADJ_ROOM_DECAP_L3_IPV6, which Debian 12's headers lack */
#define NVGRE6_BYTES (IPV6_BYTES + GRE_BYTES + ETHERNET_BYTES)
#define VSID_MIN 4096
#define VSID_MAX 16777214

/* 1: the kernel takes BPF_F_ADJ_ROOM_DECAP_L3_* and so corrects skb->protocol when outer and inner family differ.
 * Written by the agent before the program is loaded.
 */
const volatile __u32 weft_decap_l3 = 1;

struct nvgre4 {
	struct ethernet eth;
	struct ipv4 ip;
	__be32 flags_protocol;
	__be32 key;
	struct ethernet inner;
} __attribute__((packed));

/* On the frame in place; its Ethernet header moves inside, and the outer one is the kernel's to fill. 0 or an errno. */
INLINE int nvgre_push(struct __sk_buff *skb, const struct packet *p, __be32 source, __be32 destination, __u32 vsid,
		      const __u8 *inner_to, const __u8 *inner_from)
{
	const __u64 fixed = BPF_F_ADJ_ROOM_FIXED_GSO;
	const __u64 encapsulation = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_GRE |
				    BPF_F_ADJ_ROOM_ENCAP_L2(ETHERNET_BYTES) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH;
	struct nvgre4 *h;
	__u64 sum;
	int rc;

	rc = bpf_skb_adjust_room(skb, NVGRE4_BYTES, BPF_ADJ_ROOM_MAC, fixed | encapsulation);
	/* EALREADY: the kernel still knows the packet as encapsulated, since it came out of our tunnel (a guest that
	 * routes) or is in a tunnel of the guest's own; what is noted of its inner headers stays right.
	 */
	if (rc == -114)
		rc = bpf_skb_adjust_room(skb, NVGRE4_BYTES, BPF_ADJ_ROOM_MAC, fixed);
	if (rc)
		return rc;
	h = (void *)(long)skb->data;
	if ((void *)(h + 1) > (void *)(long)skb->data_end)
		return -1;
	h->eth.type = ETHERTYPE_IPV4;
	h->ip.version_ihl = 0x45;
	h->ip.tos = p->ecn; /* RFC 6040 section 4.1 */
	h->ip.total_length = bpf_htons(skb->len - ETHERNET_BYTES);
	h->ip.id = 0; /* RFC 6864: an atomic datagram */
	h->ip.fragment = bpf_htons(IPV4_DF);
	h->ip.ttl = 64;
	h->ip.protocol = IPPROTO_GRE;
	h->ip.source = source;
	h->ip.destination = destination;
	sum = bpf_htons(0x4500 | p->ecn);
	sum += h->ip.total_length;
	sum += bpf_htons(IPV4_DF);
	sum += bpf_htons(64 << 8 | IPPROTO_GRE);
	sum += source;
	sum += destination;
	h->ip.check = csum_fold(sum);
	h->flags_protocol = NVGRE_FLAGS_PROTOCOL;
	h->key = bpf_htonl(vsid << 8 | flow_id(p));
	__builtin_memcpy(h->inner.destination, inner_to, 6);
	__builtin_memcpy(h->inner.source, inner_from, 6);
	h->inner.type = p->type;
	return 0;
}

/* Off again: what is left is the inner frame, with its own Ethernet header. 0 or an errno. */
INLINE int nvgre_pop(struct __sk_buff *skb, const struct packet *p)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	struct ethernet *eth;
	int rc;

	if (weft_decap_l3 && p->type == ETHERTYPE_IPV6)
		flags |= ADJ_ROOM_DECAP_L3_IPV6;
	rc = bpf_skb_adjust_room(skb, -NVGRE4_BYTES, BPF_ADJ_ROOM_MAC, flags);
	if (rc)
		return rc;
	eth = (void *)(long)skb->data;
	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return -1;
	__builtin_memcpy(eth->destination, p->to, 6);
	__builtin_memcpy(eth->source, p->from, 6);
	eth->type = p->type;
	return 0;
}
