/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* To where policy has placed the destination: a local port, or another host. docs/design/datapath.md, step 10. */
#pragma once

#include "size.h"
#include "underlay.h"

INLINE int to_local_port(struct __sk_buff *skb, __u32 ifindex, __u32 flags, bool peer_works)
{
	skb->cb[0] = VERDICT_TO_PORT;
	skb->cb[1] = ifindex;
	if (flags & PORT_PEER && peer_works)
		return bpf_redirect_peer(ifindex, 0);
	skb->mark = WEFT_MARK;
	return bpf_redirect(ifindex, 0);
}

/* Step 10. own: the sender's subnet, whose gateway speaks when something does not fit. */
INLINE int deliver(struct __sk_buff *skb, const struct packet *p, struct target *t, const struct subnet *own,
		   struct counters *c)
{
	struct host *h = this_host();
	struct local_port *to;
	__u32 limit = t->mtu, headers;
	bool local_pa;

	if (!h)
		return drop(skb, c, DROP_NO_UNDERLAY);
	local_pa = is_local_pa(h, &t->record->pa);
	if (!local_pa && h->uplink_mtu) {
		__u32 left = h->uplink_mtu;

		t->way = way_of(h, p, &t->record->pa);
		if (t->way && t->way->mtu && t->way->mtu < left)
			left = t->way->mtu;
		left -= tunnel_bytes(t->record->rule, &t->record->pa);
		if (!limit || left < limit)
			limit = left;
	}
	if (limit) {
		if (p->l3_length > limit)
			return icmp_error(skb, p, own, ICMP_TOO_BIG(limit), c);
		headers = p->type == ETHERTYPE_IPV4 ? 40 : 60;
		if (limit > headers && is_syn(skb, p))
			clamp_mss(skb, p, limit - headers);
	}
	if (!local_pa)
		return to_underlay(skb, p, t, h, own, c);
	to = local_port_of(t->vsid, t->record->mac);
	if (!to)
		return drop(skb, c, DROP_VSID_ACL);
	if (to->ifindex == skb->ifindex)
		return drop(skb, c, DROP_HAIRPIN);
	if (!(to->flags & PORT_ENABLED))
		return drop(skb, c, DROP_PORT_DOWN);
	if (to->flags & PORT_QOS && !within_limit(skb, p, to->ifindex, DIRECTION_TO_GUEST, 0))
		return drop(skb, c, DROP_RATE_LIMIT);
	if (!rewrite(skb, p, t))
		return drop(skb, c, DROP_TRUNCATED);
	count_sent(skb, counters_of(to->ifindex));
	return to_local_port(skb, to->ifindex, to->flags, true);
}
