/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Outer headers, on and off: NVGRE (RFC 7637), GRE with a key (RFC 2890), VXLAN (RFC 7348), Geneve (RFC 8926), over
 * IPv4 and IPv6; and STT (stt.h). GSO packets cross whole.
 */
#pragma once

#include "lookup.h"
#include "parse.h"
#include "stt.h"

#define GRE_FLAGS_PROTOCOL bpf_htonl(0x20006558) /* key, nothing else; Transparent Ethernet Bridging */
#define VXLAN_PORT 4789
#define VXLAN_BYTES 8
#define VXLAN_VNI_GIVEN bpf_htonl(0x08000000)
#define GENEVE_PORT 6081
#define GENEVE_BYTES 8
#define GENEVE_VERSION_CONTROL bpf_htonl(0xc0800000)
#define GENEVE_CRITICAL bpf_htonl(0x00400000)
#define GENEVE_PROTOCOL bpf_htonl(0x00006558)
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

/* Between the outer IP header and the inner frame: of GRE so many words, of UDP with what it carries so many. */
#define GRE_WORDS (GRE_BYTES / 4)
#define UDP_WORDS ((UDP_BYTES + VXLAN_BYTES) / 4)

INLINE bool is_udp_rule(__u16 rule)
{
	return rule == RULE_VXLAN || rule == RULE_GENEVE;
}

INLINE __u8 protocol_of_rule(__u16 rule)
{
	return is_udp_rule(rule) ? IPPROTO_UDP : rule == RULE_STT ? IPPROTO_TCP : IPPROTO_GRE;
}

INLINE bool is_known_rule(__u16 rule)
{
	return rule >= RULE_NVGRE && rule <= RULE_STT;
}

/* What a rule adds to the inner L3 length. */
INLINE __u32 tunnel_bytes(__u16 rule, const struct addr *pa)
{
	__u32 tunnel = is_udp_rule(rule) ? UDP_BYTES + VXLAN_BYTES : GRE_BYTES;

	if (rule == RULE_REWRITE || rule == RULE_VLAN)
		return 0;
	if (rule == RULE_STT)
		tunnel = TCP_BYTES + STT_BYTES;
	return (addr_is4(pa) ? IPV4_BYTES : IPV6_BYTES) + tunnel + ETHERNET_BYTES;
}

/* Room behind the Ethernet header, with the marks that keep GSO packets whole. outer: the Ethernet type of what is to
 * be in it. 0 or an errno.
 */
