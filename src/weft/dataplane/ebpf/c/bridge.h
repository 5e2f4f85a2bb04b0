/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Subnets that are VLANs of the physical network: bridged with what is behind its switch. Policy comes first: whom it knows
 * is where it says; the rest is learned from what comes in by the uplink. docs/design/datapath.md, "VLAN".
 */
#pragma once

#include "deliver.h"
#include "flood.h"
#include "neighbour.h"
#include "sample.h"
#include "trunk.h"

#define PACKET_HOST 0 /* linux/if_packet.h */

/* Out by the uplink: the tag is beside the frame, and moves none of its bytes. */
static __noinline int to_wire(struct __sk_buff *skb, __u32 vsid, struct counters *c)
{
	struct segment *s = segment_of(vsid);

	if (!s)
		return drop(skb, c, DROP_NO_UNDERLAY);
	count_out(skb, s, packets_in(skb));
	skb->cb[0] = VERDICT_TO_WIRE;
	skb->cb[1] = s->ifindex;
	skb->cb[2] = s->vlan;
	if (put_tag(skb, s->vlan))
		return drop(skb, c, DROP_ENCAP_FAILED);
	return bpf_redirect(s->ifindex, 0);
}

/* To a group, or to one whom nobody knows: to every port here but the sender's, and out. */
static __noinline int to_everybody(struct __sk_buff *skb, const struct packet *p, const struct port *port)
{
	seat from = sender_seat(skb);
	struct counters *c = counters_of(from);
	struct flood *f = flood_of_this_cpu();

	if (!f || !p || !port)
		return drop(skb, c, DROP_NO_UNDERLAY);
	if (has_gone_round(p, port))
		return drop(skb, c, DROP_LOOP);
	if (p->mark)
		mark(skb, p);
	if (!(p->to[0] & 1) && is_outside(port->vsid, p->to))
		return to_wire(skb, port->vsid, c);
	__builtin_memset(f, 0, sizeof(*f));
	f->packets = packets_in(skb);
	if (!flood_within_rate(from, port->flood_pps, f->packets))
		return drop(skb, c, DROP_FLOOD_LIMIT);
	f->vsid = port->vsid;
	f->from = from;
	copy_to_receivers(skb, p, f);
	f->copies += copy_to_wire(skb, port->vsid);
	return copied(skb, f, c);
}

/* To a port that is moving here, or from here: to it and out, as far as either can have it. here: it is moving from here. */
static __noinline int to_port_and_wire(struct __sk_buff *skb, const struct packet *p, const struct target *t, bool here)
{
	struct counters *c = counters_of(sender_seat(skb));
	enum drop_reason why = DROP_NO_UNDERLAY;
	struct local_port *to;
	int verdict;

	if (!p || !t)
		return TC_ACT_SHOT;
	to = open_port(skb, p, t, &why);
	if (!to && !segment_of(t->vsid))
		return drop(skb, c, here ? why : DROP_NO_UNDERLAY);
	if (!rewrite(skb, p, t))
		return drop(skb, c, DROP_TRUNCATED);
	if (!to)
		return to_wire(skb, t->vsid, c);
	if (!segment_of(t->vsid)) {
		if (!(to->flags & PORT_GUARDED))
			count_sent(skb, counters_at(to->slot));
		verdict = to_local_port(skb, to, true);
		if (!here)
			leave_reason(DROP_NO_UNDERLAY);
		return verdict;
	}
	if (copy_into_guest(skb, to->ifindex, to->vlan, to->flags))
		return to_wire(skb, t->vsid, c);
	count_sent(skb, counters_at(to->slot));
	skb->cb[1] = 1 + copy_to_wire(skb, t->vsid);
	skb->cb[0] = VERDICT_COPIES;
	return TC_ACT_SHOT;
}

/* What weft_from_port leaves to weft_bridge: ARP and neighbour discovery that policy does not answer; IP for a port on
 * another host, or that is moving, or for whom policy does not know.
 */
