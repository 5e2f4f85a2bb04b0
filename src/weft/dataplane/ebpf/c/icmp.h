/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the gateway says: ICMP errors (RFC 792, RFC 4443) and echo replies. The slow way: never inlined. */
#pragma once

#include "drop.h"
#include "parse.h"
#include "scratch.h"

#define QUOTE4_MAX 548 /* so that the answer stays within 576 bytes: RFC 1812 section 4.3.2.3 */

/* An error to send, in one register: type and code for IPv4, for IPv6, the reason of the drop, the MTU (24 bits). */
#define ICMP_ERROR(type4, code4, type6, code6, reason, mtu) \
	((__u64)(type4) << 56 | (__u64)(code4) << 48 | (__u64)(type6) << 40 | (__u64)(code6) << 32 | \
	 (__u64)(reason) << 24 | (mtu))
#define ICMP_NO_ROUTE ICMP_ERROR(3, 0, 1, 0, DROP_NO_ROUTE, 0)
#define ICMP_NO_HOST ICMP_ERROR(3, 1, 1, 3, DROP_NO_RECORD, 0)
#define ICMP_NO_PORT ICMP_ERROR(3, 3, 1, 4, DROP_TO_GATEWAY, 0)
#define ICMP_TIME_EXCEEDED ICMP_ERROR(11, 0, 3, 0, DROP_TTL_EXPIRED, 0)
#define ICMP_TOO_BIG(mtu) ICMP_ERROR(3, 4, 2, 0, DROP_TOO_BIG, (mtu) & 0xffffff)
#define ICMP_REASON(error) ((error) >> 24 & 0xff)

/* RFC 1122 section 3.2.2 and RFC 4443 section 2.4 (e): when no error may be sent. */
INLINE bool icmp_allowed(const struct packet *p)
{
	if (p->fragment & FRAGMENT_LATER)
		return false;
	if (addr_is_unspecified(&p->source) || addr_is_multicast(&p->source))
		return false;
	if (!is_icmp(p))
		return true;
	if (!p->has_icmp_type)
		return false;
	if (p->type == ETHERTYPE_IPV4)
		return p->icmp_type != 3 && p->icmp_type != 4 && p->icmp_type != 5 && p->icmp_type != 11 && p->icmp_type != 12;
	return p->icmp_type >= 128 && p->icmp_type != 137;
}

/* Sum of the scratch from start to its zeroed tail; length only bounds the work. */
INLINE __u32 csum_scratch(const __u8 *start, __u32 length, __u32 sum)
{
	int i;

	/* Unrolled, each piece is where the verifier of Linux 6.1 sees that it is within the scratch. */
#pragma unroll
	for (i = 0; i < (ICMP_BYTES + QUOTE6_MAX + CSUM_CHUNK - 1) / CSUM_CHUNK; i++) {
		if (i * CSUM_CHUNK >= (int)length)
			break;
		sum = bpf_csum_diff(0, 0, (void *)(start + i * CSUM_CHUNK), CSUM_CHUNK, sum);
	}
	return sum;
}

