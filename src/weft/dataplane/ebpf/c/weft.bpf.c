// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The eBPF data plane: what docs/design/datapath.md says, in its order. Keeps no state but its counters.
 *
 * weft_from_port    TC ingress of a port's interface: what a guest sends, read, and sent on as the one before it was
 * weft_port         the rest of weft_from_port where nothing like it is remembered: policy is asked
 * weft_from_uplink  TC ingress of an uplink: what comes from the physical network
 * weft_from_wire    the same of a frame in the VLAN of a subnet that is bridged
 * weft_bridge       the rest of weft_from_port for what goes out in such a VLAN
 * weft_flood        the rest of weft_from_port for what goes to many: a program of its own has a stack of its own
 * weft_ingress      before a guarded port is given something: may it come to it?
 * weft_to_uplink    TC egress of an uplink whose PAs are in a VLAN: puts their tag on
 * weft_to_port      TC egress of a port's interface: lets nothing to the guest but what the other two sent
 */
#include "antispoof.h"
#include "bridge.h"
#include "deliver.h"
#include "dhcp.h"
#include "established.h"
#include "flood.h"
#include "neighbour.h"
#include "overwrite.h"
#include "rewritten.h"
#include "sample.h"
#include "trunk.h"
#include "vlan.h"

#define TO_DELIVER 0x7e12 /* what route() and bridge() return, when they know where to */

#define PROGRAM_FLOOD 0
#define PROGRAM_REWRITTEN 1
#define PROGRAM_REWRITE 2
#define PROGRAM_BRIDGE 3
#define PROGRAM_FROM_WIRE 4
#define PROGRAM_INGRESS 5
#define PROGRAM_INGRESS_COPY 6
#define PROGRAM_PORT 7

/* Step 8: the destination MAC is the distributed router's. */
INLINE int route(struct __sk_buff *skb, const struct packet *p, struct target *t, const struct subnet *subnet,
		 struct counters *c)
{
	struct subnet *to = NULL;
	struct route *r;
	struct record *record;

	if (addr_is_multicast(&p->destination))
		return drop(skb, c, DROP_MULTICAST);
	if (is_link_local(&p->destination)) {
		if (is_eui64_of(&p->destination, subnet->router_mac))
			return to_gateway(skb, p, subnet, c);
		return drop(skb, c, DROP_NO_ROUTE);
	}
	r = route_of(subnet, &p->destination);
	if (!r)
		return icmp_error(skb, p, subnet, ICMP_NO_ROUTE, c);
	t->routed = 1;
	t->vsid = r->vsid;
	to = subnet_of(r->vsid);
	if (!to)
		return drop(skb, c, DROP_UNKNOWN_VSID);
	if (!r->via && (p->type == ETHERTYPE_IPV4
				? to->flags & SUBNET_HAS4 && p->destination.w[3] == to->gateway4
				: to->flags & SUBNET_HAS6 && addr_equal(&p->destination, &to->gateway6)))
		return to_gateway(skb, p, subnet, c);
	/* RFC 4291 section 2.5.6: a router forwards no packet from a link-local address. */
	if (is_link_local(&p->source))
		return drop(skb, c, DROP_NO_ROUTE);
	if (p->hop_limit <= 1)
		return icmp_error(skb, p, subnet, ICMP_TIME_EXCEEDED, c);
	record = record_of(r->vsid, r->via ? &r->next_hop : &p->destination);
	if (!record)
		return icmp_error(skb, p, subnet, ICMP_NO_HOST, c);
	t->record = record;
	t->mtu = to->mtu;
	__builtin_memcpy(t->from, to->router_mac, 6);
	return TO_DELIVER;
}

/* Step 9: another unicast MAC: within the subnet. */
INLINE int bridge(struct __sk_buff *skb, const struct packet *p, struct target *t, const struct port *port,
		  const struct subnet *subnet, struct counters *c)
{
	struct record *record = record_of(port->vsid, &p->destination);

	if (!record)
		record = record_of_mac(port->vsid, p->to);
	if (!record)
		return subnet->flags & SUBNET_BRIDGED ? TO_BRIDGE : drop(skb, c, DROP_NO_RECORD);
	t->vsid = port->vsid;
	t->mtu = subnet->mtu;
	t->record = record;
	return TO_DELIVER;
}

