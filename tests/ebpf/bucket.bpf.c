// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Asks c/bucket.h what a test says in the packet: the time, and how large the packet is. */
#include "bucket.h"

struct asked {
	__u64 now_ns;
	__u32 bytes;
	__u32 packets;
};

SEC("tc")
int ask(struct __sk_buff *skb)
{
	struct bucket_key which = {};
	seat port = 0;
	struct asked asked;
	struct bucket *b = bpf_map_lookup_elem(&buckets, &which);
	struct qos *q = bpf_map_lookup_elem(&qos, &port);

	if (!b || !q || bpf_skb_load_bytes(skb, 14, &asked, sizeof(asked)))
		return -1;
	return take(b, &q->from_guest, asked.now_ns, asked.bytes, asked.packets);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
