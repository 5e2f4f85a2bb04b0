/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Verdicts, and the counting that goes with each. */
#pragma once

#include "drop_reasons.h"
#include "maps.h"

/* What became of a packet, in skb->cb[0], and to which interface, in cb[1]: tests read it, nothing else does. */
enum verdict {
	VERDICT_TO_PORT = 1,
	VERDICT_TO_UNDERLAY = 2,
	VERDICT_ANSWER = 3,
	VERDICT_TO_STACK = 4,
	VERDICT_DROP = 5,
};

/* The mark of a packet that the data plane itself sends towards a guest; weft_to_port lets nothing else pass. */
#define WEFT_MARK 0x57454654

INLINE __u32 packets_in(const struct __sk_buff *skb)
{
	return skb->gso_segs ? skb->gso_segs : 1;
}

INLINE struct counters *counters_of(__u32 ifindex)
{
	struct counters *c = bpf_map_lookup_elem(&counters, &ifindex);
	__u32 unknown = 0;

	return c ? c : bpf_map_lookup_elem(&counters, &unknown);
}

INLINE void count_received(const struct __sk_buff *skb, struct counters *c)
{
	if (c) {
		c->received_packets += packets_in(skb);
		c->received_bytes += skb->len;
	}
}

INLINE void count_sent(const struct __sk_buff *skb, struct counters *c)
{
	if (c) {
		c->sent_packets += packets_in(skb);
		c->sent_bytes += skb->len;
	}
}

INLINE void count_drop(const struct __sk_buff *skb, struct counters *c, enum drop_reason reason)
{
	if (c)
		c->drops[reason & 31] += packets_in(skb);
}

INLINE int drop(struct __sk_buff *skb, struct counters *c, enum drop_reason reason)
{
	count_drop(skb, c, reason);
	skb->cb[0] = VERDICT_DROP;
	skb->cb[1] = reason;
	return TC_ACT_SHOT;
}

/* Back out of the port that the packet came from. */
INLINE int answer(struct __sk_buff *skb, struct counters *c)
{
	count_sent(skb, c);
	skb->cb[0] = VERDICT_ANSWER;
	skb->cb[1] = skb->ifindex;
	skb->mark = WEFT_MARK;
	return bpf_redirect(skb->ifindex, 0);
}