/* What a guarded port sends, and weft_from_port has read: 0, or why it does not pass. A global function: the verifier
 * takes it by itself.
 */
__noinline int may_leave(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct packet *p = bpf_map_lookup_elem(&packets, &zero);

	return p ? guarded(skb, p, sender_seat(skb), DIRECTION_FROM_GUEST) : DROP_SECURITY_GROUP;
}

/* What is to come to a guarded port: 0, or why it does not. */
INLINE int arrives(struct __sk_buff *skb, struct packet *p, bool is_read, seat at, __u32 flags)
{
	bool spoken;
	int why;

	if (!p)
		return DROP_SECURITY_GROUP;
	if (!is_read) {
		pull_frame(skb, 0);
		if (parse(skb, p, 0, skb->len))
			return DROP_CONNECTION_INVALID;
		if (p->type != ETHERTYPE_ARP)
			parse_transport(skb, p, ETHERNET_BYTES);
	}
	/* ARP and neighbour discovery are not asked of. */
	spoken = p->type == ETHERTYPE_ARP;
	if (p->type == ETHERTYPE_IPV6 && p->protocol == IPPROTO_ICMPV6 && p->hop_limit == 255)
		spoken = is_neighbour_discovery(skb, p);
	why = spoken ? 0 : guarded(skb, p, at, DIRECTION_TO_GUEST);
	if (why)
		return why;
	return flags & PORT_QOS && !within_limit(skb, p, at, DIRECTION_TO_GUEST, 0) ? DROP_RATE_LIMIT : 0;
}

SEC("tc")
int weft_flood(struct __sk_buff *skb)
{
	seat at = sender_seat(skb);
	struct port *port = bpf_map_lookup_elem(&ports, &at);
	struct counters *c = port ? counters_at(port->slot) : counters_of(at);
	struct subnet *subnet = port ? subnet_of(port->vsid) : NULL;
	__u32 zero = 0;
	struct packet *p = bpf_map_lookup_elem(&packets, &zero); /* as weft_from_port has left it */

	/* All of it was asked before: it can only have changed since. */
	if (!subnet || !p)
		return drop(skb, c, DROP_PORT_UNBOUND);
	return flood(skb, p, port, subnet, c);
}

/* What is for a guarded port: security groups and connections, then its limit. A drop is counted where it came in. */
SEC("tc")
int weft_ingress(struct __sk_buff *skb)
{
	struct scratch *s = scratch_of_this_cpu();
	struct local_port to;
	struct packet *p;
	__u32 zero = 0, otherwise;
	int why;

	p = bpf_map_lookup_elem(&packets, &zero);
	if (!s || !p)
		return drop(skb, counters_of(sender_seat(skb)), DROP_SECURITY_GROUP);
	to = s->arrival.to;
	otherwise = s->arrival.otherwise;
	why = arrives(skb, p, s->arrival.is_read, seat_of(to.ifindex, to.vlan), to.flags);
	if (why)
		return drop(skb, counters_of(sender_seat(skb)), otherwise ? otherwise : why);
	count_sent(skb, counters_at(to.slot));
	return into_guest(skb, &to, s->arrival.peer_works);
}

/* The same of a copy, on its way out to the guest: whoever made it counts it, and hears whether it passed. */
SEC("tc")
int weft_ingress_copy(struct __sk_buff *skb)
{
	seat at = seat_of(skb->ifindex, skb->vlan_present ? skb->vlan_tci & VLAN_MASK : 0);
	struct port *port = bpf_map_lookup_elem(&ports, &at);
	__u32 one = 1;
	struct packet *p = bpf_map_lookup_elem(&packets, &one);

	skb->mark = 0;
	if (!port || !p || arrives(skb, p, false, at, port->flags))
		return TC_ACT_SHOT;
	if (port->flags & PORT_MIRRORED)
		mirror(skb, skb->ifindex, DIRECTION_TO_GUEST);
	return TC_ACT_UNSPEC;
}

/* Run by the agent on what it asks of the connections. */
SEC("tc")
int weft_conntrack(struct __sk_buff *skb)
{
	return do_asked(skb);
}

/* Run by the agent on what it writes over entries that are there. */
SEC("tc")
int weft_overwrite(struct __sk_buff *skb)
{
	return overwrite(skb);
}

/* Run by the agent on whom it has forgotten. */
SEC("tc")
int weft_unlearn(struct __sk_buff *skb)
{
	return unlearn_asked(skb);
}

