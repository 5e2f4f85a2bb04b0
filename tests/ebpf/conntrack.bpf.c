// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Asks c/conntrack.h of a frame, by the guard of the seat and in the direction that its VLAN and mark say;
 * cb[0]: whether c/established.h has let it pass; cb[1]: how many of these runs have.
 */
#pragma clang diagnostic ignored "-Wunused-function"
#include "established.h"

SEC("tc")
int ask(struct __sk_buff *skb)
{
	int verdict = 0;
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
	if (!skb->cb[0])
		verdict = guarded(skb, p, at, skb->mark & 1);
	if (!verdict)
		skb->cb[1] += 1;
	return verdict;
}

#define TURNS (1 << 18)

/* Two connections that are there by turns, each in the element that the other has left; changed: how often the second was not
 * as it had come. What it has counted is not looked at.
 */
struct turning {
	struct __sk_buff *skb;
	__u32 first;
	__u32 second;
	__u32 changed;
};

static __noinline int come(struct __sk_buff *skb, struct flow *f, __u32 at)
{
	if (!f || bpf_skb_load_bytes(skb, at, &f->key, sizeof(f->key)) ||
	    bpf_skb_load_bytes(skb, at + sizeof(f->key), &f->fresh, offsetof(struct fresh, tag)))
		return -1;
	put_owner(&f->fresh.tag, &f->key);
	return bpf_map_update_elem(&connections, &f->key, &f->fresh, BPF_NOEXIST);
}

static long turn(__u32 i, struct turning *t)
{
	struct flow *f = flow_of_agent();
	struct connection *c;

	(void)i;
	if (!f || come(t->skb, f, t->first))
		return 1;
	forget(f, &f->key);
	if (come(t->skb, f, t->second))
		return 1;
	c = bpf_map_lookup_elem(&connections, &f->key);
	t->changed += !c || c->state != f->fresh.state || c->flags != f->fresh.flags || c->epoch != f->fresh.epoch ||
		      c->expires_ns != f->fresh.expires_ns || c->halves[0].end != f->fresh.halves[0].end;
	forget(f, &f->key);
	return 0;
}

SEC("tc")
int take_turns(struct __sk_buff *skb)
{
	struct turning t = { .skb = skb, .first = ETHERNET_BYTES };

	t.second = t.first + sizeof(struct connection_key) + offsetof(struct fresh, tag);
	if (bpf_loop(TURNS, turn, &t, 0) != TURNS)
		return -1;
	return t.changed;
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
