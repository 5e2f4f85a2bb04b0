// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Asks c/conntrack.h of a frame, by the guard of the seat and in the direction that its VLAN and mark say;
 * cb[0]: whether c/established.h has let it pass.
 */
#pragma clang diagnostic ignored "-Wunused-function"
#include "established.h"

SEC("tc")
int ask(struct __sk_buff *skb)
{
	seat at = skb->mark >> 1;
	struct guard *g = bpf_map_lookup_elem(&guards, &at);
	__u32 zero = 0;
	struct packet *p = bpf_map_lookup_elem(&packets, &zero);

	if (!g || !p)
		return -1;
	pull(skb);
	__builtin_memset(p, 0, sizeof(*p));
	if (parse(skb, p, 0, skb->len))
		return -2;
	parse_transport(skb, p, ETHERNET_BYTES);
	skb->cb[0] = carries_on(skb, skb->mark & 1, g->port);
	return skb->cb[0] ? 0 : guarded(skb, p, at, skb->mark & 1);
}

SEC("tc")
int asked(struct __sk_buff *skb)
{
	return do_asked(skb);
}

/* What the last packet on this CPU left behind, into the frame; how many bytes. */
SEC("tc")
int left(struct __sk_buff *skb)
{
	struct flow *f = flow_of_this_cpu();

	if (!f || bpf_skb_store_bytes(skb, ETHERNET_BYTES, f, sizeof(*f), 0))
		return -1;
	return sizeof(*f);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
