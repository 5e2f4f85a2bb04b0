/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IEEE 802.1Q tags between a guest and its sub-ports. A tag that no sub-port has is left for parse() to refuse. */
#pragma once

#include "drop.h"

#define TAG_BYTES 4
#define VLAN_MASK 0x0fff

INLINE bool is_tag(__be16 type)
{
	return type == ETHERTYPE_8021Q || type == ETHERTYPE_8021AD;
}

/* The VLAN of a tag that is in the frame; 0: there is none that a sub-port can have, or another behind it. */
INLINE __u32 vlan_in_frame(struct __sk_buff *skb)
{
	__be16 tag[3];

	if (skb->len < ETHERNET_BYTES + TAG_BYTES || bpf_skb_load_bytes(skb, ETHERNET_BYTES - 2, tag, sizeof(tag)) ||
	    tag[0] != ETHERTYPE_8021Q || is_tag(tag[2]))
		return 0;
	return bpf_ntohs(tag[1]) & VLAN_MASK;
}

/* The same of a tag wherever the kernel has put it. */
static __noinline __u32 vlan_of(struct __sk_buff *skb)
{
	if (!skb->vlan_present)
		return skb->protocol == ETHERTYPE_8021Q ? vlan_in_frame(skb) : 0;
	return skb->vlan_proto == ETHERTYPE_8021Q && !is_tag(skb->protocol) ? skb->vlan_tci & VLAN_MASK : 0;
}

/* Takes the tag off a frame that is a sub-port's, wherever the kernel has put it; then it is in cb[2]. */
static __noinline int take_tag(struct __sk_buff *skb)
{
	__u32 vlan = vlan_of(skb);
	seat at = seat_of(skb->ifindex, vlan);

	if (!vlan || !bpf_map_lookup_elem(&ports, &at) || bpf_skb_vlan_pop(skb))
		return 0;
	skb->cb[2] = vlan;
	return 1;
}

/* What the agent itself sends: a sub-port's has its tag in the frame, which counts no bytes. */
static __noinline int count_agents(struct __sk_buff *skb)
{
	__u32 vlan = vlan_in_frame(skb);
	struct counters *c = counters_of(seat_of(skb->ifindex, vlan));

	if (c) {
		c->sent_packets += 1;
		c->sent_bytes += skb->len - (vlan ? TAG_BYTES : 0);
	}
	return 0;
}