INLINE int tunnel_room(struct __sk_buff *skb, __s32 bytes, __be16 outer, bool udp)
{
	const __u64 fixed = BPF_F_ADJ_ROOM_FIXED_GSO;
	const __u64 marks = (udp ? BPF_F_ADJ_ROOM_ENCAP_L4_UDP : BPF_F_ADJ_ROOM_ENCAP_L4_GRE) |
			    BPF_F_ADJ_ROOM_ENCAP_L2(ETHERNET_BYTES) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH;
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

/* The outer IP header, with all that is known of what follows it. Returns where it ends; NULL: it is not there. */
INLINE void *put_outer4(struct __sk_buff *skb, __u8 tos, __u8 protocol, __be32 source, __be32 destination)
{
	struct ethernet *eth = (void *)(long)skb->data;
	struct ipv4 *ip = (void *)(eth + 1);
	__be32 *words = (void *)ip;
	__be32 first, second = bpf_htonl(IPV4_DF), third; /* id 0, RFC 6864: an atomic datagram */
	__u16 check;

	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return NULL;
	eth->type = ETHERTYPE_IPV4;
	first = bpf_htonl(0x45u << 24 | (__u32)tos << 16 | ((skb->len - ETHERNET_BYTES) & 0xffff));
	third = bpf_htonl(64u << 24 | (__u32)protocol << 16);
	check = csum_fold((__u64)first + second + third + source + destination);
	words[0] = first;
	words[1] = second;
	words[2] = third | bpf_htonl(bpf_ntohs(check));
	words[3] = source;
	words[4] = destination;
	return ip + 1;
}

INLINE void *put_outer6(struct __sk_buff *skb, __u8 tos, __u8 protocol, const struct addr *source,
			const struct addr *destination)
{
	struct ethernet *eth = (void *)(long)skb->data;
	struct ipv6 *ip = (void *)(eth + 1);
	__be32 *words = (void *)ip;
	struct addr *addresses = (void *)(words + 2);

	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return NULL;
	eth->type = ETHERTYPE_IPV6;
	words[0] = bpf_htonl(6u << 28 | (__u32)tos << 20);
	words[1] = bpf_htonl((skb->len - ETHERNET_BYTES - IPV6_BYTES) << 16 | (__u32)protocol << 8 | 64);
	addresses[0] = *source;
	addresses[1] = *destination;
	return ip + 1;
}

/* What the inner frame needs around it. */
struct envelope {
	const struct addr *source; /* PAs */
	const struct addr *destination;
	const __u8 *inner_to; /* MACs */
	const __u8 *inner_from;
	__u32 vsid;
	__u16 rule;
	__u8 tos; /* of the outer header */
};

INLINE void put_inner(struct ethernet *inner, const struct packet *p, const struct envelope *e)
{
	put_mac(inner->destination, e->inner_to);
	put_mac(inner->source, e->inner_from);
	inner->type = p->type;
}

/* One family, one protocol: what is constant is folded. */
INLINE int push(struct __sk_buff *skb, const struct packet *p, const struct envelope *e, bool is4, bool udp)
{
	const __u32 ip_bytes = is4 ? IPV4_BYTES : IPV6_BYTES;
	const __u32 count = udp ? UDP_WORDS : GRE_WORDS, bytes = ip_bytes + count * 4 + ETHERNET_BYTES;
	const __u8 protocol = udp ? IPPROTO_UDP : IPPROTO_GRE;
	struct ethernet *inner;
	__be32 *words;
	int rc = tunnel_room(skb, bytes, is4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6, udp);

	if (rc)
		return rc;
	words = is4 ? put_outer4(skb, e->tos, protocol, e->source->w[3], e->destination->w[3])
		    : put_outer6(skb, e->tos, protocol, e->source, e->destination);
	if (!words)
		return -1;
	inner = (void *)(words + count);
	if ((void *)(inner + 1) > (void *)(long)skb->data_end)
		return -1;
	if (udp) {
		const bool vxlan = e->rule == RULE_VXLAN;
		__u32 port = SOURCE_PORT_FIRST | flow_hash(p) >> 18;

		words[0] = bpf_htonl(port << 16 | (vxlan ? VXLAN_PORT : GENEVE_PORT));
		/* No checksum: RFC 7348 section 5, RFC 8926 section 3.3, RFC 6935. */
		words[1] = bpf_htonl((skb->len - ETHERNET_BYTES - ip_bytes) << 16);
		words[2] = vxlan ? VXLAN_VNI_GIVEN : GENEVE_PROTOCOL;
		words[3] = bpf_htonl(e->vsid << 8);
	} else {
		words[0] = GRE_FLAGS_PROTOCOL;
		words[1] = bpf_htonl(e->rule == RULE_NVGRE ? e->vsid << 8 | flow_hash(p) >> 24 : e->vsid);
	}
	put_inner(inner, p, e);
	return 0;
}

/* The same for STT. The marks of a GRE tunnel mean nothing to a packet that is finished, but make the kernel correct
 * skb->protocol, and a checksum that is left to a network card the inner one.
 */
static __noinline int push_stt(struct __sk_buff *skb, const struct packet *p, const struct envelope *e)
{
	__u32 is4, segment, ip_bytes;
	struct ethernet *inner;
	__be32 *words;
	int rc;

	if (!p || !e)
		return -1;
	is4 = addr_is4(e->destination);
	ip_bytes = is4 ? IPV4_BYTES : IPV6_BYTES;
	segment = skb->gso_size;
	rc = segment ? stt_room_for_segments(skb, p, is4)
		     : tunnel_room(skb, ip_bytes + STT_AROUND, is4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6, false);
	if (rc)
		return rc;
	words = is4 ? put_outer4(skb, e->tos, IPPROTO_TCP, e->source->w[3], e->destination->w[3])
		    : put_outer6(skb, e->tos, IPPROTO_TCP, e->source, e->destination);
	if (!words)
		return -1;
	inner = (void *)words + TCP_BYTES + STT_BYTES;
	if ((void *)(inner + 1) > (void *)(long)skb->data_end)
		return -1;
	stt_fill(words, p, e->vsid, flow_hash(p), skb->len - ETHERNET_BYTES - ip_bytes, segment);
	put_inner(inner, p, e);
	return 0;
}

/* On the frame in place; its Ethernet header moves inside, and the outer one is the kernel's to fill. What is not segmented
 * later is to be sealed, then. 0 or an errno.
 */
INLINE int tunnel_push(struct __sk_buff *skb, const struct packet *p, const struct envelope *e)
{
	const bool udp = is_udp_rule(e->rule);

	if (e->rule == RULE_STT)
		return push_stt(skb, p, e);
	if (addr_is4(e->destination))
		return udp ? push(skb, p, e, true, true) : push(skb, p, e, true, false);
	return udp ? push(skb, p, e, false, true) : push(skb, p, e, false, false);
}

/* What an address adds to a checksum (RFC 1624 equation 3, by words of 32 bits) in place of another. */
INLINE __u64 in_place_of(const void *in_packet, const struct addr *now)
{
	const __be32 *former = in_packet;

	return (__u64)(__u32)~former[0] + (__u32)~former[1] + (__u32)~former[2] + (__u32)~former[3] + now->w[0] +
	       now->w[1] + now->w[2] + now->w[3];
}

/* Another's outer addresses, on a packet that has been encapsulated: the rest is the same. STT's checksum is of them, too.
 * 0 or an errno.
 */
static __noinline int readdress(struct __sk_buff *skb, const struct addr *source, const struct addr *destination)
{
	void *end = (void *)(long)skb->data_end;
	struct ethernet *eth = (void *)(long)skb->data;
	__u32 at, protocol;
	__u64 sum;
	__u16 check;

	if (!source || !destination)
		return -1;
	if (addr_is4(destination)) {
		struct ipv4 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end)
			return -1;
		sum = (__u64)(__u32)~ip->source + (__u32)~ip->destination + source->w[3] + destination->w[3];
		ip->check = csum_fold(sum + (__u16)~ip->check);
		ip->source = source->w[3];
		ip->destination = destination->w[3];
		protocol = ip->protocol;
		at = ETHERNET_BYTES + IPV4_BYTES + TCP_CHECK_AT;
	} else {
		struct ipv6 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end)
			return -1;
		sum = in_place_of(&ip->source, source);
		ip->source = *source;
		sum += in_place_of(&ip->destination, destination);
		ip->destination = *destination;
		protocol = ip->next_header;
		at = ETHERNET_BYTES + IPV6_BYTES + TCP_CHECK_AT;
	}
	if (protocol != IPPROTO_TCP || skb->gso_size)
		return 0;
	if (bpf_skb_load_bytes(skb, at, &check, sizeof(check)))
		return -1;
	check = csum_fold(sum + (__u16)~check);
	return bpf_skb_store_bytes(skb, at, &check, sizeof(check), 0);
}

