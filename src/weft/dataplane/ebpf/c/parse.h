/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reads a frame's headers once, into a struct that the rest of the program works from. */
#pragma once

#include "drop.h"
#include "headers.h"

/* The bytes that must be linear: outer headers, then Ethernet, the longest IPv4 header, TCP with all of its options. */
#define HEADER_BYTES 208

#define FRAGMENT 1 /* offset not 0 or more to come */
#define FRAGMENT_LATER 2 /* offset not 0 */

struct packet {
	struct addr source;
	struct addr destination;
	__u8 to[6];
	__u8 from[6];
	__be16 type;
	__u8 protocol; /* IPv4 protocol, IPv6 first next header */
	__u8 hop_limit;
	__u8 ecn;
	__u8 fragment;
	__u8 icmp_type; /* when protocol is ICMP and the byte is there */
	__u8 has_icmp_type;
	__u8 tos; /* or traffic class */
	__u8 outer_tos; /* of the header around it: its ECN, and a DSCP where the port's QoS says so */
	__u8 mark; /* DSCP_MARK and the DSCP that it is given, or 0 */
	__u8 stays; /* its port's security groups do not let it leave the host: only the agent may have it */
	__u32 l4_offset; /* of the transport header, from the network header */
	__u32 ip_length; /* as the network header says, its own bytes included */
	__u32 l3_length; /* frame (of a GSO packet, one segment) less Ethernet */
	__be32 l4_word; /* TCP's and UDP's ports */
	__u64 now_ns; /* of the coarse clock, once somebody has looked; 0: nobody has */
	__u32 changes; /* as there were when it came */
	__u8 is_read; /* weft_from_port has read it, and found this to be wrong with it */
	__u8 why;
	__u8 kept; /* which upcall it is, as a word on who listens to what; 0: it is none */
	__u8 pad;
};

/* packets: not on the stack, which is full: what weft_from_port, and whoever goes on with it, knows of its packet. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2); /* of the packet itself; of a copy of it, that comes out while it is under way */
	__type(key, __u32);
	__type(value, struct packet);
} packets SEC(".maps");

/* How far the headers of a frame go that has some of its bytes in fragments: Ethernet, IP, and TCP with its options; 0:
 * what is linear does not say.
 */
INLINE __u32 header_bytes(struct __sk_buff *skb)
{
	void *end = (void *)(long)skb->data_end;
	struct ethernet *eth = (void *)(long)skb->data;
	__u32 l4 = ETHERNET_BYTES;
	__u8 protocol, *tcp;

	if ((void *)(eth + 1) > end)
		return 0;
	if (eth->type == ETHERTYPE_IPV4) {
		struct ipv4 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end)
			return 0;
		l4 += (ip->version_ihl & 15) * 4;
		protocol = ip->protocol;
	} else if (eth->type == ETHERTYPE_IPV6) {
		struct ipv6 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end)
			return 0;
		l4 += IPV6_BYTES;
		protocol = ip->next_header;
	} else {
		return 0;
	}
	if (protocol == IPPROTO_UDP)
		return l4 + UDP_BYTES;
	if (protocol != IPPROTO_TCP)
		return 0;
	tcp = (__u8 *)eth + l4;
	return (void *)(tcp + TCP_BYTES) <= end ? l4 + (tcp[12] >> 4) * 4 : 0;
}

/* Slow way: of frames that are not all linear. */
static __noinline int pull_from_fragments(struct __sk_buff *skb)
{
	__u32 linear = skb->data_end - skb->data, headers = header_bytes(skb);
	__u32 need = skb->len < HEADER_BYTES ? skb->len : HEADER_BYTES;

	return (headers && headers <= linear) || need <= linear ? 0 : bpf_skb_pull_data(skb, need);
}

/* Make a guest's headers linear; without it direct access sees less than there is. No more than they: a payload of which
 * some bytes are moved out of its pages has to be copied before it is written on, and is copied slowly by its reader,
 * since it no longer begins where its page does.
 */
INLINE void pull(struct __sk_buff *skb)
{
	if (skb->data_end - skb->data < skb->len)
		pull_from_fragments(skb);
}

/* So many bytes, where that much is not linear yet: no more than the headers of what is read there. */
INLINE void pull_bytes(struct __sk_buff *skb, __u32 bytes)
{
	__u32 need = skb->len < bytes ? skb->len : bytes;

	if ((__u64)skb->data + need > skb->data_end)
		bpf_skb_pull_data(skb, need);
}

/* What parse() looks at of the frame at an offset, whose Ethernet header is linear. */
INLINE void pull_frame(struct __sk_buff *skb, __u32 at)
{
	struct ethernet *eth = (void *)(long)skb->data + at;
	__u32 bytes = at + ETHERNET_BYTES + IPV4_BYTES;

	if ((void *)(eth + 1) <= (void *)(long)skb->data_end && eth->type == ETHERTYPE_IPV6)
		bytes = at + ETHERNET_BYTES + IPV6_BYTES;
	pull_bytes(skb, bytes);
}

