/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One frame in so many, as it came in, for the agent to send to a collector. Changes nothing of what becomes of it: an
 * interface that is not sampled never comes here, and a sample that there is no room for is lost, and counted. No tenant has
 * more that waits to be read than it leaves to others, nor have uplinks.
 */
#pragma once

#include "maps.h"

/* tenant: whose it is, as in struct guard; 0: an uplink's. */
static __noinline int sample(struct __sk_buff *skb, __u32 ifindex, __u32 tenant)
{
	struct sampling *how = bpf_map_lookup_elem(&sampling, &ifindex);
	__u32 captured = skb->len, zero = 0;
	struct sample *s = NULL;
	struct tenant *of;
	__u64 *lost;

	if (!how || bpf_get_prandom_u32() > how->below)
		return 0;
	of = tenant_at(&tenant);
	if (of && may_put(&samples, SAMPLES_BYTES, &of->samples, sizeof(*s)))
		s = bpf_ringbuf_reserve(&samples, sizeof(*s), 0);
	if (!s) {
		lost = bpf_map_lookup_elem(&samples_lost, &zero);
		if (lost)
			__sync_fetch_and_add(lost, 1);
		return 0;
	}
	has_put(&samples, &of->samples, sizeof(*s));
	if (captured > how->header_bytes)
		captured = how->header_bytes;
	if (captured > SAMPLE_MAX)
		captured = SAMPLE_MAX;
	s->ifindex = ifindex;
	s->rate = how->rate;
	s->length = skb->len;
	s->captured = captured;
	BOUND(captured, SAMPLE_MAX, bpf_ringbuf_discard(s, 0); return 0);
	if (bpf_skb_load_bytes(skb, 0, s->header, captured)) {
		bpf_ringbuf_discard(s, 0);
		return 0;
	}
	bpf_ringbuf_submit(s, 0);
	return 0;
}