/* What the outer headers of a frame for this host said. */
struct outer {
	struct addr source;
	__u32 vsid;
	__u32 length; /* of the inner frame */
	__u16 bytes; /* of Ethernet and outer headers: where the inner frame starts */
	__u16 rule; /* what it came by; of GRE, until the subnet is known, NVGRE */
	__u8 ecn;
	__u8 is6; /* the outer header */
	__u8 vouched; /* by STT: the inner TCP checksum is unfinished */
	__u8 group; /* it came to a group, which is in scratch */
};

/* What a header behind the outer IP header is, by its first 8 bytes; 0: nothing of ours. */
INLINE __u16 rule_of(const struct host *me, __u8 protocol, const __be32 *words)
{
	if (protocol == IPPROTO_GRE) {
		if (words[0] != GRE_FLAGS_PROTOCOL)
			return 0;
		return accepts(me->accepts, RULE_NVGRE) ? RULE_NVGRE : accepts(me->accepts, RULE_GRE) ? RULE_GRE : 0;
	}
	if (protocol == IPPROTO_UDP) {
		__u32 port = bpf_ntohl(words[0]) & 0xffff;

		if (port == VXLAN_PORT && accepts(me->accepts, RULE_VXLAN))
			return RULE_VXLAN;
		if (port == GENEVE_PORT && accepts(me->accepts, RULE_GENEVE))
			return RULE_GENEVE;
	}
	if (protocol == IPPROTO_TCP && (bpf_ntohl(words[0]) & 0xffff) == STT_PORT && accepts(me->accepts, RULE_STT))
		return RULE_STT;
	return 0;
}

