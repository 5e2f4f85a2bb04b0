/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* NVGRE (RFC 7637) over IPv4 and IPv6: puts the outer header on and takes it off. GSO packets cross whole. */
#pragma once

#include "lookup.h"
#include "parse.h"

#define NVGRE_FLAGS_PROTOCOL bpf_htonl(0x20006558) /* key, nothing else; Transparent Ethernet Bridging */
#define NVGRE4_BYTES (IPV4_BYTES + GRE_BYTES + ETHERNET_BYTES)
#define NVGRE6_BYTES (IPV6_BYTES + GRE_BYTES + ETHERNET_BYTES)
/* BPF_F_ADJ_ROOM_DECAP_L3_*, which Debian 12's headers lack */
#define ADJ_ROOM_DECAP_L3_IPV4 (1ULL << 7)
#define ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)
#define CORRECTION_BYTES 4 /* any number would do */
#define VSID_MIN 4096
#define VSID_MAX 16777214

/* 1: the kernel takes BPF_F_ADJ_ROOM_DECAP_L3_* and so corrects skb->protocol when outer and inner family differ.
 * Written by the agent before the program is loaded.
 */
const volatile __u32 weft_decap_l3 = 1;

/* GRE with key as NVGRE uses it, and the inner frame's Ethernet header. */
struct nvgre {
	__be32 flags_protocol;
	__be32 key;
	struct ethernet inner;
} __attribute__((packed));

/* What surrounds an inner frame, from the outer network header on. */
struct nvgre4 {
	struct ethernet eth;
	struct ipv4 ip;
	struct nvgre nvgre;
} __attribute__((packed));

struct nvgre6 {
	struct ethernet eth;
	struct ipv6 ip;
	struct nvgre nvgre;
} __attribute__((packed));

INLINE __u32 nvgre_bytes(const struct addr *pa)
{
	return addr_is4(pa) ? NVGRE4_BYTES : NVGRE6_BYTES;
}

/* Room behind the Ethernet header, with the marks that keep GSO packets whole. outer: the Ethernet type of what is to
 * be in it. 0 or an errno.
 */
INLINE int nvgre_room(struct __sk_buff *skb, __s32 bytes, __be16 outer)
{
	const __u64 fixed = BPF_F_ADJ_ROOM_FIXED_GSO;
	const __u64 marks = BPF_F_ADJ_ROOM_ENCAP_L4_GRE | BPF_F_ADJ_ROOM_ENCAP_L2(ETHERNET_BYTES) |
			    BPF_F_ADJ_ROOM_ENCAP_L2_ETH;
	const bool is4 = outer == ETHERTYPE_IPV4;
	int rc = bpf_skb_adjust_room(skb, bytes, BPF_ADJ_ROOM_MAC,
				     fixed | marks | (is4 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6));

	/* EALREADY: the kernel still knows the packet as encapsulated, since it came out of our tunnel (a guest that
	 * routes) or is in a tunnel of the guest's own; what is noted of its inner headers stays right.
	 */
	if (rc != -114)
		return rc;
	if (skb->protocol == outer)
		return bpf_skb_adjust_room(skb, bytes, BPF_ADJ_ROOM_MAC, fixed);
	/* Unmarked, skb->protocol would stay the inner one's, and bpf_redirect_neigh goes by it: the packet would be lost
	 * behind our back. To take room off again is the one other thing that corrects it.
	 */
	if (!weft_decap_l3)
		return rc;
	rc = bpf_skb_adjust_room(skb, bytes + CORRECTION_BYTES, BPF_ADJ_ROOM_MAC, fixed);
	if (rc)
		return rc;
	return bpf_skb_adjust_room(skb, -CORRECTION_BYTES, BPF_ADJ_ROOM_MAC,
				   fixed | (is4 ? ADJ_ROOM_DECAP_L3_IPV4 : ADJ_ROOM_DECAP_L3_IPV6));
}