INLINE bool is_icmp(const struct packet *p)
{
	return p->protocol == (p->type == ETHERTYPE_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

/* Transport header: what forwarding and the flow's hash need of it. base: of the network header, as an offset. */
INLINE void parse_transport(struct __sk_buff *skb, struct packet *p, __u32 base)
{
	void *end = (void *)(long)skb->data_end;
	__u8 *l4 = (void *)(long)skb->data + base + (p->l4_offset & 63);

	p->has_icmp_type = 0;
	p->icmp_type = 0;
	p->l4_word = 0;
	if (p->fragment & FRAGMENT_LATER)
		return;
	if (is_icmp(p)) {
		if (p->l4_offset + 1 <= p->ip_length && (void *)(l4 + 1) <= end) {
			p->icmp_type = *l4;
			p->has_icmp_type = 1;
		}
	} else if ((p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP) && !p->fragment) {
		if (p->l4_offset + 4 <= p->ip_length && (void *)(l4 + 4) <= end)
			p->l4_word = *(__be32 *)l4;
		/* One segment of a GSO packet is what must fit. */
		if (skb->gso_size) {
			__u32 header = 8;

			if (p->protocol == IPPROTO_TCP && (void *)(l4 + 13) <= end)
				header = (l4[12] >> 4) * 4;
			p->l3_length = p->l4_offset + header + skb->gso_size;
		}
	}
}

/* The frame that starts at offset base and ends with the packet: docs/design/datapath.md, "from a guest's port" 2 and 3.
 * Returns 0 or the reason to drop it. ARP is left to its own header check.
 */
INLINE enum drop_reason parse(struct __sk_buff *skb, struct packet *p, __u32 base, __u32 frame_length)
{
	void *end = (void *)(long)skb->data_end;
	struct ethernet *eth = (void *)(long)skb->data + base;
	__u32 l3_length;

	if (frame_length < ETHERNET_BYTES || (void *)(eth + 1) > end)
		return DROP_TRUNCATED;
	__builtin_memcpy(p->to, eth->destination, 6);
	__builtin_memcpy(p->from, eth->source, 6);
	p->type = eth->type;
	if (p->type == ETHERTYPE_8021Q || p->type == ETHERTYPE_8021AD)
		return DROP_VLAN_TAG;
	l3_length = frame_length - ETHERNET_BYTES;
	p->l3_length = l3_length;
	p->fragment = 0;
	if (p->type == ETHERTYPE_IPV4) {
		struct ipv4 *ip = (void *)(eth + 1);
		__u32 header;
		__u16 fragment;

		if (l3_length < IPV4_BYTES || (void *)(ip + 1) > end)
			return DROP_TRUNCATED;
		header = (ip->version_ihl & 15) * 4;
		p->ip_length = bpf_ntohs(ip->total_length);
		if (ip->version_ihl >> 4 != 4 || header < IPV4_BYTES || p->ip_length < header)
			return DROP_MALFORMED;
		if (p->ip_length > l3_length)
			return DROP_TRUNCATED;
		p->l4_offset = header;
		p->protocol = ip->protocol;
		p->hop_limit = ip->ttl;
		p->tos = ip->tos;
		p->ecn = p->outer_tos = p->tos & 3;
		fragment = bpf_ntohs(ip->fragment);
		if (fragment & IPV4_OFFSET)
			p->fragment = FRAGMENT | FRAGMENT_LATER;
		else if (fragment & IPV4_MF)
			p->fragment = FRAGMENT;
		p->source = addr_of4(ip->source);
		p->destination = addr_of4(ip->destination);
	} else if (p->type == ETHERTYPE_IPV6) {
		struct ipv6 *ip = (void *)(eth + 1);

		if (l3_length < IPV6_BYTES || (void *)(ip + 1) > end)
			return DROP_TRUNCATED;
		p->ip_length = IPV6_BYTES + bpf_ntohs(ip->payload_length);
		if (bpf_ntohl(ip->version_class_flow) >> 28 != 6)
			return DROP_MALFORMED;
		if (p->ip_length > l3_length)
			return DROP_TRUNCATED;
		p->l4_offset = IPV6_BYTES;
		p->protocol = ip->next_header;
		p->hop_limit = ip->hop_limit;
		p->tos = bpf_ntohl(ip->version_class_flow) >> 20;
		p->ecn = p->outer_tos = p->tos & 3;
		p->source = ip->source;
		p->destination = ip->destination;
		/* Inside Weft these are IPv4's own; on the wire they may not be: RFC 4291 section 2.5.5.2. */
		if (addr_is4(&p->source) || addr_is4(&p->destination))
			return DROP_MALFORMED;
		if (p->protocol == IPPROTO_FRAGMENT) {
			struct ipv6_fragment *fragment = (void *)(ip + 1);

			p->fragment = FRAGMENT;
			if (p->ip_length < IPV6_BYTES + sizeof(*fragment) || (void *)(fragment + 1) > end ||
			    fragment->offset & bpf_htons(0xfff8))
				p->fragment |= FRAGMENT_LATER;
		}
	} else if (p->type != ETHERTYPE_ARP) {
		return DROP_ETHERTYPE;
	}
	return 0;
}

/* docs/design/datapath.md "On the wire": constant for a flow (RFC 7637 section 3.2). */
INLINE __u32 word_rotl7(__be32 word)
{
	__u32 v = bpf_ntohl(word);

	return v << 7 | v >> 25;
}

INLINE __u32 flow_hash(const struct packet *p)
{
	__u32 h = 0;

	if (p->type == ETHERTYPE_IPV4) {
		h = bpf_ntohl(p->source.w[3]) ^ word_rotl7(p->destination.w[3]);
	} else {
		h = bpf_ntohl(p->source.w[0] ^ p->source.w[1] ^ p->source.w[2] ^ p->source.w[3]);
		h ^= word_rotl7(p->destination.w[0] ^ p->destination.w[1] ^ p->destination.w[2] ^ p->destination.w[3]);
	}
	h ^= p->protocol;
	h ^= bpf_ntohl(p->l4_word);
	return h * 0x9E3779B1u;
}
