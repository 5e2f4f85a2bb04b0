/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Room to build an answer in: the stack has 512 bytes in all. */
#pragma once

#include "headers.h"
#include "maps.h"

#define QUOTE6_MAX 1232 /* within 1280: RFC 4443 section 3.1 */
#define CSUM_CHUNK 256

/* Scratch for building an answer or an upcall; per CPU, written and read within one run of a program. */
struct scratch {
	union {
		struct addr addresses[4];
		__u8 frame[ETHERNET_BYTES + IPV6_BYTES + ICMP_BYTES + QUOTE6_MAX + CSUM_CHUNK];
		struct {
			struct upcall upcall;
			__u8 upcall_frame[UPCALL_FRAME_MAX];
		};
	};
	struct bpf_fib_lookup fib;
	struct addr group; /* of the underlay, that a packet came to */
	/* What weft_rewrite is to know: where its packet goes, once policy has spoken, and as from whom to whom. */
	struct {
		struct addr source;
		struct addr destination;
		__u32 source_vsid;
		__u8 to[6];
		__u8 from[6];
		__u32 routed;
		__u32 limit; /* as policy has it; 0: none */
		__u32 of_flow; /* which way it takes hangs on more than its addresses */
	} rewrite;
	/* What weft_ingress is to know: the port that it is for. */
	struct {
		struct local_port to;
		__u16 peer_works;
		__u16 is_read; /* what there is in packets is this packet */
		__u32 otherwise; /* it could go nowhere else, for this reason: the one that counts when it is refused here; or 0 */
	} arrival;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

INLINE struct scratch *scratch_of_this_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}
