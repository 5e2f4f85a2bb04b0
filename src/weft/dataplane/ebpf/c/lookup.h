/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Questions to policy. */
#pragma once

#include "maps.h"

/* Where a packet goes, once policy has spoken. */
struct target {
	const struct record *record;
	__u8 from[6]; /* source MAC on arrival */
	__u16 routed;
	__u32 vsid;
	__u32 mtu; /* of the subnet; 0: none */
	__u32 source_vsid;
	__u16 rule; /* by which it travels to another host */
	const struct way *way; /* to another host; NULL: from the first PA of the family to the record's */
};

INLINE struct subnet *subnet_of(__u32 vsid)
{
	return bpf_map_lookup_elem(&subnets, &vsid);
}

INLINE bool accepts(__u32 mask, __u16 rule)
{
	return mask >> rule & 1;
}

INLINE __u16 record_rule(const struct record *record)
{
	return record->rule & ~RECORD_MOVING;
}

INLINE struct record *record_of(__u32 vsid, const struct addr *ca)
{
	struct record_key key = { .vsid = vsid, .ca = *ca };

	return bpf_map_lookup_elem(&records, &key);
}

INLINE struct record *record_of_mac(__u32 vsid, const __u8 *mac)
{
	struct mac_key key = { .vsid = vsid };

	__builtin_memcpy(key.mac, mac, 6);
	return bpf_map_lookup_elem(&macs, &key);
}

INLINE struct local_port *local_port_of(__u32 vsid, const __u8 *mac)
{
	struct mac_key key = { .vsid = vsid };

	__builtin_memcpy(key.mac, mac, 6);
	return bpf_map_lookup_elem(&local, &key);
}

/* Whether it is where the packet came from. */
INLINE bool is_sender(const struct __sk_buff *skb, const struct local_port *port)
{
	return port->ifindex == skb->ifindex && port->vlan == skb->cb[2];
}

INLINE struct route *route_of(const struct subnet *subnet, const struct addr *destination)
{
	struct route_key key = { .prefixlen = 288, .prefix = *destination };

	key.family = addr_is4(destination) ? FAMILY_IPV4 : FAMILY_IPV6;

	__builtin_memcpy(key.rdid, subnet->rdid, 16);
	return bpf_map_lookup_elem(&routes, &key);
}

INLINE struct host *this_host(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&host, &zero);
}

/* Whether the PA is another of the host that has ``first`` for its first. Slow way: hosts with several. */
static __noinline int is_alias(const struct addr *pa, const struct addr *first)
{
	struct addr *known = pa ? bpf_map_lookup_elem(&aliases, pa) : NULL;

	return known && first && addr_equal(known, first);
}

INLINE bool is_local_pa(const struct host *h, const struct addr *pa)
{
	int i;

	/* The first is nearly always the only one. */
#pragma unroll
	for (i = 0; i < MAX_PAS; i++) {
		if (addr_equal(&h->pas[i], pa))
			return true;
		if (addr_is_zero(&h->pas[i]))
			return false;
	}
	return false;
}

/* Whether policy places it here, or here, too, while it moves. */
static __noinline int may_be_here(const struct host *h, const struct record *record, __u32 vsid)
{
	struct mac_key key = { .vsid = vsid };
	struct addr *also;

	if (!h || !record)
		return 0;
	if (is_local_pa(h, &record->pa))
		return 1;
	if (!(record->rule & RECORD_MOVING))
		return 0;
	__builtin_memcpy(key.mac, record->mac, 6);
	also = bpf_map_lookup_elem(&moving, &key);
	return also && is_local_pa(h, also);
}

/* Whether a subnet here has this group of the underlay. */
static __noinline int is_group_here(const struct host *h, const struct addr *to)
{
	return h && to && h->flags & HOST_GROUPS && addr_is_multicast(to) && bpf_map_lookup_elem(&groups, to) != NULL;
}
