/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the kernel's routes and neighbours say of the way to an address. It is asked anew every few milliseconds, so all that
 * happens to them is followed; in between its answer is remembered, for each CPU by itself. Decides nothing.
 */
#pragma once

#include "drop.h"
#include "lookup.h"
#include "scratch.h"

#define LOOPBACK_IFINDEX 1 /* in every network namespace */
#define NEXT_HOPS 256
/* A route or a neighbour that changes is followed this much later, at most. */
#define NEXT_HOP_NS (5 * 1000 * 1000ULL)

struct next_hop {
	struct addr source; /* as asked */
	struct addr destination;
	struct addr address; /* of the next hop */
	__u64 until_ns;
	__u32 ifindex; /* 0: there is no way; or the packet is larger than mtu */
	__u32 mtu; /* a packet so long has a way */
	__u32 slot; /* of the uplink's counters */
	__u8 to[6]; /* MACs, where the next hop's is known */
	__u8 from[6];
	__u8 protocol; /* as asked */
	__u8 known;
	__u8 fresh; /* asked for this packet */
	__u8 pad[5];
};

/* next_hops: the programs' own, by a hash of the destination. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NEXT_HOPS);
	__type(key, __u32);
	__type(value, struct next_hop);
} next_hops SEC(".maps");

/* The MTU of the way to a peer, where packets do not ask by which, as our own probes know it; 0: they do not. */
static __noinline __u32 probed_mtu(const struct addr *pa)
{
	struct path *path = pa ? bpf_map_lookup_elem(&paths, pa) : NULL;

	return path ? path->ways[0].mtu : 0;
}

/* Slow way: the kernel is asked. n has what for. length: of the packet, 0: any. */
static __noinline int ask_next_hop(struct __sk_buff *skb, struct next_hop *n, __u32 length)
{
	struct scratch *room = scratch_of_this_cpu();
	struct bpf_fib_lookup *fib; /* not on the stack, which is full */
	long rc;

	if (!room || !n)
		return 0;
	n->ifindex = 0;
	n->mtu = 0;
	n->until_ns = 0;
	n->known = 0;
	n->fresh = 1;
	fib = &room->fib;
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->l4_protocol = n->protocol;
	fib->tot_len = length;
	/* As for the host's own packets: the look-up wants an interface that forwards, and a guest's must not. */
	fib->ifindex = LOOPBACK_IFINDEX;
	if (addr_is4(&n->destination)) {
		fib->family = AF_INET;
		fib->ipv4_src = n->source.w[3];
		fib->ipv4_dst = n->destination.w[3];
	} else {
		fib->family = AF_INET6;
		__builtin_memcpy(fib->ipv6_src, &n->source, 16);
		__builtin_memcpy(fib->ipv6_dst, &n->destination, 16);
	}
	rc = bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
	/* What the kernel has learnt of a path anybody can have said to it, who can send to this host: ICMP. */
	if (rc == BPF_FIB_LKUP_RET_FRAG_NEEDED && probed_mtu(&n->destination) >= length) {
		fib->tot_len = 0;
		fib->ifindex = LOOPBACK_IFINDEX;
		rc = bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
		fib->mtu_result = length;
	}
	if (rc == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		n->mtu = fib->mtu_result;
	if (rc != BPF_FIB_LKUP_RET_SUCCESS && rc != BPF_FIB_LKUP_RET_NO_NEIGH)
		return 0;
	n->ifindex = fib->ifindex;
	n->slot = slot_of(fib->ifindex);
	n->mtu = fib->mtu_result; /* which is what was asked with, where the kernel does not say */
	if (fib->family == AF_INET)
		n->address = addr_of4(fib->ipv4_dst);
	else
		__builtin_memcpy(&n->address, fib->ipv6_dst, 16);
	__builtin_memcpy(n->to, fib->dmac, 6);
	__builtin_memcpy(n->from, fib->smac, 6);
	n->known = rc == BPF_FIB_LKUP_RET_SUCCESS;
	n->until_ns = bpf_ktime_get_coarse_ns() + NEXT_HOP_NS;
	return 0;
}

/* The way from a PA to another. length: of the outer packet; 0: any. Good until the next call; NULL: there is no memory of
 * ways, which cannot be.
 */
INLINE struct next_hop *next_hop_to(struct __sk_buff *skb, const struct addr *source, const struct addr *destination,
				    __u8 protocol, __u32 length)
{
	__u32 slot = ((destination->w[0] ^ destination->w[1] ^ destination->w[2] ^ destination->w[3]) * 0x9E3779B1u) >> 24;
	struct next_hop *n = bpf_map_lookup_elem(&next_hops, &slot);

	if (!n)
		return NULL;
	if (n->until_ns > bpf_ktime_get_coarse_ns() && length <= n->mtu && n->protocol == protocol &&
	    addr_equal(&n->destination, destination) && addr_equal(&n->source, source)) {
		n->fresh = 0;
		return n;
	}
	n->source = *source;
	n->destination = *destination;
	n->protocol = protocol;
	ask_next_hop(skb, n, length);
	return n;
}

/* Where the kernel has just been asked its neighbour states do the rest: who is silent is probed. What was asked some
 * milliseconds ago is taken as it was.
 */
INLINE int leave(struct __sk_buff *skb, const struct next_hop *n)
{
	struct bpf_redir_neigh next = {};

	if (n->known && !n->fresh) {
		struct ethernet *eth = (void *)(long)skb->data;

		if ((void *)(eth + 1) > (void *)(long)skb->data_end)
			return TC_ACT_SHOT;
		__builtin_memcpy(eth->destination, n->to, 6);
		__builtin_memcpy(eth->source, n->from, 6);
		return bpf_redirect(n->ifindex, 0);
	}
	if (addr_is4(&n->address)) {
		next.nh_family = AF_INET;
		next.ipv4_nh = n->address.w[3];
	} else {
		next.nh_family = AF_INET6;
		__builtin_memcpy(next.ipv6_nh, &n->address, 16);
	}
	return bpf_redirect_neigh(n->ifindex, &next, sizeof(next), 0);
}