SEC("tc")
int weft_rewrite(struct __sk_buff *skb)
{
	return rewritten_to_underlay(skb);
}

int weft_rewritten(struct __sk_buff *skb);

int weft_bridge(struct __sk_buff *skb);
int weft_from_wire(struct __sk_buff *skb);
int weft_port(struct __sk_buff *skb);

/* programs: what weft_from_port and weft_from_uplink go on with. Filled as the object is loaded. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 8);
	__uint(key_size, sizeof(__u32));
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__array(values, int(struct __sk_buff *));
} programs SEC(".maps") = {
	.values = {
		[PROGRAM_FLOOD] = weft_flood,
		[PROGRAM_REWRITTEN] = weft_rewritten,
		[PROGRAM_REWRITE] = weft_rewrite,
		[PROGRAM_BRIDGE] = weft_bridge,
		[PROGRAM_FROM_WIRE] = weft_from_wire,
		[PROGRAM_PORT] = weft_port,
		[PROGRAM_INGRESS] = weft_ingress,
		[PROGRAM_INGRESS_COPY] = weft_ingress_copy,
	},
};

INLINE int to_flood(struct __sk_buff *skb, struct counters *c)
{
	bpf_tail_call(skb, &programs, PROGRAM_FLOOD);
	return drop(skb, c, DROP_ENCAP_FAILED);
}

INLINE int to_bridge(struct __sk_buff *skb, struct counters *c)
{
	bpf_tail_call(skb, &programs, PROGRAM_BRIDGE);
	return drop(skb, c, DROP_ENCAP_FAILED);
}

/* What a program returns whose packet is for a guarded port. */
INLINE int to_ingress(struct __sk_buff *skb, struct counters *c)
{
	bpf_tail_call(skb, &programs, PROGRAM_INGRESS);
	return drop(skb, c, DROP_ENCAP_FAILED);
}

SEC("tc")
int weft_rewritten(struct __sk_buff *skb)
{
	int verdict = take_rewritten(skb);

	return verdict == TO_INGRESS ? to_ingress(skb, counters_of_uplink(skb->ifindex)) : verdict;
}

SEC("tc")
int weft_bridge(struct __sk_buff *skb)
{
	int verdict = bridge_out(skb);

	return verdict == TO_INGRESS ? to_ingress(skb, counters_of(sender_seat(skb))) : verdict;
}

SEC("tc")
int weft_from_wire(struct __sk_buff *skb)
{
	int verdict = bridge_in(skb);

	return verdict == TO_INGRESS ? to_ingress(skb, counters_of_uplink(skb->ifindex)) : verdict;
}

/* Steps 7 to 10: where a guest's packet goes, once it may be sent. */
INLINE int onward(struct __sk_buff *skb, struct packet *p, const struct port *port, const struct subnet *subnet,
		  struct counters *c)
{
	struct target t = {};
	int verdict;

	if (p->to[0] & 1)
		return to_flood(skb, c);
	t.source_vsid = port->vsid;
	verdict = mac_equal(p->to, subnet->router_mac) ? route(skb, p, &t, subnet, c)
						      : bridge(skb, p, &t, port, subnet, c);
	if (verdict == TO_DELIVER && t.record)
		verdict = deliver(skb, p, &t, subnet, c);
	if (verdict == TO_INGRESS)
		return to_ingress(skb, c);
	if (verdict == TO_BRIDGE)
		return to_bridge(skb, c);
	if (verdict == TO_REWRITE) {
		bpf_tail_call(skb, &programs, PROGRAM_REWRITE);
		return drop(skb, c, DROP_ENCAP_FAILED);
	}
	return verdict;
}

/* What a guest sends, without a tag. */
INLINE void read_sent(struct __sk_buff *skb, struct packet *p)
{
	pull(skb);
	p->why = parse(skb, p, 0, skb->len);
	if (!p->why && p->type != ETHERTYPE_ARP)
		parse_transport(skb, p, ETHERNET_BYTES);
	p->is_read = 1;
}

