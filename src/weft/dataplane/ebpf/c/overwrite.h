/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the agent writes over entries that are there, word by word: so their elements stay theirs, and no run of a program that
 * has found one sees another's in it. elements.py; docs/design/ebpf.md
 */
#pragma once

#include "headers.h"
#include "maps.h"

#define OVERWRITE_MOST 128 /* entries of one run */

/* As in layout.py. Not those whose values say no more than that they are there, nor those that must not be seen half written. */
enum overwritten {
	OVERWRITTEN_ALIASES,
	OVERWRITTEN_GUARDS,
	OVERWRITTEN_IDENTITIES,
	OVERWRITTEN_LOCAL,
	OVERWRITTEN_MACS,
	OVERWRITTEN_MEMBERS,
	OVERWRITTEN_MOVING,
	OVERWRITTEN_PAS,
	OVERWRITTEN_PATHS,
	OVERWRITTEN_PORTS,
	OVERWRITTEN_PROVIDER_GROUPS,
	OVERWRITTEN_QOS,
	OVERWRITTEN_RECEIVERS,
	OVERWRITTEN_RECORDS,
	OVERWRITTEN_SAMPLING,
	OVERWRITTEN_SEGMENT_VSIDS,
	OVERWRITTEN_SEGMENTS,
	OVERWRITTEN_SUBNETS,
	OVERWRITTEN_VLANS,
	OVERWRITTEN_WANTED,
};

struct overwriting {
	__u64 key[8];
	__u64 value[sizeof(struct path) / 8];
};

/* overwriting: an entry on its way out of the packet. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct overwriting);
} overwriting SEC(".maps");

INLINE void put_words(void *to, const void *from, __u32 bytes)
{
	__u32 i;

#pragma clang loop unroll(disable)
	for (i = 0; i < bytes / 8; i++)
		((volatile __u64 *)to)[i] = ((const __u64 *)from)[i];
	if (bytes & 4)
		((volatile __u32 *)to)[bytes / 4 - 1] = ((const __u32 *)from)[bytes / 4 - 1];
}

#define OVERWRITE(number, map, key_type, value_type) \
	case number: \
		if (bpf_skb_load_bytes(skb, at, o->key, sizeof(key_type)) || \
		    bpf_skb_load_bytes(skb, at + sizeof(key_type), o->value, sizeof(value_type))) \
			return 0; \
		there = bpf_map_lookup_elem(&map, o->key); \
		if (!there) \
			return 0; \
		put_words(there, o->value, sizeof(value_type)); \
		return sizeof(key_type) + sizeof(value_type)

/* One entry: its bytes in the packet, or 0: it is not there. A global function: the verifier takes it by itself. */
__noinline int overwrite_one(struct __sk_buff *skb, __u32 which, __u32 at)
{
	__u32 zero = 0;
	struct overwriting *o = bpf_map_lookup_elem(&overwriting, &zero);
	void *there;

	if (!o)
		return 0;
	switch (which) {
		OVERWRITE(OVERWRITTEN_ALIASES, aliases, struct addr, struct addr);
		OVERWRITE(OVERWRITTEN_GUARDS, guards, seat, struct guard);
		OVERWRITE(OVERWRITTEN_IDENTITIES, identities, struct record_key, __u32);
		OVERWRITE(OVERWRITTEN_LOCAL, local, struct mac_key, struct local_port);
		OVERWRITE(OVERWRITTEN_MACS, macs, struct mac_key, struct record);
		OVERWRITE(OVERWRITTEN_MEMBERS, members, struct place, struct member);
		OVERWRITE(OVERWRITTEN_MOVING, moving, struct mac_key, struct addr);
		OVERWRITE(OVERWRITTEN_PAS, pas, struct record_key, struct addr);
		OVERWRITE(OVERWRITTEN_PATHS, paths, struct addr, struct path);
		OVERWRITE(OVERWRITTEN_PORTS, ports, seat, struct port);
		OVERWRITE(OVERWRITTEN_PROVIDER_GROUPS, provider_groups, __u32, struct addr);
		OVERWRITE(OVERWRITTEN_QOS, qos, seat, struct qos);
		OVERWRITE(OVERWRITTEN_RECEIVERS, receivers, struct place, struct receiver);
		OVERWRITE(OVERWRITTEN_RECORDS, records, struct record_key, struct record);
		OVERWRITE(OVERWRITTEN_SAMPLING, sampling, __u32, struct sampling);
		OVERWRITE(OVERWRITTEN_SEGMENT_VSIDS, segment_vsids, seat, __u32);
		OVERWRITE(OVERWRITTEN_SEGMENTS, segments, __u32, struct segment);
		OVERWRITE(OVERWRITTEN_SUBNETS, subnets, __u32, struct subnet);
		OVERWRITE(OVERWRITTEN_VLANS, vlans, __u32, __u32);
		OVERWRITE(OVERWRITTEN_WANTED, wanted, struct wanted_key, __u64);
	}
	return 0;
}

/* Behind the Ethernet header, the map's number and how many entries follow, each a key and a value. How many were written before
 * the first that is not there.
 */
INLINE int overwrite(struct __sk_buff *skb)
{
	__u32 words[2], at = ETHERNET_BYTES + sizeof(words), i;

	if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, words, sizeof(words)))
		return 0;
#pragma clang loop unroll(disable)
	for (i = 0; i < OVERWRITE_MOST && i < words[1]; i++) {
		int bytes = overwrite_one(skb, words[0], at);

		if (bytes <= 0)
			break;
		at += bytes;
	}
	return i;
}
