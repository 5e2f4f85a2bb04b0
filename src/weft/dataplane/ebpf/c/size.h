/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What fits: the MSS of a TCP SYN is lowered to it (RFC 879, RFC 1624). */
#pragma once

#include "parse.h"

#define TCP_OPTIONS_MAX 10

/* Lower the MSS option to limit, where there is one and it is larger. Slow way: SYN segments only. */
__noinline int clamp_mss(struct __sk_buff *skb, const struct packet *p, __u32 limit)
{
	__u32 tcp, at, stop, check_offset;
	__u8 head[20];
	int i;

	if (!p)
		return 0;
	tcp = ETHERNET_BYTES + p->l4_offset;
	if (p->ip_length < p->l4_offset + 20 || bpf_skb_load_bytes(skb, tcp, head, sizeof(head)))
		return 0;
	at = tcp + 20;
	stop = tcp + (head[12] >> 4) * 4;
	if (stop < at || stop > ETHERNET_BYTES + p->ip_length)
		return 0;
	check_offset = tcp + 16;
#pragma clang loop unroll(disable)
	for (i = 0; i < TCP_OPTIONS_MAX; i++) {
		__u8 option[4];
		__u16 mss;

		if (at >= stop || bpf_skb_load_bytes(skb, at, option, 1) || option[0] == 0)
			return 0;
		if (option[0] == 1) {
			at += 1;
			continue;
		}
		if (at + 2 > stop || bpf_skb_load_bytes(skb, at, option, 2) || option[1] < 2 || at + option[1] > stop)
			return 0;
		if (option[0] != 2) {
			at += option[1];
			continue;
		}
		if (option[1] != 4 || bpf_skb_load_bytes(skb, at, option, 4))
			return 0;
		mss = (__u16)option[2] << 8 | option[3];
		if (mss <= limit)
			return 0;
		option[2] = limit >> 8;
		option[3] = limit;
		/* The checksum sums 16-bit words: at an odd offset the two bytes count in swapped places. Left alone when
		 * the guest has not finished it (checksum offload): then it does not cover the header yet.
		 */
		if ((at - tcp) & 1)
			bpf_l4_csum_replace(skb, check_offset, bpf_htons((mss & 0xff) << 8 | mss >> 8),
					    bpf_htons((limit & 0xff) << 8 | (limit >> 8 & 0xff)), 2);
		else
			bpf_l4_csum_replace(skb, check_offset, bpf_htons(mss), bpf_htons(limit), 2);
		bpf_skb_store_bytes(skb, at + 2, option + 2, 2, 0);
		return 0;
	}
	return 0;
}

/* A TCP segment that opens a connection, directly behind the network header. */
INLINE bool is_syn(struct __sk_buff *skb, const struct packet *p)
{
	__u8 *tcp = (__u8 *)(long)skb->data + ETHERNET_BYTES + (p->l4_offset & 63);

	if (p->protocol != IPPROTO_TCP || p->fragment || p->ip_length < p->l4_offset + 20)
		return false;
	return (void *)(tcp + 20) <= (void *)(long)skb->data_end && tcp[13] & 2;
}
