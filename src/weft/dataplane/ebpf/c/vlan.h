/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Provider addresses in an IEEE 802.1Q VLAN of an uplink, with no device for the VLAN: what is theirs gets the tag on the
 * way out, and loses it on the way in. So ARP, neighbour discovery and the agent's probes are the kernel's own.
 */
#pragma once

#include "drop.h"
#include "lookup.h"

#define VLAN_TAG_BYTES 4
#define VLAN_ID 0x0fff

/* Whether it is this host's: its own, or what stands for a guest that runs here (IP rewrite). */
static __noinline int is_pa_here(const struct host *me, const struct addr *pa)
{
	const struct record_key *place;
	const struct record *record;

	if (!me || !pa)
		return false;
	if (is_local_pa(me, pa))
		return true;
	if (!accepts(me->accepts, RULE_REWRITE))
		return false;
	place = bpf_map_lookup_elem(&rewrites, pa);
	record = place ? bpf_map_lookup_elem(&records, place) : NULL;
	return record && may_be_here(me, record, place->vsid);
}

/* Whether an ARP or IP packet is from (ends: SOURCE) or for (DESTINATION) one of this host's PAs, or speaks of who has one,
 * or is for a group that a subnet here has.
 * at: where its network header starts.
 */
enum end { SOURCE, DESTINATION };

INLINE bool has_local_prefix(const struct host *me, const struct addr *a)
{
	int i;

#pragma unroll
	for (i = 0; i < MAX_PAS; i++)
		if (!addr_is4(&me->pas[i]) && !addr_is_zero(&me->pas[i]) && me->pas[i].w[0] == a->w[0] &&
		    me->pas[i].w[1] == a->w[1])
			return true;
	return false;
}

static __noinline int concerns_pa(struct __sk_buff *skb, const struct host *me, __be16 type, __u32 at, enum end end)
{
	struct addr pa = {};
	__be32 four;
	__u8 kind;

	if (!me)
		return false;
	if (type == ETHERTYPE_ARP || type == ETHERTYPE_IPV4) {
		__u32 offset = type == ETHERTYPE_ARP ? (end == SOURCE ? 14 : 24) : (end == SOURCE ? 12 : 16);

		if (bpf_skb_load_bytes(skb, at + offset, &four, sizeof(four)))
			return false;
		pa = addr_of4(four);
		return is_pa_here(me, &pa) || (type == ETHERTYPE_IPV4 && is_group_here(me, &pa));
	}
	if (type != ETHERTYPE_IPV6 || bpf_skb_load_bytes(skb, at + (end == SOURCE ? 8 : 24), &pa, sizeof(pa)))
		return false;
	if (is_pa_here(me, &pa) || is_group_here(me, &pa))
		return true;
	/* Neighbour discovery, and no more, between link-local and multicast addresses. */
	if (bpf_skb_load_bytes(skb, at + 6, &kind, 1) || kind != IPPROTO_ICMPV6 ||
	    bpf_skb_load_bytes(skb, at + IPV6_BYTES, &kind, 1) || kind < 133 || kind > 136)
		return false;
	if (end == DESTINATION)
		return is_link_local(&pa) || addr_is_multicast(&pa);
	if (kind == 133) /* a question for routers: those of the PAs' network */
		return !addr_is_zero(&me->source6);
	return !bpf_skb_load_bytes(skb, at + IPV6_BYTES + ICMP_BYTES, &pa, sizeof(pa)) &&
	       (has_local_prefix(me, &pa) || is_pa_here(me, &pa));
}

/* A frame from an uplink of a host that has VLANs: false when it is none that the data plane, or the stack untagged, is to
 * see. The kernel has taken the tag off already and keeps it beside; where not, it is looked for in the frame.
 */
static __noinline int untag(struct __sk_buff *skb, const struct host *me)
{
	__u32 ifindex = skb->ifindex, *vlan = bpf_map_lookup_elem(&vlans, &ifindex);
	__u32 at = ETHERNET_BYTES;
	__be16 words[2] = {};

	if (!vlan)
		return !skb->vlan_present;
	if (skb->vlan_present) {
		if (skb->vlan_proto != ETHERTYPE_8021Q)
			return false;
		words[0] = bpf_htons(skb->vlan_tci);
		words[1] = skb->protocol;
	} else {
		if (skb->protocol != ETHERTYPE_8021Q || bpf_skb_load_bytes(skb, at, words, sizeof(words)))
			return false;
		at += VLAN_TAG_BYTES;
	}
	if ((bpf_ntohs(words[0]) & VLAN_ID) != *vlan || !concerns_pa(skb, me, words[1], at, DESTINATION))
		return false;
	return !bpf_skb_vlan_pop(skb) && !skb->vlan_present;
}

/* What leaves by an uplink that has a VLAN. */
static __noinline int tag(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, *vlan = bpf_map_lookup_elem(&vlans, &ifindex);
	struct host *me = this_host();

	if (vlan && me && !skb->vlan_present && concerns_pa(skb, me, skb->protocol, ETHERNET_BYTES, SOURCE))
		return bpf_skb_vlan_push(skb, ETHERTYPE_8021Q, *vlan);
	return 0;
}
