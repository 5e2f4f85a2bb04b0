// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A run that takes its time: says that it has begun, and at its end that it has ended. */
#include "types.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} said SEC(".maps");

static long turn(__u32 index, void *unused)
{
	(void)index;
	(void)unused;
	return bpf_ktime_get_ns() == 0;
}

SEC("tc")
int run(struct __sk_buff *skb)
{
	(void)skb;
	__u32 zero = 0, *where = bpf_map_lookup_elem(&said, &zero);

	if (!where)
		return -1;
	__atomic_exchange_n(where, 1, __ATOMIC_SEQ_CST);
	bpf_loop(1 << 23, turn, (void *)0, 0);
	__atomic_exchange_n(where, 2, __ATOMIC_SEQ_CST);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
