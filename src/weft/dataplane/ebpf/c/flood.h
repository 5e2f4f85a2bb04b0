/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Broadcast and multicast: a copy for each local port that is to have it, and one for each host that has a port in the
 * subnet (head-end replication), or one for the subnet's provider multicast group. docs/design/datapath.md, "Floods".
 */
#pragma once

#include "deliver.h"
#include "qos.h"
#include "segment.h"
#include "upcall.h"

#define MEMBERS_MAX 1024 /* hosts of a subnet that a packet is copied to */
#define RECEIVERS_MAX 1024 /* ports of a subnet on one host, likewise */
#define FLOOD_BURST 64 /* packets beyond the rate, at once */

/* What the loops share. In scratch of its own, since the stack has no room for it. */
struct flood {
	struct addr group; /* only who listens to it, with snooped */
	struct addr first; /* PA of a member on another host that is to have it */
	__u32 vsid;
	seat from; /* of the port that it came from; 0: of none */
	__u32 snooped;
	__u32 packets; /* that it is: of a GSO packet, its segments */
	__u32 copies;
	__u32 rule; /* of the copies to members: the lowest of theirs, since all take each while these differ; 0: to none */
	__u32 way; /* the flow's, of those to a peer with several PAs */
	__u32 outer_length; /* what a way must take */
	__u64 now_ns; /* with snooped */
	struct wanted_key asked;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flood);
} floods SEC(".maps");

/* What a loop is given: the rest is in scratch, where a pointer to the packet cannot be. */
struct flood_loop {
	struct __sk_buff *skb;
	struct flood *f;
	const struct packet *p;
};

INLINE bool is_broadcast_mac(const __u8 *mac)
{
	return (mac[0] & mac[1] & mac[2] & mac[3] & mac[4] & mac[5]) == 0xff;
}

/* 224.0.0.0/24 and ff02::/16: routing protocols, VRRP, mDNS; nobody need ask for them (RFC 4541 section 2.1.2). */
INLINE bool is_link_local_group(const struct addr *group)
{
	if (addr_is4(group))
		return (group->w[3] & bpf_htonl(0xffffff00)) == bpf_htonl(0xe0000000);
	return (group->w[0] & bpf_htonl(0xff0f0000)) == bpf_htonl(0xff020000);
}

/* ff00::/16 and ff01::/16, and the like with flags, never leave a machine: RFC 4291 section 2.7. */
INLINE bool is_narrower_than_a_link(const struct addr *group)
{
	return !addr_is4(group) && (group->w[0] & bpf_htonl(0xff0e0000)) == bpf_htonl(0xff000000);
}

INLINE bool is_group(const struct addr *destination)
{
	return addr_is_multicast(destination) &&
	       !(addr_is4(destination) && destination->w[3] == bpf_htonl(0xffffffff));
}

/* Whether the packet is one that a subnet carries to many: to a multicast address, or to the broadcast MAC. */
INLINE bool may_flood(const struct packet *p, const struct subnet *subnet)
{
	if (!(subnet->flags & SUBNET_BROADCAST))
		return false;
	if (!is_group(&p->destination))
		return is_broadcast_mac(p->to);
	return !is_narrower_than_a_link(&p->destination);
}

/* IGMP, and MLD behind a router alert (RFC 3810 section 5): which kind of upcall it is; 0: neither. */
INLINE __u32 membership_kind(struct __sk_buff *skb, const struct packet *p)
{
	__u8 head[9];

	if (p->type == ETHERTYPE_IPV4)
		return p->protocol == IPPROTO_IGMP && !p->fragment ? UPCALL_IGMP : 0;
	if (p->protocol != IPPROTO_HOP_BY_HOP || p->ip_length < IPV6_BYTES + 9 ||
	    bpf_skb_load_bytes(skb, ETHERNET_BYTES + IPV6_BYTES, head, sizeof(head)))
		return 0;
	if (head[0] != IPPROTO_ICMPV6 || head[1] != 0)
		return 0;
	return (head[8] >= 130 && head[8] <= 132) || head[8] == 143 ? UPCALL_MLD : 0;
}

/* Of what goes to many: whether it is a word on who listens to what, which the agent keeps: which kind of upcall it is; 0:
 * it is none. Asked once, before the port's groups are: what they let pass for it goes nowhere else.
 */
static __noinline __u32 kept_here(struct __sk_buff *skb, const struct packet *p, const struct subnet *subnet)
{
	if (!p || !subnet || !(subnet->flags & SUBNET_SNOOPING) || !is_group(&p->destination) || !may_flood(p, subnet))
		return 0;
	return membership_kind(skb, p);
}