INLINE int bridge_out(struct __sk_buff *skb)
{
	seat at = sender_seat(skb);
	__u32 zero = 0, limit, headers;
	struct counters *c = counters_of(at);
	struct port *port = bpf_map_lookup_elem(&ports, &at);
	struct subnet *subnet = port ? subnet_of(port->vsid) : NULL;
	struct packet *p = bpf_map_lookup_elem(&packets, &zero);
	struct host *h = this_host();
	struct target t = {};
	const struct addr *also;
	struct local_port *to;
	struct record *record = NULL;
	enum drop_reason why;
	bool spoken, here;

	/* All of it was asked before: it can only have changed since. */
	if (!subnet || !p || !h)
		return drop(skb, c, DROP_NO_UNDERLAY);
	spoken = p->type == ETHERTYPE_ARP || is_neighbour_discovery(skb, p);
	if (spoken)
		p->mark = 0;
	limit = subnet->mtu;
	if (h->uplink_mtu && (!limit || h->uplink_mtu < limit))
		limit = h->uplink_mtu;
	if (limit && p->l3_length > limit)
		return spoken ? drop(skb, c, DROP_TOO_BIG) : icmp_error(skb, p, subnet, ICMP_TOO_BIG(limit), c);
	if (p->to[0] & 1)
		return to_everybody(skb, p, port);
	if (!spoken) {
		headers = p->type == ETHERTYPE_IPV4 ? 40 : 60;
		if (limit > headers && is_syn(skb, p))
			clamp_mss(skb, p, limit - headers);
		record = record_of(port->vsid, &p->destination);
	}
	if (!record)
		record = record_of_mac(port->vsid, p->to);
	if (!record)
		return to_everybody(skb, p, port);
	t.record = record;
	t.vsid = port->vsid;
	here = is_local_pa(h, &record->pa);
	if (!spoken && record->rule & RECORD_MOVING) {
		also = moving_to(h, &t);
		if (also && (here || is_local_pa(h, also)))
			return to_port_and_wire(skb, p, &t, here);
	}
	if (here) {
		to = open_port(skb, p, &t, &why);
		return to ? into_port(skb, p, &t, to, c) : drop(skb, c, why);
	}
	if (!rewrite(skb, p, &t))
		return drop(skb, c, DROP_TRUNCATED);
	return to_wire(skb, port->vsid, c);
}

/* Whose VLAN a frame from an uplink is in; NULL: none of a subnet here. */
static __noinline __u32 *segment_at(struct __sk_buff *skb)
{
	__u32 vlan = vlan_of(skb);
	seat at = seat_of(skb->ifindex, vlan);

	return vlan ? bpf_map_lookup_elem(&segment_vsids, &at) : NULL;
}

/* Whether an address is policy's to place, and not at this MAC: a port's, or the gateway's. */
static __noinline int is_another(const struct subnet *subnet, __u32 vsid, const struct addr *address, const __u8 *mac)
{
	struct record *record;

	if (!subnet || !address || !mac)
		return 0;
	record = record_of(vsid, address);
	if (record)
		return !mac_equal(record->mac, mac);
	if (addr_is4(address))
		return subnet->flags & SUBNET_HAS4 && address->w[3] == subnet->gateway4;
	return (subnet->flags & SUBNET_HAS6 && addr_equal(address, &subnet->gateway6)) ||
	       (!(subnet->router_mac[0] & 1) && is_eui64_of(address, subnet->router_mac));
}

/* What ARP says, when it is sound. Returns 0, or why it is dropped. */
static __noinline int check_arp(struct __sk_buff *skb, const struct subnet *subnet, __u32 vsid, const __u8 *from)
{
	struct arp a;
	struct addr sender;

	if (!from || bpf_skb_load_bytes(skb, ETHERNET_BYTES, &a, sizeof(a)))
		return DROP_TRUNCATED;
	if (a.hardware != bpf_htons(1) || a.protocol != ETHERTYPE_IPV4 || a.hardware_length != 6 || a.protocol_length != 4)
		return DROP_MALFORMED;
	sender = addr_of4(a.sender);
	return is_another(subnet, vsid, &sender, a.sender_mac) || is_another(subnet, vsid, &sender, from)
		       ? DROP_FORGED_SOURCE
		       : 0;
}

/* Whether a MAC is at home here: a port's that is not on its way from or to elsewhere. */
static __noinline int is_here(const struct host *me, const struct record *record, __u32 vsid)
{
	struct mac_key key = { .vsid = vsid };
	struct addr *also;

	if (!me || !record || !is_local_pa(me, &record->pa))
		return 0;
	if (!(record->rule & RECORD_MOVING))
		return 1;
	__builtin_memcpy(key.mac, record->mac, 6);
	also = bpf_map_lookup_elem(&moving, &key);
	return !also || is_local_pa(me, also);
}