/* The packet is dropped for the error's reason; the sender is told, from the gateway address, where that is allowed. */
__noinline int icmp_error(struct __sk_buff *skb, const struct packet *p, const struct subnet *subnet,
				 __u64 error, struct counters *c)
{
	struct scratch *s = scratch_of_this_cpu();
	enum drop_reason reason = ICMP_REASON(error);
	__u32 mtu = error & 0xffffff;
	__u32 quote, total;
	struct ethernet *eth;
	struct icmp *icmp;

	if (!s || !p || !subnet || !skb)
		return TC_ACT_SHOT;
	if (!icmp_allowed(p) || !(subnet->flags & (p->type == ETHERTYPE_IPV4 ? SUBNET_HAS4 : SUBNET_HAS6)))
		return drop(skb, c, reason);
	quote = p->ip_length;
	__builtin_memset(s->frame, 0, 128);
	eth = (void *)s->frame;
	__builtin_memcpy(eth->destination, p->from, 6);
	__builtin_memcpy(eth->source, subnet->router_mac, 6);
	eth->type = p->type;
	if (p->type == ETHERTYPE_IPV4) {
		struct ipv4 *ip = (void *)(eth + 1);

		if (quote > QUOTE4_MAX)
			quote = QUOTE4_MAX;
		if (quote < IPV4_BYTES)
			return drop(skb, c, reason);
		if (mtu > 0xffff)
			mtu = 0xffff;
		icmp = (void *)(ip + 1);
		total = ETHERNET_BYTES + IPV4_BYTES + ICMP_BYTES + quote;
		if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, icmp + 1, quote))
			return drop(skb, c, reason);
		/* The checksum runs over whole chunks: what lies behind the quote must be zero. */
		__builtin_memset((__u8 *)(icmp + 1) + quote, 0, CSUM_CHUNK);
		icmp->type = error >> 56;
		icmp->code = error >> 48;
		icmp->check = 0;
		icmp->rest = bpf_htonl(mtu);
		icmp->check = csum_fold(csum_scratch((void *)icmp, ICMP_BYTES + quote, 0));
		ip->version_ihl = 0x45;
		ip->total_length = bpf_htons(total - ETHERNET_BYTES);
		ip->fragment = bpf_htons(IPV4_DF);
		ip->ttl = 64;
		ip->protocol = IPPROTO_ICMP;
		ip->source = subnet->gateway4;
		ip->destination = p->source.w[3];
		ip->check = 0;
		ip->check = csum_fold(bpf_csum_diff(0, 0, (void *)ip, IPV4_BYTES, 0));
	} else {
		struct ipv6 *ip = (void *)(eth + 1);
		__u32 sum;

		if (quote > QUOTE6_MAX)
			quote = QUOTE6_MAX;
		if (quote < IPV6_BYTES)
			return drop(skb, c, reason);
		icmp = (void *)(ip + 1);
		total = ETHERNET_BYTES + IPV6_BYTES + ICMP_BYTES + quote;
		if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, icmp + 1, quote))
			return drop(skb, c, reason);
		__builtin_memset((__u8 *)(icmp + 1) + quote, 0, CSUM_CHUNK);
		icmp->type = error >> 40;
		icmp->code = error >> 32;
		icmp->check = 0;
		icmp->rest = bpf_htonl(mtu);
		ip->version_class_flow = bpf_htonl(6u << 28);
		ip->payload_length = bpf_htons(ICMP_BYTES + quote);
		ip->next_header = IPPROTO_ICMPV6;
		ip->hop_limit = 64;
		ip->source = subnet->gateway6;
		ip->destination = p->source;
		/* Pseudo-header (RFC 8200 section 8.1): both addresses, length, next header. */
		sum = bpf_csum_diff(0, 0, (void *)&ip->source, 2 * sizeof(struct addr), 0);
		sum = csum_scratch((void *)icmp, ICMP_BYTES + quote, sum);
		icmp->check = csum_fold((__u64)sum + bpf_htonl(ICMP_BYTES + quote) + bpf_htonl(IPPROTO_ICMPV6));
	}
	/* Before the change, which leaves nothing of a GSO packet's segments. */
	count_drop(skb, c, reason);
	if (bpf_skb_change_tail(skb, total, 0) || bpf_skb_store_bytes(skb, 0, s->frame, total, 0))
		return dropped(skb, reason);
	return answer(skb, c);
}

/* A packet for the gateway itself: ping is answered, what looks for a service is told that there is none. */
static __noinline int to_gateway(struct __sk_buff *skb, const struct packet *p, const struct subnet *subnet,
				 struct counters *c)
{
	void *end;
	struct ethernet *eth;
	struct icmp *icmp;
	__u32 l4_offset;

	if (!p || !subnet || !skb)
		return TC_ACT_SHOT;
	l4_offset = p->l4_offset;
	if (p->fragment)
		return drop(skb, c, DROP_TO_GATEWAY);
	if (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP)
		return icmp_error(skb, p, subnet, ICMP_NO_PORT, c);
	if (!is_icmp(p) || p->ip_length < l4_offset + ICMP_BYTES || l4_offset > 60)
		return drop(skb, c, DROP_TO_GATEWAY);
	eth = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	icmp = (void *)((__u8 *)(eth + 1) + l4_offset);
	if ((void *)(icmp + 1) > end)
		return drop(skb, c, DROP_TO_GATEWAY);
	if (p->type == ETHERTYPE_IPV4) {
		struct ipv4 *ip = (void *)(eth + 1);
		__be32 source;
		__be16 old, new;

		if ((void *)(ip + 1) > end || icmp->type != 8 || icmp->code != 0)
			return drop(skb, c, DROP_TO_GATEWAY);
		source = ip->source;
		ip->source = ip->destination;
		ip->destination = source;
		__builtin_memcpy(&old, &ip->ttl, 2);
		ip->ttl = 64;
		__builtin_memcpy(&new, &ip->ttl, 2);
		ip->check = csum_update(ip->check, old, new);
		icmp->type = 0;
		icmp->check = csum_update(icmp->check, bpf_htons(8 << 8), 0);
	} else {
		struct ipv6 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || icmp->type != 128 || icmp->code != 0)
			return drop(skb, c, DROP_TO_GATEWAY);
		ip->source = p->destination;
		ip->destination = p->source;
		ip->hop_limit = 64;
		icmp->type = 129;
		icmp->check = csum_update(icmp->check, bpf_htons(128 << 8), bpf_htons(129 << 8));
	}
	__builtin_memcpy(eth->destination, p->from, 6);
	__builtin_memcpy(eth->source, subnet->router_mac, 6);
	return answer(skb, c);
}