/* docs/design/datapath.md, "from the uplink" 1: by which rule the frame is ours to take; 0: it is not. */
INLINE __u16 is_for_us(struct __sk_buff *skb, const struct host *me)
{
	void *end = (void *)(long)skb->data_end;
	struct ethernet *eth = (void *)(long)skb->data;
	struct addr pa;
	__u16 rule;

	if (skb->protocol == ETHERTYPE_IPV4) {
		struct ipv4 *ip = (void *)(eth + 1);
		__be32 *words;
		__u32 header;

		if ((void *)(ip + 1) > end)
			return 0;
		header = (ip->version_ihl & 15) * 4;
		/* A later fragment begins with no header of anybody's. */
		if (ip->version_ihl >> 4 != 4 || header < IPV4_BYTES || ip->fragment & bpf_htons(IPV4_OFFSET))
			return 0;
		words = (void *)((__u8 *)ip + header);
		if ((void *)(words + 2) > end)
			return 0;
		rule = rule_of(me, ip->protocol, words);
		pa = addr_of4(ip->destination);
	} else if (skb->protocol == ETHERTYPE_IPV6) {
		struct ipv6 *ip = (void *)(eth + 1);
		__be32 *words = (void *)(ip + 1);

		if ((void *)(words + 2) > end || bpf_ntohl(ip->version_class_flow) >> 28 != 6)
			return 0;
		rule = rule_of(me, ip->next_header, words);
		pa = ip->destination;
		/* A mapped address is not IPv4's own on the wire. */
		if (addr_is4(&pa))
			return 0;
	} else {
		return 0;
	}
	return rule && (is_local_pa(me, &pa) || is_group_here(me, &pa)) ? rule : 0;
}

/* The headers around a frame, and its own Ethernet header. */
INLINE void pull_outer(struct __sk_buff *skb, __u16 rule)
{
	const __u32 ip_bytes = skb->protocol == ETHERTYPE_IPV4 ? IPV4_BYTES : IPV6_BYTES;
	const __u32 tunnel = rule == RULE_STT ? TCP_BYTES + STT_BYTES : UDP_BYTES + VXLAN_BYTES;

	pull_bytes(skb, ETHERNET_BYTES + ip_bytes + tunnel + ETHERNET_BYTES);
}

