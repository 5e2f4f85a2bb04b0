// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A run that has found an entry and takes its time: what its value was, and what it has become. */
#include "types.h"

#define PATIENCE_NS 400000000

struct value {
	__u64 whose;
	__u64 also;
};

/* kept: as a former one has it, so that every way to write is tried on the same. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct value);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} kept SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, struct value);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} at_once SEC(".maps");

/* seen: whether it has begun (1) or is over (2), whether it may end, and what was there at its beginning and at its end. */
struct seen {
	__u64 stage;
	__u64 enough;
	struct value first;
	struct value last;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct seen);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} seen SEC(".maps");

struct waiting {
	struct seen *s;
	__u64 until_ns;
};

static long turn(__u32 index, struct waiting *w)
{
	(void)index;
	return *(volatile __u64 *)&w->s->enough || bpf_ktime_get_ns() > w->until_ns;
}

INLINE int hold(struct value *v)
{
	__u32 zero = 0;
	struct waiting w = { .s = bpf_map_lookup_elem(&seen, &zero), .until_ns = bpf_ktime_get_ns() + PATIENCE_NS };

	if (!w.s || !v)
		return -1;
	w.s->first = *v;
	__atomic_exchange_n(&w.s->stage, 1, __ATOMIC_SEQ_CST);
	bpf_loop(1 << 23, turn, &w, 0);
	w.s->last.whose = *(volatile __u64 *)&v->whose;
	w.s->last.also = *(volatile __u64 *)&v->also;
	__atomic_exchange_n(&w.s->stage, 2, __ATOMIC_SEQ_CST);
	return 0;
}

SEC("tc")
int hold_kept(struct __sk_buff *skb)
{
	__u64 key = 1;

	(void)skb;
	return hold(bpf_map_lookup_elem(&kept, &key));
}

SEC("tc")
int hold_at_once(struct __sk_buff *skb)
{
	__u64 key = 1;

	(void)skb;
	return hold(bpf_map_lookup_elem(&at_once, &key));
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
