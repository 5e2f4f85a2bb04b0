/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Hands to the agent what only it can answer or decide. Never holds up a packet, and never waits for the agent. */
#pragma once

#include "drop.h"
#include "parse.h"
#include "scratch.h"
#include "upcall_kinds.h"

#define UPCALL_BURST 64 /* of one kind, by one interface, at once */

/* How long one upcall of a kind uses up an interface's share, in ns; 0: no bound. Written by the agent before the
 * programs are loaded.
 */
const volatile __u64 weft_upcall_interval_ns = 50000000;

/* Whether this port may hand up one more of the kind: the generic cell rate algorithm (ITU-T I.371), whose one
 * number is when the bucket will be full again. Two CPUs that race may let one pass too many, and no more.
 */
INLINE bool upcall_within_rate(seat port, __u16 kind)
{
	struct upcall_rate_key key = { .port = port, .kind = kind };
	__u64 now = bpf_ktime_get_ns(), full, *known;

	if (!weft_upcall_interval_ns)
		return true;
	known = bpf_map_lookup_elem(&upcall_rates, &key);
	full = known && *known > now ? *known : now;
	if (full > now + UPCALL_BURST * weft_upcall_interval_ns)
		return false;
	full += weft_upcall_interval_ns;
	if (known)
		*known = full;
	else
		bpf_map_update_elem(&upcall_rates, &key, &full, BPF_ANY);
	return true;
}

/* s->upcall, and what is behind it, into the ring, if the sender's tenant may have so much there: 0: it is. */
static __noinline int put_upcall(struct __sk_buff *skb, struct scratch *s, __u32 bytes)
{
	seat at = sender_seat(skb);
	struct port *port = bpf_map_lookup_elem(&ports, &at);
	struct tenant *of;
	__u32 tenant;

	if (!s || !port)
		return -1;
	tenant = port->tenant;
	of = tenant_at(&tenant);
	if (!of)
		return -1;
	BOUND(bytes, sizeof(s->upcall) + UPCALL_FRAME_MAX, return -1);
	if (!may_put(&upcalls, UPCALLS_BYTES, &of->upcalls, bytes) ||
	    bpf_ringbuf_output(&upcalls, &s->upcall, bytes, 0))
		return -1;
	has_put(&upcalls, &of->upcalls, bytes);
	return 0;
}

/* What an announcement says, or who speaks. The agent hears of it, unless there are too many; the packet goes on. */
static __noinline int hand_up_hint(struct __sk_buff *skb, __u32 vsid, __u32 kind, const __u8 *mac,
				   const struct addr *address)
{
	struct scratch *s = scratch_of_this_cpu();

	if (!s || !mac || !address || !upcall_within_rate(sender_seat(skb), kind))
		return 0;
	s->upcall = (struct upcall){ .ifindex = skb->ifindex, .vsid = vsid, .kind = kind };
	s->upcall.vlan = skb->cb[2];
	__builtin_memcpy(s->upcall.mac, mac, 6);
	s->upcall.address = *address;
	put_upcall(skb, s, sizeof(s->upcall));
	return 0;
}

/* The packet itself, which ends here: the agent has it, or nobody. frame: its length. */
static __noinline int hand_up(struct __sk_buff *skb, __u32 vsid, __u32 kind, struct counters *c)
{
	struct scratch *s = scratch_of_this_cpu();
	__u32 length = skb->len;

	if (!s || length < ETHERNET_BYTES || length > UPCALL_FRAME_MAX || !upcall_within_rate(sender_seat(skb), kind))
		return drop(skb, c, DROP_UPCALL_LIMIT);
	s->upcall = (struct upcall){ .ifindex = skb->ifindex, .vsid = vsid, .kind = kind, .length = length };
	s->upcall.vlan = skb->cb[2];
	BOUND(length, UPCALL_FRAME_MAX, return drop(skb, c, DROP_UPCALL_LIMIT));
	if (bpf_skb_load_bytes(skb, 0, s->upcall_frame, length))
		return drop(skb, c, DROP_TRUNCATED);
	if (put_upcall(skb, s, sizeof(s->upcall) + length))
		return drop(skb, c, DROP_UPCALL_LIMIT);
	skb->cb[0] = VERDICT_TO_AGENT;
	skb->cb[1] = kind;
	return TC_ACT_SHOT;
}