/* What the rule's own header says; payload: of the outer IP header. at: where it starts. 0 or the reason to drop it. */
INLINE enum drop_reason read_tunnel(struct __sk_buff *skb, struct outer *o, __u32 at, __u32 payload)
{
	void *end = (void *)(long)skb->data_end;
	__be32 *words = (void *)(long)skb->data + at;
	__u32 length, options;

	if (o->rule == RULE_STT) {
		struct stt stt = {};
		enum drop_reason why = stt_read(skb, at, payload, &stt);

		if (why)
			return why;
		o->vsid = stt.vsid;
		o->bytes = at + TCP_BYTES + STT_BYTES;
		o->length = payload - TCP_BYTES - STT_BYTES;
		o->vouched = stt.unfinished && stt.tcp;
		/* What came in several segments stays so, and with it that its inner checksum is unfinished. */
		return stt.unfinished && !skb->gso_size
			       ? stt_finish(skb, at, o->length, stt.transport, stt.tcp)
			       : 0;
	}
	if (!is_udp_rule(o->rule)) {
		if ((void *)(words + 2) > end)
			return DROP_OUTER_MALFORMED;
		o->vsid = bpf_ntohl(words[1]); /* the whole key: subnet_of_key() says what it means */
		o->bytes = at + GRE_BYTES;
		o->length = payload - GRE_BYTES;
		return 0;
	}
	if (payload < UDP_BYTES + VXLAN_BYTES || (void *)(words + 4) > end)
		return DROP_OUTER_MALFORMED;
	length = bpf_ntohl(words[1]) >> 16;
	if (length < UDP_BYTES + VXLAN_BYTES || length > payload)
		return DROP_OUTER_MALFORMED;
	o->vsid = bpf_ntohl(words[3]) >> 8;
	o->bytes = at + UDP_BYTES + VXLAN_BYTES;
	o->length = length - UDP_BYTES - VXLAN_BYTES;
	if (o->rule == RULE_VXLAN)
		return words[2] & VXLAN_VNI_GIVEN ? 0 : DROP_OUTER_MALFORMED;
	options = (bpf_ntohl(words[2]) >> 24 & 63) * 4;
	if (words[2] & GENEVE_VERSION_CONTROL || (words[2] & bpf_htonl(0xffff)) != GENEVE_PROTOCOL || options > o->length)
		return DROP_OUTER_MALFORMED;
	if (words[2] & GENEVE_CRITICAL)
		return DROP_CRITICAL_OPTION;
	if (!options)
		return 0;
	/* Options that may be ignored are taken out of the way. What they leave of the outer headers is not looked at
	 * again, but for its length.
	 */
	if (bpf_skb_adjust_room(skb, -(__s32)options, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return DROP_ENCAP_FAILED;
	pull_outer(skb, o->rule);
	o->length -= options;
	return 0;
}

INLINE void came_to_group(struct outer *o, struct addr group)
{
	struct scratch *room = scratch_of_this_cpu();

	o->group = 1;
	if (room)
		room->group = group;
}

/* Whether the group that a packet came to is its subnet's. */
static __noinline int is_group_of(__u32 vsid)
{
	struct addr *group = bpf_map_lookup_elem(&provider_groups, &vsid);
	struct scratch *room = scratch_of_this_cpu();

	return group && room && addr_equal(group, &room->group);
}

/* Step 2, of a frame that is for us. Returns 0 or the reason to drop it. */
INLINE enum drop_reason outer4(struct __sk_buff *skb, struct outer *o)
{
	struct ipv4 *ip = (void *)(long)skb->data + ETHERNET_BYTES;
	__be32 *words = (void *)ip;
	__u32 total;

	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return DROP_OUTER_MALFORMED;
	total = bpf_ntohs(ip->total_length);
	if (ip->version_ihl != 0x45 || total < IPV4_BYTES + GRE_BYTES || total + ETHERNET_BYTES > skb->len)
		return DROP_OUTER_MALFORMED;
	if (csum_fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]) != 0)
		return DROP_OUTER_MALFORMED;
	if (ip->fragment & bpf_htons(IPV4_MF))
		return DROP_OUTER_FRAGMENT;
	o->source = addr_of4(ip->source);
	if ((ip->destination & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000))
		came_to_group(o, addr_of4(ip->destination));
	o->ecn = ip->tos & 3;
	o->is6 = 0;
	return read_tunnel(skb, o, ETHERNET_BYTES + IPV4_BYTES, total - IPV4_BYTES);
}

