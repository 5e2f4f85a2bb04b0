/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IP rewrite on the way in: what comes from PA to PA becomes a guest's again. docs/design/datapath.md */
#pragma once

#include "deliver.h"
#include "rewrite.h"

/* From whom to whom a frame from the physical network is; false: it does not say. */
INLINE bool read_ends(struct __sk_buff *skb, struct packet *p)
{
	void *end = (void *)(long)skb->data_end;
	struct ethernet *eth = (void *)(long)skb->data;

	if (skb->protocol == ETHERTYPE_IPV4) {
		struct ipv4 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->version_ihl >> 4 != 4)
			return false;
		p->source = addr_of4(ip->source);
		p->destination = addr_of4(ip->destination);
	} else {
		struct ipv6 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || bpf_ntohl(ip->version_class_flow) >> 28 != 6)
			return false;
		p->source = ip->source;
		p->destination = ip->destination;
		if (addr_is4(&p->destination))
			return false;
	}
	return true;
}

INLINE bool same_domain(const struct subnet *a, const struct subnet *b)
{
	const __u64 *x = (const void *)a->rdid, *y = (const void *)b->rdid;

	return x[0] == y[0] && x[1] == y[1];
}

/* Whom a PA stands for, when that is somebody who may send: of the subnet's routing domain, on another host. */
INLINE const struct record_key *rewritten_from(const struct addr *pa, const struct host *me,
					       const struct subnet *subnet, const struct record **record)
{
	const struct record_key *from = bpf_map_lookup_elem(&rewrites, pa);
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

#define QUOTED_BYTES 8 /* behind a quoted IP header, at least */
#define QUOTE_ROOM (ICMP_BYTES + IPV6_BYTES + TCP_BYTES)

/* Where the checksum that covers the addresses is in what is quoted; 0: there is none. quote: from its IP header on. */
INLINE __u32 quoted_checksum_at(const __u8 *quote, bool four, bool whole)
{
	__u32 head = four ? IPV4_BYTES : IPV6_BYTES;
	__u8 protocol = four ? quote[9] : quote[6];

	if (four && ((quote[6] & 0x1f) || quote[7]))
		return 0;
	if (protocol == IPPROTO_UDP)
		return quote[head + 6] || quote[head + 7] ? head + 6 : 0;
	if (protocol == IPPROTO_TCP)
		return whole ? head + 16 : 0;
	return protocol == IPPROTO_ICMPV6 && !four ? head + 2 : 0;
}

/* The error itself, of one family: from was to is, checksums updated. */
INLINE void put_quoted(const __u8 *was, __u8 *is, const struct addr *source, const struct addr *destination, bool four,
		       bool whole)
{
	__u32 head = four ? IPV4_BYTES : IPV6_BYTES, at;
	const __u8 *quote = was + ICMP_BYTES;
	__u8 *to = is + ICMP_BYTES;
	__u16 *check;
	__u32 diff;

	if (four) {
		__builtin_memcpy(to + 12, &source->w[3], 4);
		__builtin_memcpy(to + 16, &destination->w[3], 4);
		diff = bpf_csum_diff((void *)(quote + 12), 8, (void *)(to + 12), 8, 0);
		check = (__u16 *)(to + 10);
		*check = csum_apply(*check, diff);
	} else {
		__builtin_memcpy(to + 8, source, 16);
		__builtin_memcpy(to + 24, destination, 16);
		diff = bpf_csum_diff((void *)(quote + 8), 32, (void *)(to + 8), 32, 0);
	}
	at = quoted_checksum_at(quote, four, whole);
	if (at == head + 6) {
		check = (__u16 *)(to + head + 6);
		*check = csum_apply(*check, diff);
		if (!*check)
			*check = 0xffff;
	} else if (at == head + 16) {
		check = (__u16 *)(to + head + 16);
		*check = csum_apply(*check, diff);
	} else if (at) {
		check = (__u16 *)(to + head + 2);
		*check = csum_apply(*check, diff);
	}
	diff = bpf_csum_diff((void *)quote, head + TCP_BYTES, (void *)to, head + TCP_BYTES, 0);
	check = (__u16 *)(is + 2);
	*check = csum_apply(*check, diff);
}

/* RFC 4884: how much is quoted, where extensions follow; they name the router's interfaces and addresses (RFC 5837). IPv6's
 * place is the highest byte of a packet too big's MTU and of a bad field's pointer, which is 0 there, too.
 */
#define EXTENDED4 5
#define EXTENDED6 4

/* What a router on the way says of a packet of the guest's that place is: as if the gateway said it. Not 0: it is no
 * such.
 */
static __noinline int put_router_error(struct __sk_buff *skb, const struct packet *p, const struct subnet *subnet,
				       const struct record_key *place, const struct host *me)
{
	struct scratch *s = scratch_of_this_cpu();
	const struct record_key *peer;
	const struct record *theirs = NULL;
	struct addr address;
	__u32 at, head, room;
	__u8 *was, *is;
	bool four, whole;

	if (!s || !p || !subnet || !place || !me)
		return -1;
	four = p->type == ETHERTYPE_IPV4;
	if (!is_icmp(p) || p->fragment || !(subnet->flags & (four ? SUBNET_HAS4 : SUBNET_HAS6)))
		return -1;
	if (addr_is_unspecified(&p->source) || addr_is_multicast(&p->source) || is_local_pa(me, &p->source) ||
	    bpf_map_lookup_elem(&rewrites, &p->source))
		return -1;
	head = four ? IPV4_BYTES : IPV6_BYTES;
	at = ETHERNET_BYTES + p->l4_offset;
	room = p->ip_length - p->l4_offset;
	if (p->ip_length < p->l4_offset || room < ICMP_BYTES + head + QUOTED_BYTES)
		return -1;
	whole = room >= ICMP_BYTES + head + TCP_BYTES;
	was = s->frame;
	is = s->frame + 128;
	__builtin_memset(was, 0, QUOTE_ROOM);
	if (four) {
		if (bpf_skb_load_bytes(skb, at, was, ICMP_BYTES + IPV4_BYTES + QUOTED_BYTES) ||
		    (whole && bpf_skb_load_bytes(skb, at, was, ICMP_BYTES + IPV4_BYTES + TCP_BYTES)))
			return -1;
		if ((was[0] != 3 && was[0] != 11 && was[0] != 12) || was[ICMP_BYTES] != 0x45 || was[EXTENDED4])
			return -1;
		address = addr_of4(*(__be32 *)(was + ICMP_BYTES + 12));
	} else {
		if (bpf_skb_load_bytes(skb, at, was, ICMP_BYTES + IPV6_BYTES + QUOTED_BYTES) ||
		    (whole && bpf_skb_load_bytes(skb, at, was, ICMP_BYTES + IPV6_BYTES + TCP_BYTES)))
			return -1;
		if (!was[0] || was[0] > 4 || was[ICMP_BYTES] >> 4 != 6 || was[EXTENDED6])
			return -1;
		__builtin_memcpy(&address, was + ICMP_BYTES + 8, 16);
	}
	if (!addr_equal(&address, &p->destination))
		return -1;
	if (four)
		address = addr_of4(*(__be32 *)(was + ICMP_BYTES + 16));
	else
		__builtin_memcpy(&address, was + ICMP_BYTES + 24, 16);
	if (!four && addr_is4(&address))
		return -1;
	peer = rewritten_from(&address, me, subnet, &theirs);
	if (!peer)
		return -1;
	__builtin_memcpy(is, was, QUOTE_ROOM);
	if (four) {
		put_quoted(was, is, &place->ca, &peer->ca, true, whole);
		if (bpf_skb_store_bytes(skb, at, is, ICMP_BYTES + IPV4_BYTES + QUOTED_BYTES, BPF_F_RECOMPUTE_CSUM) ||
		    (whole && bpf_skb_store_bytes(skb, at, is, ICMP_BYTES + IPV4_BYTES + TCP_BYTES, BPF_F_RECOMPUTE_CSUM)))
			return -1;
		address = addr_of4(subnet->gateway4);
	} else {
		put_quoted(was, is, &place->ca, &peer->ca, false, whole);
		if (bpf_skb_store_bytes(skb, at, is, ICMP_BYTES + IPV6_BYTES + QUOTED_BYTES, BPF_F_RECOMPUTE_CSUM) ||
		    (whole && bpf_skb_store_bytes(skb, at, is, ICMP_BYTES + IPV6_BYTES + TCP_BYTES, BPF_F_RECOMPUTE_CSUM)))
			return -1;
		address = subnet->gateway6;
	}
	return put_addresses(skb, p, &address, &place->ca);
}

/* What is for a guest and bears its own addresses again, with these MACs. packets: as they were counted at the uplink. */
INLINE int hand_rewritten(struct __sk_buff *skb, const struct local_port *to, const __u8 *mac_to, const __u8 *mac_from,
			  __u32 packets, struct counters *c)
{
	struct ethernet *eth = (void *)(long)skb->data;
	struct counters *to_counters;

	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return drop(skb, c, DROP_TRUNCATED);
	__builtin_memcpy(eth->destination, mac_to, 6);
	__builtin_memcpy(eth->source, mac_from, 6);
	to_counters = counters_at(to->slot);
	if (to_counters && !(to->flags & PORT_GUARDED)) {
		to_counters->sent_packets += packets;
		to_counters->sent_bytes += skb->len;
	}
	return to_local_port(skb, to, true);
}

/* A frame between two PAs of which all is remembered that policy says. */
INLINE int take_rewritten_again(struct __sk_buff *skb, struct packet *p, const struct remembered_rewrite *r)
{
	struct counters *c = counters_of_uplink(skb->ifindex);
	__u32 packets = count_received(skb, c);
	enum drop_reason why = parse(skb, p, 0, skb->len);

	if (why)
		return drop(skb, c, why);
	if (p->to[0] & 1)
		return drop(skb, c, DROP_MULTICAST);
	if ((r->port.flags & (PORT_QOS | PORT_GUARDED)) == PORT_QOS &&
	    !within_limit(skb, p, seat_of(r->port.ifindex, r->port.vlan), DIRECTION_TO_GUEST, 0))
		return drop(skb, c, DROP_RATE_LIMIT);
	if (put_addresses(skb, p, &r->from, &r->to))
		return drop(skb, c, DROP_ENCAP_FAILED);
	return hand_rewritten(skb, &r->port, r->mac_to, r->mac_from, packets, c);
}

/* docs/design/datapath.md, "IP rewrite", on the way in: a frame that no tunnel's header explains. */
INLINE int take_rewritten(struct __sk_buff *skb)
{
	struct host *me = this_host();
	const struct record_key *place, *from;
	const struct record *here, *theirs = NULL;
	struct remembered_rewrite *r;
	struct subnet *subnet;
	struct local_port *to;
	struct counters *c;
	struct packet p = {};
	enum drop_reason why;
	__u32 packets;
	const __u8 *mac_from;

	p.changes = changes_so_far();
	if (!me || !read_ends(skb, &p))
		return to_stack(skb);
	r = recall_rewrite(&p);
	if (r)
		return take_rewritten_again(skb, &p, r);
	place = bpf_map_lookup_elem(&rewrites, &p.destination);
	if (!place)
		return to_stack(skb);
	here = bpf_map_lookup_elem(&records, place);
	if (!here || !may_be_here(me, here, place->vsid))
		return to_stack(skb);
	c = counters_of_uplink(skb->ifindex);
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
	from = rewritten_from(&p.source, me, subnet, &theirs);
	if ((!from || !theirs) && put_router_error(skb, &p, subnet, place, me))
		return drop(skb, c, DROP_FORGED_SOURCE);
	to = local_port_of(place->vsid, here->mac);
	if (!to)
		return drop(skb, c, DROP_VSID_ACL);
	if (!(to->flags & PORT_ENABLED))
		return drop(skb, c, DROP_PORT_DOWN);
	if ((to->flags & (PORT_QOS | PORT_GUARDED)) == PORT_QOS &&
	    !within_limit(skb, &p, seat_of(to->ifindex, to->vlan), DIRECTION_TO_GUEST, 0))
		return drop(skb, c, DROP_RATE_LIMIT);
	mac_from = from && theirs && from->vsid == place->vsid ? theirs->mac : subnet->router_mac;
	if (from && theirs) {
		r = room_for_rewrite(&p);
		if (r) {
			r->from = from->ca;
			r->to = place->ca;
			__builtin_memcpy(r->mac_from, mac_from, 6);
			__builtin_memcpy(r->mac_to, here->mac, 6);
			r->port = *to;
		}
		if (put_addresses(skb, &p, &from->ca, &place->ca))
			return drop(skb, c, DROP_ENCAP_FAILED);
	}
	return hand_rewritten(skb, to, here->mac, mac_from, packets, c);
}