/* PIM, to all routers of the link (RFC 7761 section 4.9): 224.0.0.13, ff02::d. */
INLINE bool is_pim(const struct packet *p)
{
	const struct addr *to = &p->destination;

	if (p->protocol != IPPROTO_PIM || (p->type == ETHERTYPE_IPV4 && p->fragment))
		return false;
	if (addr_is4(to))
		return to->w[3] == bpf_htonl(0xe000000d);
	return to->w[0] == bpf_htonl(0xff020000) && !to->w[1] && !to->w[2] && to->w[3] == bpf_htonl(0xd);
}

/* As for upcalls, by the generic cell rate algorithm; pps 0: no limit. */
static __noinline bool flood_within_rate(seat port, __u32 pps, __u32 packets)
{
	struct flood_rate rate = { .pps = pps }, *known;
	__u64 now, interval_ns;

	if (!pps)
		return true;
	interval_ns = 1000000000 / pps;
	now = bpf_ktime_get_ns();
	known = bpf_map_lookup_elem(&flood_rates, &port);
	rate.full_ns = known && known->pps == pps && known->full_ns > now ? known->full_ns : now;
	if (rate.full_ns > now + FLOOD_BURST * interval_ns)
		return false;
	rate.full_ns += interval_ns * packets;
	if (known)
		*known = rate;
	else
		bpf_map_update_elem(&flood_rates, &port, &rate, BPF_ANY);
	return true;
}

/* Whether the port has asked for the group, or is a router's, who hears them all. */
static __noinline bool port_listens(seat port, const struct addr *group)
{
	struct listener_key key = { .port = port };

	if (!group)
		return false;
	key.group = *group;
	if (bpf_map_lookup_elem(&listeners, &key))
		return true;
	key.group.w[3] = 0;
	if (!addr_is4(group))
		key.group.w[0] = key.group.w[1] = key.group.w[2] = 0;
	return bpf_map_lookup_elem(&listeners, &key);
}

/* Whether a guest at another host may listen to the group: that host has not said, or not lately, that none does. */
static __noinline bool member_wants(struct flood *f, const struct addr *pa)
{
	struct wanted_key *asked;
	__u64 *until_ns;

	if (!f || !pa || !f->snooped)
		return true;
	asked = &f->asked;
	asked->vsid = f->vsid;
	asked->pa = *pa;
	__builtin_memset(&asked->group, 0, sizeof(asked->group));
	until_ns = bpf_map_lookup_elem(&wanted, asked);
	if (!until_ns || *until_ns <= f->now_ns)
		return true;
	asked->group = f->group;
	return bpf_map_lookup_elem(&wanted, asked);
}

/* Into each local port of the subnet but the one that it came from. 1 ends the loop. */
static long copy_to_receiver(__u32 number, struct flood_loop *loop)
{
	struct flood *f = loop->f;
	struct place at = { .vsid = f->vsid, .number = number };
	struct receiver *to = bpf_map_lookup_elem(&receivers, &at);
	struct counters *c;
	seat port;

	if (!to)
		return 1;
	port = seat_of(to->ifindex, to->vlan);
	if (!(to->flags & PORT_ENABLED) || port == f->from)
		return 0;
	if (f->snooped && !port_listens(port, &f->group))
		return 0;
	if ((to->flags & (PORT_QOS | PORT_GUARDED)) == PORT_QOS &&
	    !within_limit(loop->skb, loop->p, port, DIRECTION_TO_GUEST, 0))
		return 0;
	if (copy_into_guest(loop->skb, to->ifindex, to->vlan, to->flags))
		return 0;
	f->copies += 1;
	c = counters_of(port);
	if (c) {
		c->sent_packets += f->packets;
		c->sent_bytes += loop->skb->len;
	}
	return 0;
}

/* Whether members on other hosts are to have it, and by which rule. */
static long find_member(__u32 number, struct flood_loop *loop)
{
	struct flood *f = loop->f;
	struct place at = { .vsid = f->vsid, .number = number };
	struct member *m = bpf_map_lookup_elem(&members, &at);
	struct host *h = this_host();

	if (!m || !h)
		return 1;
	if (!m->rule || m->rule == RULE_VLAN || (f->rule && m->rule >= f->rule) || is_local_pa(h, &m->pa) ||
	    !member_wants(f, &m->pa))
		return 0;
	f->rule = m->rule;
	f->first = m->pa;
	return m->rule == RULE_NVGRE; /* none is lower */
}

/* The ends of the outer header; the rest is the same in every copy. */
INLINE int address_copy(struct __sk_buff *skb, const struct addr *source, const struct addr *destination)
{
	struct ethernet *eth = (void *)(long)skb->data;

	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return -1;
	/* bpf_redirect_neigh drops what is still to a group's MAC. */
	__builtin_memset(eth->destination, 0, 6);
	return readdress(skb, source, destination);
}