/* The packet is as weft_from_port has left it; of one with a tag nothing is read. */
SEC("tc")
int weft_port(struct __sk_buff *skb)
{
	seat at = skb->ifindex;
	struct counters *c;
	struct subnet *subnet;
	struct packet *p;
	struct port *port;
	enum drop_reason why;
	int verdict;
	bool discovery;

	__u32 zero = 0;

	p = bpf_map_lookup_elem(&packets, &zero);
	if (!p)
		return TC_ACT_SHOT;
	if (skb->vlan_present || skb->protocol == ETHERTYPE_8021Q) {
		take_tag(skb);
		at = sender_seat(skb);
	}
	port = bpf_map_lookup_elem(&ports, &at);
	c = port ? counters_at(port->slot) : counters_of(at);
	count_received(skb, c);
	if (!port)
		return drop(skb, c, DROP_PORT_UNBOUND);
	if (port->flags & PORT_SAMPLED)
		sample(skb, skb->ifindex, port->tenant);
	if (port->flags & PORT_MIRRORED)
		mirror(skb, skb->ifindex, DIRECTION_FROM_GUEST);
	if (!(port->flags & PORT_ENABLED))
		return drop(skb, c, DROP_PORT_DOWN);
	subnet = subnet_of(port->vsid);
	if (!subnet)
		return drop(skb, c, DROP_UNKNOWN_VSID);
	/* The kernel takes the first tag off before tc sees the frame, and keeps it beside; sent on, it would be back. */
	if (skb->vlan_present)
		return drop(skb, c, DROP_VLAN_TAG);
	if (!p->is_read)
		read_sent(skb, p);
	if (p->why)
		return drop(skb, c, p->why);
	if (p->type == ETHERTYPE_ARP) {
		verdict = arp(skb, p, port, subnet, c);
		return verdict == TO_BRIDGE ? to_bridge(skb, c) : verdict;
	}
	discovery = is_neighbour_discovery(skb, p);
	why = is_first_pair(port, p->from, &p->source) ? 0 : check_source(skb, port, p->from, &p->source);
	if (why == DROP_SPOOFED_CA && addr_is_unspecified(&p->source) &&
	    (is_dhcp_discover(p) || (discovery && p->icmp_type == 135) || is_router_message(p, ROUTER_SOLICITATION)))
		why = 0;
	if (why)
		return drop(skb, c, why);
	if (discovery) {
		verdict = neighbour(skb, p, port, subnet, c);
		return verdict == TO_BRIDGE ? to_bridge(skb, c) : verdict;
	}
	why = check_hidden_discovery(p);
	if (why)
		return drop(skb, c, why);
	if (may_be_dhcp(p)) {
		verdict = dhcp(skb, p, port, subnet, c);
		if (verdict != NOT_DHCP)
			return verdict;
	}
	if (port->flags & PORT_QOS) {
		choose_marks(p, sender_seat(skb));
		if (!within_limit(skb, p, sender_seat(skb), DIRECTION_FROM_GUEST, 0))
			return drop(skb, c, DROP_RATE_LIMIT);
	}
	if (p->to[0] & 1)
		p->kept = kept_here(skb, p, subnet);
	if (port->flags & PORT_GUARDED && !carries_on(skb, DIRECTION_FROM_GUEST, port->number)) {
		/* What the host itself keeps is asked of no group: only whether it may go out into a VLAN as well. */
		int refused = p->kept && !(subnet->flags & SUBNET_BRIDGED) ? DROP_SECURITY_GROUP : may_leave(skb);

		if (refused && !p->kept)
			return drop(skb, c, refused);
		p->stays = refused != 0;
	}
	return onward(skb, p, port, subnet, c);
}

SEC("tc")
int weft_from_port(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct packet *p = bpf_map_lookup_elem(&packets, &zero);
	struct remembered_out *r = NULL;

	if (!p)
		return TC_ACT_SHOT;
	__builtin_memset(p, 0, sizeof(*p));
	p->changes = changes_so_far();
	skb->cb[2] = 0;
	if (!skb->vlan_present && skb->protocol != ETHERTYPE_8021Q) {
		read_sent(skb, p);
		if (!p->why && is_usual(p))
			r = recall_out(skb, p);
	}
	if (r) {
		struct counters *c = counters_at(r->slot);
		int refused = 0;

		count_received(skb, c);
		if (r->guarded && !carries_on(skb, DIRECTION_FROM_GUEST, r->number))
			refused = may_leave(skb);
		if (refused)
			return drop(skb, c, refused);
		return r->rule == RULE_REWRITE ? leave_rewritten_again(skb, p, r, c) : leave_again(skb, p, r, c);
	}
	bpf_tail_call(skb, &programs, PROGRAM_PORT);
	return drop(skb, counters_of(skb->ifindex), DROP_ENCAP_FAILED);
}