INLINE int nvgre_push4(struct __sk_buff *skb, const struct packet *p, __be32 source, __be32 destination,
		       const struct nvgre *nvgre)
{
	struct nvgre4 *h;
	__u64 sum;
	int rc = nvgre_room(skb, NVGRE4_BYTES, ETHERTYPE_IPV4);

	if (rc)
		return rc;
	h = (void *)(long)skb->data;
	if ((void *)(h + 1) > (void *)(long)skb->data_end)
		return -1;
	h->eth.type = ETHERTYPE_IPV4;
	h->ip.version_ihl = 0x45;
	h->ip.tos = p->outer_tos; /* RFC 6040 section 4.1 */
	h->ip.total_length = bpf_htons(skb->len - ETHERNET_BYTES);
	h->ip.id = 0; /* RFC 6864: an atomic datagram */
	h->ip.fragment = bpf_htons(IPV4_DF);
	h->ip.ttl = 64;
	h->ip.protocol = IPPROTO_GRE;
	h->ip.source = source;
	h->ip.destination = destination;
	sum = bpf_htons(0x4500 | p->outer_tos);
	sum += h->ip.total_length;
	sum += bpf_htons(IPV4_DF);
	sum += bpf_htons(64 << 8 | IPPROTO_GRE);
	sum += source;
	sum += destination;
	h->ip.check = csum_fold(sum);
	h->nvgre = *nvgre;
	return 0;
}

INLINE int nvgre_push6(struct __sk_buff *skb, const struct packet *p, const struct addr *source,
		       const struct addr *destination, const struct nvgre *nvgre)
{
	struct nvgre6 *h;
	int rc = nvgre_room(skb, NVGRE6_BYTES, ETHERTYPE_IPV6);

	if (rc)
		return rc;
	h = (void *)(long)skb->data;
	if ((void *)(h + 1) > (void *)(long)skb->data_end)
		return -1;
	h->eth.type = ETHERTYPE_IPV6;
	h->ip.version_class_flow = bpf_htonl(6u << 28 | (__u32)p->outer_tos << 20);
	h->ip.payload_length = bpf_htons(skb->len - ETHERNET_BYTES - IPV6_BYTES);
	h->ip.next_header = IPPROTO_GRE;
	h->ip.hop_limit = 64;
	h->ip.source = *source;
	h->ip.destination = *destination;
	h->nvgre = *nvgre;
	return 0;
}

/* On the frame in place; its Ethernet header moves inside, and the outer one is the kernel's to fill. 0 or an errno. */
INLINE int nvgre_push(struct __sk_buff *skb, const struct packet *p, const struct addr *source,
		      const struct addr *destination, __u32 vsid, const __u8 *inner_to, const __u8 *inner_from)
{
	struct nvgre nvgre = { NVGRE_FLAGS_PROTOCOL, bpf_htonl(vsid << 8 | flow_id(p)), { .type = p->type } };

	__builtin_memcpy(nvgre.inner.destination, inner_to, 6);
	__builtin_memcpy(nvgre.inner.source, inner_from, 6);
	if (addr_is4(destination))
		return nvgre_push4(skb, p, source->w[3], destination->w[3], &nvgre);
	return nvgre_push6(skb, p, source, destination, &nvgre);
}

/* What the outer headers of a frame for this host said. */
struct outer {
	struct addr source;
	__u32 vsid;
	__u32 ecn;
	__u32 bytes; /* of Ethernet and outer headers: where the inner frame starts */
	__u32 length; /* of the inner frame */
};

/* docs/design/datapath.md, "from the uplink" 1: is the frame ours to take? */
INLINE bool is_for_us(struct __sk_buff *skb, const struct host *me)
{
	void *end = (void *)(long)skb->data_end;
	struct ethernet *eth = (void *)(long)skb->data;
	struct addr pa;

	if (skb->protocol == ETHERTYPE_IPV4) {
		struct ipv4 *ip = (void *)(eth + 1);
		__u32 header;
		__be32 *gre;

		if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_GRE)
			return false;
		header = (ip->version_ihl & 15) * 4;
		if (ip->version_ihl >> 4 != 4 || header < IPV4_BYTES)
			return false;
		gre = (void *)((__u8 *)ip + header);
		if ((void *)(gre + 2) > end || *gre != NVGRE_FLAGS_PROTOCOL)
			return false;
		pa = addr_of4(ip->destination);
	} else if (skb->protocol == ETHERTYPE_IPV6) {
		struct nvgre6 *h = (void *)eth;

		/* Up to the key: what is inside may be shorter than an Ethernet header. */
		if ((void *)&h->nvgre.inner > end || h->ip.next_header != IPPROTO_GRE ||
		    bpf_ntohl(h->ip.version_class_flow) >> 28 != 6 || h->nvgre.flags_protocol != NVGRE_FLAGS_PROTOCOL)
			return false;
		pa = h->ip.destination;
		/* A mapped address is not IPv4's own on the wire. */
		if (addr_is4(&pa))
			return false;
	} else {
		return false;
	}
	return is_local_pa(me, &pa);
}