/* To each member on another host, by way of weft_to_port: the kernel's neighbour states take one packet of a program. */
static long copy_to_member(__u32 number, struct flood_loop *loop)
{
	struct flood *f = loop->f;
	struct place at = { .vsid = f->vsid, .number = number };
	struct member *m = bpf_map_lookup_elem(&members, &at);
	struct host *h = this_host();
	const struct addr *source, *destination;
	__u32 mark = WEFT_COPY_MARK;

	if (!m || !h)
		return 1;
	if (!m->rule || m->rule == RULE_VLAN || is_local_pa(h, &m->pa) || addr_is4(&m->pa) != addr_is4(&f->first) ||
	    !member_wants(f, &m->pa))
		return 0;
	destination = &m->pa;
	source = addr_is4(destination) ? &h->source4 : &h->source6;
	if (h->flags & HOST_PATHS) {
		struct path *path = bpf_map_lookup_elem(&paths, destination);
		struct way *way = path ? &path->ways[f->way & (WAYS - 1)] : NULL;

		if (way && way->mtu && way->mtu < f->outer_length)
			return 0;
		if (way) {
			source = &way->source;
			destination = &way->destination;
			mark = way->mtu ? WEFT_PROBED_COPY_MARK : mark;
		}
	}
	if (address_copy(loop->skb, source, destination))
		return 0;
	loop->skb->mark = mark;
	/* It comes out of weft_to_port, and is counted there; or the answer is that it was dropped. */
	if (bpf_clone_redirect(loop->skb, loop->skb->ifindex, 0) == 0)
		f->copies += 1;
	return 0;
}

INLINE struct flood *flood_of_this_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&floods, &zero);
}

INLINE void copy_to_receivers(struct __sk_buff *skb, const struct packet *p, struct flood *f)
{
	struct flood_loop loop = { .skb = skb, .f = f, .p = p };

	bpf_loop(RECEIVERS_MAX, copy_to_receiver, &loop, 0);
}

/* The outer header goes on once; what differs between copies is written into it. Not 0: it could not be put on. */
static __noinline int copy_to_members(struct __sk_buff *skb, const struct packet *p, struct flood *f, const struct host *h)
{
	struct flood_loop loop = { .skb = skb, .f = f };
	struct envelope e = {};
	__u32 rule;

	if (!p || !f || !h)
		return 0;
	rule = f->rule;
	if (!is_known_rule(rule))
		return 0;
	e.source = addr_is4(&f->first) ? &h->source4 : &h->source6;
	if (addr_is_zero(e.source))
		return 0;
	f->way = flow_hash(p) >> 24 & (WAYS - 1);
	f->outer_length = p->l3_length + tunnel_bytes(f->rule, &f->first);
	e.destination = &f->first;
	e.inner_to = p->to;
	e.inner_from = p->from;
	e.vsid = f->vsid;
	e.rule = rule;
	e.tos = p->outer_tos;
	if (tunnel_push(skb, p, &e) || (rule == RULE_STT && stt_seal(skb, p, addr_is4(&f->first))))
		return -1;
	bpf_loop(MEMBERS_MAX, copy_to_member, &loop, 0);
	return 0;
}

/* One for all other hosts, to the subnet's group of the underlay: the packet itself. 0: it has none that they are in. */
static __noinline int send_to_group(struct __sk_buff *skb, const struct packet *p, struct flood *f, const struct host *h)
{
	struct addr *group = f ? bpf_map_lookup_elem(&provider_groups, &f->vsid) : NULL;
	struct bpf_redir_neigh next_hop = {};
	struct envelope e = {};
	struct ethernet *eth;
	struct counters *up;
	__u32 six, *uplink;

	if (!group || !p || !h || addr_is4(group) != addr_is4(&f->first) || f->rule == RULE_STT || !is_known_rule(f->rule))
		return 0;
	six = !addr_is4(group);
	uplink = bpf_map_lookup_elem(&group_uplinks, &six);
	e.source = six ? &h->source6 : &h->source4;
	if (!uplink || addr_is_zero(e.source))
		return 0;
	e.destination = group;
	e.inner_to = p->to;
	e.inner_from = p->from;
	e.vsid = f->vsid;
	e.rule = f->rule;
	e.tos = p->outer_tos;
	if (tunnel_push(skb, p, &e))
		return TC_ACT_SHOT;
	eth = (void *)(long)skb->data;
	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	/* bpf_redirect_neigh drops what is still to a group's MAC; the kernel knows that of a group of its own. */
	__builtin_memset(eth->destination, 0, 6);
	up = counters_of_uplink(*uplink);
	if (up) {
		up->sent_packets += f->packets;
		up->sent_bytes += skb->len;
	}
	if (six) {
		next_hop.nh_family = AF_INET6;
		__builtin_memcpy(next_hop.ipv6_nh, group, 16);
	} else {
		next_hop.nh_family = AF_INET;
		next_hop.ipv4_nh = group->w[3];
	}
	return bpf_redirect_neigh(*uplink, &next_hop, sizeof(next_hop), 0);
}

