/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a port may send and receive, and how its packets are marked: docs/design/datapath.md, Quality of service. A port
 * without any of it never comes here: its flag says so.
 */
#pragma once

#include "bucket.h"
#include "drop.h"
#include "parse.h"

INLINE struct qos *qos_of(seat port)
{
	return bpf_map_lookup_elem(&qos, &port);
}

/* How much of a port's limit a packet is, on the wire of the guest: each segment of one that is yet to be segmented has
 * the headers. at: where in the packet the guest's frame begins.
 */
INLINE __u32 wire_bytes(struct __sk_buff *skb, const struct packet *p, __u32 at, __u32 packets)
{
	__u32 length = skb->len - at;
	__u32 headers = ETHERNET_BYTES + p->l4_offset;
	__u8 words = 5 << 4;

	if (packets < 2)
		return length;
	if (p->protocol == IPPROTO_UDP)
		headers += UDP_BYTES;
	else if (!bpf_skb_load_bytes(skb, at + headers + 12, &words, 1))
		headers += (words >> 4) * 4;
	return length + (packets - 1) * headers;
}

/* 1: the port may send, or be sent, this frame now. */
static __noinline int within_limit(struct __sk_buff *skb, const struct packet *p, seat port, __u32 direction, __u32 at)
{
	struct bucket_key key = { .port = port, .direction = direction };
	struct qos *q = qos_of(port);
	const struct limit *limit;
	struct bucket *b;
	__u32 packets;

	if (!p || !q)
		return 1;
	limit = direction == DIRECTION_TO_GUEST ? &q->to_guest : &q->from_guest;
	if (!limit->bits.rate && !limit->packets.rate)
		return 1;
	b = bpf_map_lookup_elem(&buckets, &key);
	if (!b)
		return 1;
	packets = packets_in(skb);
	return take(b, limit, bpf_ktime_get_ns(), wire_bytes(skb, p, at, packets), packets);
}

/* What a port's packet is to be marked with, inside and outside: RFC 2474, RFC 2983 section 3. ECN bits are not QoS's. */
static __noinline int choose_marks(struct packet *p, seat port)
{
	struct qos *q = qos_of(port);
	__u8 dscp;

	if (!p || !q)
		return 0;
	p->mark = q->mark;
	dscp = q->outer_dscp;
	if (dscp == DSCP_COPY)
		dscp = q->mark ? q->mark & ~DSCP_MARK : p->tos >> 2;
	p->outer_tos = dscp << 2 | p->ecn;
	return 0;
}

/* The DSCP that was chosen, into the packet. */
static __noinline int mark(struct __sk_buff *skb, const struct packet *p)
{
	void *end = (void *)(long)skb->data_end;
	struct ethernet *eth = (void *)(long)skb->data;
	__u8 dscp;

	if (!p)
		return 0;
	dscp = p->mark & ~DSCP_MARK;
	if (p->type == ETHERTYPE_IPV4) {
		struct ipv4 *ip = (void *)(eth + 1);
		__u16 old, new;

		if ((void *)(ip + 1) > end)
			return 0;
		__builtin_memcpy(&old, &ip->version_ihl, 2);
		ip->tos = dscp << 2 | (ip->tos & 3);
		__builtin_memcpy(&new, &ip->version_ihl, 2);
		ip->check = csum_update(ip->check, old, new);
	} else {
		struct ipv6 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end)
			return 0;
		ip->version_class_flow = (ip->version_class_flow & bpf_htonl(~(0xfcu << 20))) | bpf_htonl((__u32)dscp << 22);
	}
	return 0;
}
