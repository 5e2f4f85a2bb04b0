/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What policy has said of the last packets, so that the next ones between the same two need not ask it again: for each CPU by
 * itself, until anything in the maps changes, and for some milliseconds at most. Only of what is the same for all packets of
 * TCP and UDP between two addresses; whatever depends on more is asked of each.
 */
#pragma once

#include "dhcp.h"
#include "lookup.h"
#include "nexthop.h"
#include "size.h"
#include "tunnel.h"

#define REMEMBERED 256

/* remembered_out: of what guests send to another host within their subnet. */
struct remembered_out {
	struct addr source;
	struct addr destination;
	__u32 changes; /* as there were before policy was asked */
	__u32 ifindex; /* of the sender, whose frames have no tag */
	__u8 to[6];
	__u8 from[6];
	__u32 limit; /* a larger packet asks */
	__u16 rule;
	__u16 guarded; /* its groups are asked, of each packet */
	__u32 vsid;
	__u32 slot; /* of the sender's counters */
	__u8 mac[6]; /* of the destination */
	__u16 pad;
	__u64 number; /* of the port, by which its connections are known */
	struct next_hop hop; /* how long all this is known is how long that is */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REMEMBERED);
	__type(key, __u32);
	__type(value, struct remembered_out);
} remembered_outs SEC(".maps");

/* remembered_in: of what other hosts send to a port here. */
struct remembered_in {
	struct addr outer; /* source */
	struct addr source;
	__u64 until_ns;
	__u32 changes;
	__u32 vsid;
	__u8 to[6];
	__u8 from[6];
	struct local_port port;
	__u16 rule;
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REMEMBERED);
	__type(key, __u32);
	__type(value, struct remembered_in);
} remembered_ins SEC(".maps");

/* remembered_rewrite: of what comes from PA to PA to a port here. */
struct remembered_rewrite {
	struct addr source; /* PAs */
	struct addr destination;
	struct addr from; /* CAs */
	struct addr to;
	__u64 until_ns;
	__u32 changes;
	__u8 mac_from[6];
	__u8 mac_to[6];
	struct local_port port;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REMEMBERED);
	__type(key, __u32);
	__type(value, struct remembered_rewrite);
} remembered_rewrites SEC(".maps");

INLINE __u32 changes_so_far(void)
{
	__u32 zero = 0, *count = bpf_map_lookup_elem(&changes, &zero);

	__u32 so_far = count ? *(volatile __u32 *)count : 0;

	in_order();
	return so_far;
}

INLINE __u32 place_of(const struct packet *p)
{
	__u32 source = p->source.w[0] ^ p->source.w[1] ^ p->source.w[2] ^ p->source.w[3];
	__u32 destination = p->destination.w[0] ^ p->destination.w[1] ^ p->destination.w[2] ^ p->destination.w[3];

	return ((source * 3 ^ destination) * 0x9E3779B1u) >> 24;
}

/* The packets of which anything is remembered. */
INLINE bool is_usual(const struct packet *p)
{
	return (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP) && !p->fragment && !may_be_dhcp(p);
}

INLINE bool is_of_out(const struct remembered_out *r, const struct __sk_buff *skb, const struct packet *p)
{
	return r->ifindex == skb->ifindex && addr_equal(&r->destination, &p->destination) &&
	       addr_equal(&r->source, &p->source) && mac_equal(r->to, p->to) && mac_equal(r->from, p->from);
}

/* What is known of a guest's packet; NULL: policy is to be asked. */
INLINE struct remembered_out *recall_out(struct __sk_buff *skb, struct packet *p)
{
	__u32 place = place_of(p);
	struct remembered_out *r = bpf_map_lookup_elem(&remembered_outs, &place);

	if (!r || r->changes != p->changes || !is_of_out(r, skb, p) || p->l3_length > r->limit || is_syn(skb, p))
		return NULL;
	/* The kernel's routes may tell apart what nothing is put around. */
	if (r->rule == RULE_REWRITE && r->hop.protocol != p->protocol)
		return NULL;
	p->now_ns = bpf_ktime_get_coarse_ns();
	return r->hop.until_ns > p->now_ns ? r : NULL;
}