/* A frame of a subnet's VLAN, from the physical network: to the ports here, and never out again. */
INLINE int bridge_in(struct __sk_buff *skb)
{
	struct host *me = this_host();
	__u32 zero = 0, packets_, vsid, *found = segment_at(skb);
	struct packet *p = bpf_map_lookup_elem(&packets, &zero);
	struct counters *c = counters_of_uplink(skb->ifindex), *to_counters;
	struct subnet *subnet;
	struct record *record;
	struct local_port *to;
	struct addr target;
	struct flood *f;
	enum drop_reason why;
	bool spoken;

	if (!me || !p || !found)
		return to_stack(skb);
	vsid = *found;
	if (bpf_skb_vlan_pop(skb))
		return drop(skb, c, DROP_ENCAP_FAILED);
	packets_ = count_received(skb, c);
	if (me->flags & HOST_SAMPLED)
		sample(skb, skb->ifindex, 0);
	subnet = subnet_of(vsid);
	if (!subnet)
		return drop(skb, c, DROP_UNKNOWN_VSID);
	pull(skb);
	__builtin_memset(p, 0, sizeof(*p));
	why = parse(skb, p, 0, skb->len);
	if (why)
		return drop(skb, c, why);
	spoken = p->type == ETHERTYPE_ARP;
	why = spoken ? check_arp(skb, subnet, vsid, p->from) : 0;
	if (why && why != DROP_FORGED_SOURCE)
		return drop(skb, c, why);
	if (p->from[0] & 1)
		return drop(skb, c, DROP_MALFORMED);
	/* IEEE 802.1Q table 8-1: between neighbours on a wire only. */
	if (p->to[0] == 1 && p->to[1] == 0x80 && p->to[2] == 0xc2 && !p->to[3] && !p->to[4] && p->to[5] < 16)
		return drop(skb, c, DROP_MULTICAST);
	record = record_of_mac(vsid, p->from);
	if ((record && is_here(me, record, vsid)) || mac_equal(p->from, subnet->router_mac))
		return drop(skb, c, DROP_LOOP);
	if (!spoken) {
		parse_transport(skb, p, ETHERNET_BYTES);
		spoken = is_neighbour_discovery(skb, p);
		if (is_another(subnet, vsid, &p->source, p->from))
			why = DROP_FORGED_SOURCE;
		if (spoken && p->icmp_type == 136) {
			if (bpf_skb_load_bytes(skb, ETHERNET_BYTES + IPV6_BYTES + ICMP_BYTES, &target, sizeof(target)) ||
			    is_another(subnet, vsid, &target, p->from))
				why = DROP_FORGED_SOURCE;
		}
	}
	if (why)
		return drop(skb, c, why);
	if (!record)
		learn(skb->ifindex, vsid, p->from);
	if (p->to[0] & 1) {
		if (!spoken)
			return may_flood(p, subnet) ? flood_locally(skb, p, subnet, vsid, packets_, c)
						    : drop(skb, c, DROP_MULTICAST);
		f = flood_of_this_cpu();
		if (!f)
			return drop(skb, c, DROP_NO_UNDERLAY);
		__builtin_memset(f, 0, sizeof(*f));
		f->packets = packets_;
		f->vsid = vsid;
		copy_to_receivers(skb, p, f);
		return copied(skb, f, c);
	}
	to = local_port_of(vsid, p->to);
	if (!to)
		return drop(skb, c, DROP_VSID_ACL);
	if (!(to->flags & PORT_ENABLED))
		return drop(skb, c, DROP_PORT_DOWN);
	if ((to->flags & (PORT_QOS | PORT_GUARDED)) == PORT_QOS &&
	    !within_limit(skb, p, seat_of(to->ifindex, to->vlan), DIRECTION_TO_GUEST, 0))
		return drop(skb, c, DROP_RATE_LIMIT);
	to_counters = counters_at(to->slot);
	if (to_counters && !(to->flags & PORT_GUARDED)) {
		to_counters->sent_packets += packets_;
		to_counters->sent_bytes += skb->len;
	}
	/* It was sent to the guest's MAC, which the uplink's is not: the guest's stack is to have it all the same. */
	bpf_skb_change_type(skb, PACKET_HOST);
	return to_local_port(skb, to, true);
}
