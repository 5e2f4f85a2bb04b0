/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IP rewrite on the way in: what comes from PA to PA becomes a guest's again. docs/design/datapath.md */
#pragma once

#include "deliver.h"
#include "rewrite.h"

/* Whom the destination of a frame from the physical network stands for; NULL: nobody. */
INLINE const struct record_key *rewritten_for(struct __sk_buff *skb)
{
	void *end = (void *)(long)skb->data_end;
	struct ethernet *eth = (void *)(long)skb->data;
	struct addr pa;

	if (skb->protocol == ETHERTYPE_IPV4) {
		struct ipv4 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->version_ihl >> 4 != 4)
			return NULL;
		pa = addr_of4(ip->destination);
	} else {
		struct ipv6 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || bpf_ntohl(ip->version_class_flow) >> 28 != 6)
			return NULL;
		pa = ip->destination;
		if (addr_is4(&pa))
			return NULL;
	}
	return bpf_map_lookup_elem(&rewrites, &pa);
}

INLINE bool same_domain(const struct subnet *a, const struct subnet *b)
{
	const __u64 *x = (const void *)a->rdid, *y = (const void *)b->rdid;

	return x[0] == y[0] && x[1] == y[1];
}

/* Whom the source stands for, when that is somebody who may be: of the subnet's routing domain, on another host. */
INLINE const struct record_key *rewritten_from(const struct packet *p, const struct host *me,
					       const struct subnet *subnet, const struct record **record)
{
	const struct record_key *from = bpf_map_lookup_elem(&rewrites, &p->source);
	struct subnet *theirs;

	if (!from)
		return NULL;
	*record = bpf_map_lookup_elem(&records, from);
	/* One that is moving from here may send from there already. */
	if (!*record || (is_local_pa(me, &(*record)->pa) && !((*record)->rule & RECORD_MOVING)))
		return NULL;
	theirs = subnet_of(from->vsid);
	if (!theirs || !same_domain(theirs, subnet) || !accepts(theirs->flags >> SUBNET_ACCEPTS, RULE_REWRITE))
		return NULL;
	return from;
}

/* docs/design/datapath.md, "IP rewrite", on the way in: a frame that no tunnel's header explains. */
INLINE int take_rewritten(struct __sk_buff *skb)
{
	struct host *me = this_host();
	const struct record_key *place = rewritten_for(skb), *from;
	const struct record *here, *theirs = NULL;
	struct subnet *subnet;
	struct local_port *to;
	struct counters *c, *to_counters;
	struct packet p = {};
	struct ethernet *eth;
	enum drop_reason why;
	__u32 packets;

	if (!me || !place)
		return to_stack(skb);
	here = bpf_map_lookup_elem(&records, place);
	if (!here || !may_be_here(me, here, place->vsid))
		return to_stack(skb);
	c = counters_of(skb->ifindex);
	packets = count_received(skb, c);
	why = parse(skb, &p, 0, skb->len);
	if (why)
		return drop(skb, c, why);
	if (p.to[0] & 1)
		return drop(skb, c, DROP_MULTICAST);
	subnet = subnet_of(place->vsid);
	if (!subnet)
		return drop(skb, c, DROP_UNKNOWN_VSID);
	if (!accepts(subnet->flags >> SUBNET_ACCEPTS, RULE_REWRITE))
		return drop(skb, c, DROP_RULE_NOT_ACCEPTED);
	from = rewritten_from(&p, me, subnet, &theirs);
	if (!from || !theirs)
		return drop(skb, c, DROP_FORGED_SOURCE);
	to = local_port_of(place->vsid, here->mac);
	if (!to)
		return drop(skb, c, DROP_VSID_ACL);
	if (!(to->flags & PORT_ENABLED))
		return drop(skb, c, DROP_PORT_DOWN);
	if ((to->flags & (PORT_QOS | PORT_GUARDED)) == PORT_QOS &&
	    !within_limit(skb, &p, seat_of(to->ifindex, to->vlan), DIRECTION_TO_GUEST, 0))
		return drop(skb, c, DROP_RATE_LIMIT);
	if (put_addresses(skb, &p, &from->ca, &place->ca))
		return drop(skb, c, DROP_ENCAP_FAILED);
	eth = (void *)(long)skb->data;
	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return drop(skb, c, DROP_TRUNCATED);
	__builtin_memcpy(eth->destination, here->mac, 6);
	__builtin_memcpy(eth->source, from->vsid == place->vsid ? theirs->mac : subnet->router_mac, 6);
	to_counters = counters_of(seat_of(to->ifindex, to->vlan));
	if (to_counters && !(to->flags & PORT_GUARDED)) {
		to_counters->sent_packets += packets;
		to_counters->sent_bytes += skb->len;
	}
	return to_local_port(skb, *to, true);
}