/* Step 2, of a frame that is for us. Returns 0 or the reason to drop it. */
INLINE enum drop_reason outer4(struct __sk_buff *skb, struct outer *o)
{
	struct nvgre4 *h = (void *)(long)skb->data;
	__be32 *words = (void *)&h->ip;
	__u32 total;

	if ((void *)&h->nvgre.inner > (void *)(long)skb->data_end)
		return DROP_OUTER_MALFORMED;
	total = bpf_ntohs(h->ip.total_length);
	if (h->ip.version_ihl != 0x45 || total < IPV4_BYTES + GRE_BYTES || total + ETHERNET_BYTES > skb->len)
		return DROP_OUTER_MALFORMED;
	if (csum_fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]) != 0)
		return DROP_OUTER_MALFORMED;
	if (h->ip.fragment & bpf_htons(IPV4_MF | IPV4_OFFSET))
		return DROP_OUTER_FRAGMENT;
	o->source = addr_of4(h->ip.source);
	o->vsid = bpf_ntohl(h->nvgre.key) >> 8;
	o->ecn = h->ip.tos & 3;
	o->bytes = ETHERNET_BYTES + IPV4_BYTES + GRE_BYTES;
	o->length = total - IPV4_BYTES - GRE_BYTES;
	return 0;
}

INLINE enum drop_reason outer6(struct __sk_buff *skb, struct outer *o)
{
	struct nvgre6 *h = (void *)(long)skb->data;
	__u32 payload;

	if ((void *)&h->nvgre.inner > (void *)(long)skb->data_end)
		return DROP_OUTER_MALFORMED;
	payload = bpf_ntohs(h->ip.payload_length);
	if (payload < GRE_BYTES || payload + IPV6_BYTES + ETHERNET_BYTES > skb->len)
		return DROP_OUTER_MALFORMED;
	o->source = h->ip.source;
	o->vsid = bpf_ntohl(h->nvgre.key) >> 8;
	o->ecn = bpf_ntohl(h->ip.version_class_flow) >> 20 & 3;
	o->bytes = ETHERNET_BYTES + IPV6_BYTES + GRE_BYTES;
	o->length = payload - GRE_BYTES;
	return 0;
}

/* Off again: what is left is the inner frame, with its own Ethernet header. 0 or an errno. */
INLINE int nvgre_pop(struct __sk_buff *skb, const struct packet *p, const struct outer *o)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	bool outer_is6 = o->bytes != ETHERNET_BYTES + IPV4_BYTES + GRE_BYTES;
	__s32 bytes = outer_is6 ? NVGRE6_BYTES : NVGRE4_BYTES;
	struct ethernet *eth;
	int rc;

	/* skb->protocol must become the inner one's, since whoever segments goes by it; and it says whether what remains
	 * is less than a header.
	 */
	if ((p->type == ETHERTYPE_IPV6) != outer_is6) {
		if (weft_decap_l3) {
			flags |= outer_is6 ? ADJ_ROOM_DECAP_L3_IPV4 : ADJ_ROOM_DECAP_L3_IPV6;
		} else {
			/* It takes off or puts on the difference of the headers, besides. */
			rc = bpf_skb_change_proto(skb, p->type, 0);
			if (rc)
				return rc;
			bytes += outer_is6 ? IPV4_BYTES - IPV6_BYTES : IPV6_BYTES - IPV4_BYTES;
		}
	}
	rc = bpf_skb_adjust_room(skb, -bytes, BPF_ADJ_ROOM_MAC, flags);
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
