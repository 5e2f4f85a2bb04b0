/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The VLAN of the physical network that a bridged subnet is: who was heard there, and a copy out to it. */
#pragma once

#include "drop.h"
#include "lookup.h"
#include "parse.h"

/* How long one who was heard behind the uplink is believed to be there (IEEE 802.1Q section 8.8.3), and for how long one
 * cannot be a guest of this host as well, so that what says so has gone round. Written by the agent before the programs are
 * loaded.
 */
const volatile __u64 weft_learned_ns = 300000000000;
const volatile __u64 weft_loop_ns = 1000000000;

/* How many of those each subnet is sure of, and how many there may be beyond that in all. Written by the agent, too. */
const volatile __u64 weft_learned_own = 8;
const volatile __u64 weft_learned_most = 65536;

#define LEARNED_REFRESH_NS 100000000 /* not for every packet: CPUs share the entry */

INLINE struct segment *segment_of(__u32 vsid)
{
	return bpf_map_lookup_elem(&segments, &vsid);
}

INLINE struct learned *learned_of(__u32 vsid, const __u8 *mac)
{
	struct mac_key key = { .vsid = vsid };

	__builtin_memcpy(key.mac, mac, 6);
	return bpf_map_lookup_elem(&learned, &key);
}

static __noinline int is_outside(__u32 vsid, const __u8 *mac)
{
	struct learned *l = mac ? learned_of(vsid, mac) : NULL;

	return l && bpf_ktime_get_ns() - l->seen_ns < weft_learned_ns;
}

/* One less who was heard in a subnet. */
static __noinline int give_hearing(struct hearing *h)
{
	__u32 zero = 0, number;
	struct tenant *of;
	__u64 *beyond;

	/* 0: it was counted for whoever had the subnet before. */
	if (!h || !h->learned || __sync_fetch_and_add(&h->learned, -1) <= weft_learned_own)
		return 0;
	beyond = bpf_map_lookup_elem(&learning, &zero);
	if (beyond)
		__sync_fetch_and_add(beyond, -1);
	number = h->tenant;
	of = bpf_map_lookup_elem(&tenants, &number);
	if (of)
		__sync_fetch_and_add(&of->learned, -1);
	return 0;
}

/* One more, if there is room: 0. */
static __noinline int take_hearing(struct hearing *h)
{
	__u64 has, *beyond;
	__u32 zero = 0, number;
	struct tenant *of;

	if (!h)
		return -1;
	number = h->tenant;
	beyond = bpf_map_lookup_elem(&learning, &zero);
	of = tenant_at(&number);
	if (!beyond || !of)
		return -1;
	has = __sync_fetch_and_add(&h->learned, 1);
	if (has < weft_learned_own)
		return 0;
	if (!take_share(beyond, &of->learned, weft_learned_most) && has < LEARNED_MAX)
		return 0;
	give_hearing(h);
	return -1;
}

/* Whoever was heard is forgotten: 1; or nobody was. */
static __noinline int unlearn(const struct mac_key *key)
{
	__u32 vsid;

	if (!key || bpf_map_delete_elem(&learned, key))
		return 0;
	vsid = key->vsid;
	give_hearing(bpf_map_lookup_elem(&hearing, &vsid));
	return 1;
}

/* Whether a guest's packet comes from one who is outside. If it did before, it has moved here. */
static __noinline int has_gone_round(const struct packet *p, const struct port *port)
{
	struct mac_key key = {};
	struct learned *l;

	if (!p || !port || mac_equal(p->from, port->mac))
		return 0;
	key.vsid = port->vsid;
	__builtin_memcpy(key.mac, p->from, 6);
	l = bpf_map_lookup_elem(&learned, &key);
	if (!l)
		return 0;
	if (bpf_ktime_get_ns() - l->seen_ns < weft_loop_ns)
		return 1;
	unlearn(&key);
	return 0;
}

/* Whoever sent this is behind the uplink. When there is no room what is for it goes everywhere, and that is counted. */
static __noinline int learn(__u32 ifindex, __u32 vsid, const __u8 *mac)
{
	struct learned fresh = { .seen_ns = bpf_ktime_get_ns(), .ifindex = ifindex }, *l;
	struct mac_key key = { .vsid = vsid };
	struct hearing *h;

	if (!mac)
		return 0;
	__builtin_memcpy(key.mac, mac, 6);
	l = bpf_map_lookup_elem(&learned, &key);
	if (l) {
		if (l->ifindex != ifindex || fresh.seen_ns - l->seen_ns > LEARNED_REFRESH_NS) {
			l->seen_ns = fresh.seen_ns;
			l->ifindex = ifindex;
		}
		return 0;
	}
	h = bpf_map_lookup_elem(&hearing, &vsid);
	if (!h)
		return 0;
	if (take_hearing(h)) {
		__sync_fetch_and_add(&h->refused, 1);
		return 0;
	}
	if (bpf_map_update_elem(&learned, &key, &fresh, BPF_NOEXIST))
		give_hearing(h);
	return 0;
}

/* What the agent asks, in the packet of a test run: whom to forget, since it cannot count as the programs do. */
#define UNLEARN_MOST 200
struct unlearning {
	struct __sk_buff *skb;
	__u32 count;
	__u32 late; /* only who was not heard for too long */
	__u32 at; /* of the next, in the packet */
	__u32 done;
};

static long unlearn_next(__u32 i, struct unlearning *u)
{
	struct mac_key key;
	struct learned *l;

	if (i >= u->count || bpf_skb_load_bytes(u->skb, u->at, &key, sizeof(key)))
		return 1;
	u->at += sizeof(key);
	l = bpf_map_lookup_elem(&learned, &key);
	if (l && (!u->late || bpf_ktime_get_ns() - l->seen_ns >= weft_learned_ns))
		u->done += unlearn(&key);
	return 0;
}

/* How many were. */
INLINE int unlearn_asked(struct __sk_buff *skb)
{
	struct unlearning u = { .skb = skb, .at = ETHERNET_BYTES + 8 };

	if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, &u.count, 8))
		return -1;
	bpf_loop(UNLEARN_MOST, unlearn_next, &u, 0);
	return u.done;
}

INLINE void count_out(struct __sk_buff *skb, const struct segment *s, __u32 packets)
{
	struct counters *up = counters_of_uplink(s->ifindex);

	if (up) {
		up->sent_packets += packets;
		up->sent_bytes += skb->len;
	}
}

/* Returns how many copies are on their way. */
static __noinline int copy_to_wire(struct __sk_buff *skb, __u32 vsid)
{
	struct segment *s = segment_of(vsid);
	__u32 packets;
	int rc;

	if (!s)
		return 0;
	packets = packets_in(skb);
	if (put_tag(skb, s->vlan))
		return 0;
	rc = bpf_clone_redirect(skb, s->ifindex, 0);
	bpf_skb_vlan_pop(skb);
	if (rc)
		return 0;
	count_out(skb, s, packets);
	return 1;
}