INLINE enum drop_reason outer6(struct __sk_buff *skb, struct outer *o)
{
	struct ipv6 *ip = (void *)(long)skb->data + ETHERNET_BYTES;
	__u32 payload;

	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return DROP_OUTER_MALFORMED;
	payload = bpf_ntohs(ip->payload_length);
	if (payload < GRE_BYTES || payload + IPV6_BYTES + ETHERNET_BYTES > skb->len)
		return DROP_OUTER_MALFORMED;
	o->source = ip->source;
	if ((ip->destination.w[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000))
		came_to_group(o, ip->destination);
	o->ecn = bpf_ntohl(ip->version_class_flow) >> 20 & 3;
	o->is6 = 1;
	return read_tunnel(skb, o, ETHERNET_BYTES + IPV6_BYTES, payload);
}

/* Step 3: the subnet, and what GRE's key means: NVGRE's holds a VSID and a FlowID, GRE's a VSID, and which of them it is
 * the subnet that takes it says. Returns 0 or the reason to drop it.
 */
INLINE enum drop_reason subnet_of_outer(const struct host *me, struct outer *o, struct subnet **subnet)
{
	struct subnet *found = NULL;

	if (o->rule == RULE_NVGRE) {
		const __u32 key = o->vsid;

		o->vsid = key >> 8;
		found = subnet_of(o->vsid);
		if ((!found || !accepts(found->flags >> SUBNET_ACCEPTS, RULE_NVGRE)) && accepts(me->accepts, RULE_GRE)) {
			struct subnet *other = subnet_of(key);

			if (other && accepts(other->flags >> SUBNET_ACCEPTS, RULE_GRE)) {
				o->vsid = key;
				o->rule = RULE_GRE;
				found = other;
			}
		}
	} else {
		found = subnet_of(o->vsid);
	}
	if (o->vsid < VSID_MIN || o->vsid > VSID_MAX)
		return DROP_RESERVED_VSID;
	if (!found)
		return DROP_UNKNOWN_VSID;
	if (!accepts(found->flags >> SUBNET_ACCEPTS, o->rule))
		return DROP_RULE_NOT_ACCEPTED;
	if (o->group && !is_group_of(o->vsid))
		return DROP_RULE_NOT_ACCEPTED;
	*subnet = found;
	return 0;
}

/* Off again: what is left is the inner frame, with its own Ethernet header. 0 or an errno. */
INLINE int tunnel_pop(struct __sk_buff *skb, const struct packet *p, const struct outer *o)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	__s32 bytes = o->bytes; /* the outer headers; its own Ethernet header stays */
	struct ethernet *eth;
	int rc;

	/* skb->protocol must become the inner one's, since whoever segments goes by it; and it says whether what remains
	 * is less than a header.
	 */
	if ((p->type == ETHERTYPE_IPV6) != o->is6) {
		/* The segments' family is the inner one's from here on, too. */
		if (weft_decap_l3 && !(o->rule == RULE_STT && skb->gso_size)) {
			flags |= o->is6 ? ADJ_ROOM_DECAP_L3_IPV4 : ADJ_ROOM_DECAP_L3_IPV6;
		} else {
			/* It takes off or puts on the difference of the headers, besides. */
			rc = bpf_skb_change_proto(skb, p->type, 0);
			if (rc)
				return rc;
			bytes += o->is6 ? IPV4_BYTES - IPV6_BYTES : IPV6_BYTES - IPV4_BYTES;
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
	return o->rule == RULE_STT && skb->gso_size ? stt_joined(skb, p, o->vouched) : 0;
}
