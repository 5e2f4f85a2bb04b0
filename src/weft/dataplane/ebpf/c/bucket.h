/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Token buckets of nanobits and nanopackets: reference/qos.py says the same, and a test holds the two together. */
#pragma once

#include "maps.h"

#define NANO 1000000000LL
#define MOST_BYTES (1 << 24) /* what a packet counts at most, so that a debt has a bound */

/* What is left once the time since the bucket was last asked has been added. A rate of 0 is none: never empty. */
INLINE __s64 refilled(__s64 left, const struct rate *rate, __u64 elapsed_ns)
{
	__s64 more;

	/* Before it is full no product overflows: the agent has worked out when that is, from the deepest debt there is. */
	if (elapsed_ns >= rate->full_ns)
		return rate->most;
	more = left + (__s64)(elapsed_ns * rate->rate);
	return more < rate->most ? more : rate->most;
}

/* 1: the packet passes, and is taken out. It does while the bucket is not empty, and may leave it in debt. */
static __noinline int take(struct bucket *b, const struct limit *limit, __u64 now_ns, __u32 bytes, __u32 packets)
{
	__s64 nanobits, nanopackets = packets * NANO;
	__u64 elapsed_ns;
	int passes = 1;

	if (!b || !limit)
		return 1;
	nanobits = (bytes < MOST_BYTES ? bytes : MOST_BYTES) * 8 * NANO;
	bpf_spin_lock(&b->lock);
	/* Never asked: full. Another CPU's clock may be a little ahead. */
	elapsed_ns = !b->at_ns ? ~0ULL : now_ns > b->at_ns ? now_ns - b->at_ns : 0;
	if (limit->bits.rate) {
		b->nanobits = refilled(b->nanobits, &limit->bits, elapsed_ns);
		passes = b->nanobits > 0;
	}
	if (limit->packets.rate) {
		b->nanopackets = refilled(b->nanopackets, &limit->packets, elapsed_ns);
		passes = passes && b->nanopackets > 0;
	}
	if (now_ns > b->at_ns)
		b->at_ns = now_ns;
	if (passes && limit->bits.rate)
		b->nanobits -= nanobits;
	if (passes && limit->packets.rate)
		b->nanopackets -= nanopackets;
	bpf_spin_unlock(&b->lock);
	return passes;
}