/* limit: of the packet, as policy has it; 0: none. Slow way: once in the time that next hops are known for. */
static __noinline int remember_out(struct __sk_buff *skb, const struct packet *p, const struct target *t,
				   const struct next_hop *n, __u32 limit)
{
	struct remembered_out *r;
	struct port *port;
	seat at = skb->ifindex;
	__u32 place, most;

	if (!p || !t || !n || !t->record || !n->known || t->routed || t->way || skb->cb[2] || !is_usual(p) ||
	    addr_is_unspecified(&p->source) || t->record->rule & RECORD_MOVING)
		return 0;
	port = bpf_map_lookup_elem(&ports, &at);
	if (!port || port->flags & (PORT_QOS | PORT_SAMPLED | PORT_MIRRORED))
		return 0;
	most = n->mtu - tunnel_bytes(t->rule, &t->record->pa);
	if (n->mtu < tunnel_bytes(t->rule, &t->record->pa))
		return 0;
	place = place_of(p);
	r = bpf_map_lookup_elem(&remembered_outs, &place);
	/* Another's place is left to it: of many flows each would write for nothing. */
	if (!r || (r->changes == p->changes && r->hop.until_ns > bpf_ktime_get_coarse_ns() && !is_of_out(r, skb, p)))
		return 0;
	r->source = p->source;
	r->destination = p->destination;
	r->changes = p->changes;
	r->ifindex = skb->ifindex;
	__builtin_memcpy(r->to, p->to, 6);
	__builtin_memcpy(r->from, p->from, 6);
	r->limit = limit && limit < most ? limit : most;
	r->rule = t->rule;
	r->guarded = (port->flags & PORT_GUARDED) != 0;
	r->vsid = t->vsid;
	r->slot = port->slot;
	__builtin_memcpy(r->mac, t->record->mac, 6);
	r->number = port->number;
	r->hop = *n;
	r->hop.fresh = 0;
	return 0;
}

INLINE bool is_of_in(const struct remembered_in *r, const struct packet *p, const struct outer *o)
{
	return addr_equal(&r->source, &p->source) && addr_equal(&r->outer, &o->source) && mac_equal(r->to, p->to) &&
	       mac_equal(r->from, p->from);
}

/* What is known of a frame from an uplink: o has its subnet and rule then, as subnet_of_outer() would have found them. NULL:
 * policy is to be asked.
 */
INLINE struct remembered_in *recall_in(struct packet *p, struct outer *o)
{
	__u32 place = place_of(p), vsid = o->vsid;
	struct remembered_in *r = bpf_map_lookup_elem(&remembered_ins, &place);

	if (!r || r->changes != p->changes || o->group || !is_of_in(r, p, o))
		return NULL;
	if (r->rule == RULE_NVGRE)
		vsid >>= 8;
	/* A key is GRE's where it is not NVGRE's, which is the same for each packet that has it. */
	if (vsid != r->vsid || (r->rule != o->rule && !(r->rule == RULE_GRE && o->rule == RULE_NVGRE)))
		return NULL;
	p->now_ns = bpf_ktime_get_coarse_ns();
	if (r->until_ns <= p->now_ns)
		return NULL;
	o->vsid = vsid;
	o->rule = r->rule;
	return r;
}

static __noinline int remember_in(const struct packet *p, const struct outer *o, const struct local_port *to)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct remembered_in *r;
	__u32 place;

	if (!p || !o || !to || o->group || addr_is_unspecified(&p->source))
		return 0;
	place = place_of(p);
	r = bpf_map_lookup_elem(&remembered_ins, &place);
	if (!r || (r->changes == p->changes && r->until_ns > now && !is_of_in(r, p, o)))
		return 0;
	r->outer = o->source;
	r->source = p->source;
	r->until_ns = now + NEXT_HOP_NS;
	r->changes = p->changes;
	r->vsid = o->vsid;
	__builtin_memcpy(r->to, p->to, 6);
	__builtin_memcpy(r->from, p->from, 6);
	r->port = *to;
	r->rule = o->rule;
	return 0;
}

INLINE bool is_of_rewrite(const struct remembered_rewrite *r, const struct packet *p)
{
	return addr_equal(&r->source, &p->source) && addr_equal(&r->destination, &p->destination);
}

/* What is known of packets between two PAs, whatever they carry; NULL: policy is to be asked. */
INLINE struct remembered_rewrite *recall_rewrite(const struct packet *p)
{
	__u32 place = place_of(p);
	struct remembered_rewrite *r = bpf_map_lookup_elem(&remembered_rewrites, &place);

	if (!r || r->changes != p->changes || !is_of_rewrite(r, p))
		return NULL;
	return r->until_ns > bpf_ktime_get_coarse_ns() ? r : NULL;
}

/* NULL: another's place is left to it. */
INLINE struct remembered_rewrite *room_for_rewrite(const struct packet *p)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	__u32 place = place_of(p);
	struct remembered_rewrite *r = bpf_map_lookup_elem(&remembered_rewrites, &place);

	if (!r || (r->changes == p->changes && r->until_ns > now && !is_of_rewrite(r, p)))
		return NULL;
	r->source = p->source;
	r->destination = p->destination;
	r->until_ns = now + NEXT_HOP_NS;
	r->changes = p->changes;
	return r;
}