/* The PA that policy places an inner source at: the first record found decides. vsid: the packet's, then the record's. */
INLINE struct record *placed(const struct packet *p, const struct subnet *subnet, __u32 *vsid)
{
	struct record *record = record_of(*vsid, &p->source);
	struct route *r;

	if (record)
		return record;
	r = is_link_local(&p->source) ? NULL : route_of(subnet, &p->source);
	if (r) {
		record = record_of(r->vsid, r->via ? &r->next_hop : &p->source);
		if (record) {
			*vsid = r->vsid;
			return record;
		}
	}
	return record_of_mac(*vsid, p->from);
}

/* RFC 6040 section 4.2, for an outer header that says congestion experienced. */
INLINE bool mark_congestion(struct __sk_buff *skb, const struct packet *p)
{
	void *end = (void *)(long)skb->data_end;
	struct ethernet *eth = (void *)(long)skb->data;

	if (p->type == ETHERTYPE_IPV4) {
		struct ipv4 *ip = (void *)(eth + 1);
		__u16 old, new;

		if ((void *)(ip + 1) > end)
			return false;
		__builtin_memcpy(&old, &ip->version_ihl, 2);
		ip->tos |= 3;
		__builtin_memcpy(&new, &ip->version_ihl, 2);
		ip->check = csum_update(ip->check, old, new);
		return true;
	}
	{
		__u8 byte;

		if (bpf_skb_load_bytes(skb, ETHERNET_BYTES + 1, &byte, 1))
			return false;
		byte |= 0x30;
		return bpf_skb_store_bytes(skb, ETHERNET_BYTES + 1, &byte, 1, BPF_F_RECOMPUTE_CSUM) == 0;
	}
}