/* The packet itself ends here: everybody has a copy. */
INLINE int copied(struct __sk_buff *skb, const struct flood *f, struct counters *c)
{
	if (!f->copies)
		return drop(skb, c, DROP_NO_MEMBER);
	skb->cb[0] = VERDICT_COPIES;
	skb->cb[1] = f->copies;
	return TC_ACT_SHOT;
}

/* Step 7: a frame from a guest to many. */
INLINE int flood(struct __sk_buff *skb, struct packet *p, const struct port *port, const struct subnet *subnet,
		 struct counters *c)
{
	struct flood *f = flood_of_this_cpu();
	struct host *h = this_host();
	struct flood_loop loop = { .skb = skb, .f = f };
	bool group, bridged = subnet->flags & SUBNET_BRIDGED;
	__u32 limit;

	if (!f || !h)
		return drop(skb, c, DROP_NO_UNDERLAY);
	if (!may_flood(p, subnet))
		return drop(skb, c, DROP_MULTICAST);
	if (bridged && has_gone_round(p, port))
		return drop(skb, c, DROP_LOOP);
	group = subnet->flags & SUBNET_SNOOPING && is_group(&p->destination);
	limit = subnet->mtu;
	if (bridged && h->uplink_mtu && (!limit || h->uplink_mtu < limit))
		limit = h->uplink_mtu;
	if (p->kept) {
		/* A switch that keeps who listens to what wants to hear it, too. */
		if (bridged && !p->stays && (!limit || p->l3_length <= limit))
			skb->cb[3] = copy_to_wire(skb, port->vsid);
		return hand_up(skb, port->vsid, p->kept, c);
	}
	__builtin_memset(f, 0, sizeof(*f));
	f->packets = packets_in(skb);
	if (!flood_within_rate(sender_seat(skb), port->flood_pps, f->packets))
		return drop(skb, c, DROP_FLOOD_LIMIT);
	f->vsid = port->vsid;
	f->from = sender_seat(skb);
	f->group = p->destination;
	f->snooped = group && !is_link_local_group(&p->destination);
	f->now_ns = f->snooped ? bpf_ktime_get_ns() : 0;
	bpf_loop(MEMBERS_MAX, find_member, &loop, 0);
	if (f->rule && h->uplink_mtu) {
		__u32 left = h->uplink_mtu - tunnel_bytes(f->rule, &f->first);

		if (!limit || left < limit)
			limit = left;
	}
	if (limit && p->l3_length > limit)
		return drop(skb, c, DROP_TOO_BIG);
	if (port->flags & PORT_QOS) {
		choose_marks(p, sender_seat(skb));
		if (p->mark)
			mark(skb, p);
	}
	copy_to_receivers(skb, p, f);
	if (bridged)
		f->copies += copy_to_wire(skb, port->vsid);
	if (f->rule && subnet->flags & SUBNET_GROUP) {
		int sent = send_to_group(skb, p, f, h);

		if (sent) {
			if (sent == TC_ACT_SHOT && !f->copies)
				return drop(skb, c, DROP_ENCAP_FAILED);
			if (group && is_pim(p))
				hand_up_hint(skb, f->vsid, UPCALL_PIM, p->from, &p->source);
			skb->cb[0] = VERDICT_COPIES;
			skb->cb[1] = f->copies;
			return sent;
		}
	}
	if (f->rule && copy_to_members(skb, p, f, h) && !f->copies)
		return drop(skb, c, DROP_ENCAP_FAILED);
	if (group && f->copies && is_pim(p))
		hand_up_hint(skb, f->vsid, UPCALL_PIM, p->from, &p->source);
	return copied(skb, f, c);
}

/* The same for what came by the uplink, its outer header off: to local ports only, never back to the underlay. */
INLINE int flood_locally(struct __sk_buff *skb, const struct packet *p, const struct subnet *subnet, __u32 vsid,
			 __u32 packets, struct counters *c)
{
	struct flood *f = flood_of_this_cpu();

	if (!f)
		return drop(skb, c, DROP_NO_UNDERLAY);
	__builtin_memset(f, 0, sizeof(*f));
	f->packets = packets;
	f->vsid = vsid;
	f->group = p->destination;
	f->snooped = subnet->flags & SUBNET_SNOOPING && is_group(&p->destination) && !is_link_local_group(&p->destination);
	copy_to_receivers(skb, p, f);
	return copied(skb, f, c);
}