SEC("tc")
int weft_from_uplink(struct __sk_buff *skb)
{
	struct host *me;
	struct counters *c, *to_counters;
	struct subnet *subnet = NULL;
	struct remembered_in *r;
	struct record *record;
	struct local_port *to, port;
	struct packet *p;
	struct outer o = {};
	enum drop_reason why;
	__u32 count, place_vsid, zero = 0;
	bool same_family, peer_works;

	me = this_host();
	skb->cb[2] = 0;
	if (me && me->flags & HOST_BRIDGES && segment_at(skb))
		bpf_tail_call(skb, &programs, PROGRAM_FROM_WIRE);
	/* A tagged frame is of another network than the uplink's own, and its VLAN device the stack's to find; unless it is
	 * the network of this uplink's PAs.
	 */
	if (me && me->flags & HOST_VLANS ? !untag(skb, me) : skb->vlan_present)
		return to_stack(skb);
	if (skb->protocol != ETHERTYPE_IPV4 && skb->protocol != ETHERTYPE_IPV6)
		return to_stack(skb);
	if (!me)
		return to_stack(skb);
	pull_bytes(skb, ETHERNET_BYTES + (skb->protocol == ETHERTYPE_IPV4 ? IPV4_BYTES : IPV6_BYTES) + GRE_BYTES);
	o.rule = is_for_us(skb, me);
	if (!o.rule) {
		if (accepts(me->accepts, RULE_REWRITE))
			bpf_tail_call(skb, &programs, PROGRAM_REWRITTEN);
		return to_stack(skb);
	}
	pull_outer(skb, o.rule);

	c = counters_of_uplink(skb->ifindex);
	count = count_received(skb, c);
	if (me->flags & HOST_SAMPLED)
		sample(skb, skb->ifindex, 0);
	why = skb->protocol == ETHERTYPE_IPV4 ? outer4(skb, &o) : outer6(skb, &o);
	if (why)
		return drop(skb, c, why);
	p = bpf_map_lookup_elem(&packets, &zero);
	if (!p)
		return TC_ACT_SHOT;
	if (o.bytes + o.length < skb->len && !skb->gso_size && bpf_skb_change_tail(skb, o.bytes + o.length, 0))
		return drop(skb, c, DROP_ENCAP_FAILED);
	__builtin_memset(p, 0, sizeof(*p));
	p->changes = changes_so_far();
	pull_frame(skb, below_128(o.bytes));
	p->why = parse(skb, p, below_128(o.bytes), o.length);
	r = p->why || p->type == ETHERTYPE_ARP ? NULL : recall_in(p, &o);
	to = r ? &r->port : NULL;
	if (!to) {
		const bool many = p->to[0] & 1;

		why = subnet_of_outer(me, &o, &subnet);
		if (!why && p->why)
			why = p->why;
		if (!why && p->type == ETHERTYPE_ARP)
			why = DROP_ETHERTYPE;
		if (why)
			return drop(skb, c, why);
		if (many && !may_flood(p, subnet))
			return drop(skb, c, DROP_MULTICAST);
		if (o.group && !many)
			return drop(skb, c, DROP_MULTICAST);
		place_vsid = o.vsid;
		record = placed(p, subnet, &place_vsid);
		/* What this host sends to itself it does not send by the wire: RFC 1122 section 3.2.1.3 (a). */
		if (!record ||
		    (!addr_equal(&record->pa, &o.source) && !is_alias(&o.source, &record->pa) &&
		     !is_moving_to(record, place_vsid, &o.source)) ||
		    is_local_pa(me, &o.source))
			return drop(skb, c, DROP_FORGED_SOURCE);
		to = many ? NULL : local_port_of(o.vsid, p->to);
		if (!to && !many)
			return drop(skb, c, DROP_VSID_ACL);
		if (to && !(to->flags & PORT_ENABLED))
			return drop(skb, c, DROP_PORT_DOWN);
		if (to)
			remember_in(p, &o, to);
	}
	/* The agent may give its entry to another in the midst of this. */
	if (to) {
		port = *to;
		to = &port;
	}
	if (o.ecn == 3 && p->ecn == 0)
		return drop(skb, c, DROP_ECN);
	if (to && (to->flags & (PORT_QOS | PORT_GUARDED)) == PORT_QOS &&
	    !within_limit(skb, p, seat_of(to->ifindex, to->vlan), DIRECTION_TO_GUEST, o.bytes))
		return drop(skb, c, DROP_RATE_LIMIT);
	same_family = (p->type == ETHERTYPE_IPV4) == (skb->protocol == ETHERTYPE_IPV4);
	if (tunnel_pop(skb, p, &o))
		return drop(skb, c, DROP_ENCAP_FAILED);
	if (o.rule == RULE_STT)
		count = packets_joined(skb, p); /* the frame's, whose segments are other ones */
	if (o.ecn == 3 && !mark_congestion(skb, p))
		return drop(skb, c, DROP_ENCAP_FAILED);
	if (!to)
		return subnet ? flood_locally(skb, p, subnet, o.vsid, count, c) : TC_ACT_SHOT;
	/* redirect_peer does not look at the Ethernet type again: skb->protocol must be right already. */
	peer_works = weft_decap_l3 || same_family;
	if (to->flags & PORT_GUARDED) {
		parse_transport(skb, p, ETHERNET_BYTES);
		if (to->flags & PORT_QOS || !carries_on(skb, DIRECTION_TO_GUEST, to->number)) {
			leave_to_ingress(to, peer_works);
			leave_read();
			return to_ingress(skb, c);
		}
	}
	to_counters = counters_at(to->slot);
	if (to_counters) {
		to_counters->sent_packets += count;
		to_counters->sent_bytes += o.length;
	}
	return into_guest(skb, to, peer_works);
}

SEC("tc")
int weft_to_port(struct __sk_buff *skb)
{
	if (skb->mark == WEFT_COPY_MARK || skb->mark == WEFT_PROBED_COPY_MARK)
		return send_copy(skb, skb->mark == WEFT_PROBED_COPY_MARK);
	if (skb->mark == WEFT_MIRROR_MARK)
		return send_mirrored(skb);
	if (skb->mark == WEFT_GUARDED_MARK) {
		bpf_tail_call(skb, &programs, PROGRAM_INGRESS_COPY);
		return TC_ACT_SHOT;
	}
	if (skb->mark == WEFT_AGENT_MARK)
		count_agents(skb);
	else if (skb->mark != WEFT_MARK)
		return drop(skb, counters_of(skb->ifindex), DROP_NOT_POLICY);
	skb->mark = 0;
	return TC_ACT_UNSPEC;
}

SEC("tc")
int weft_to_uplink(struct __sk_buff *skb)
{
	return tag(skb) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
