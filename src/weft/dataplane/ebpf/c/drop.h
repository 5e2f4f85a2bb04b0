/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Verdicts, and the counting that goes with each. */
#pragma once

#include "drop_reasons.h"
#include "headers.h"
#include "maps.h"

/* What became of a packet, in skb->cb[0], and to which interface, in cb[1]: tests read it, nothing else does. In cb[2] is the
 * VLAN of the guest's frame, whose tag is off: of a sub-port that sends it, and in the end of one that it goes to. In cb[3]:
 * whether a copy of what is the agent's went out in the subnet's VLAN.
 */
enum verdict {
	VERDICT_TO_PORT = 1,
	VERDICT_TO_UNDERLAY = 2,
	VERDICT_ANSWER = 3,
	VERDICT_TO_STACK = 4,
	VERDICT_DROP = 5,
	VERDICT_TO_AGENT = 6,
	VERDICT_TO_WIRE = 8, /* cb[2]: the VLAN */
	VERDICT_COPIES = 7, /* cb[1]: how many were sent; the packet itself goes on besides, if it does */
};

/* The mark of a packet that the data plane itself sends towards a guest; weft_to_port lets nothing else pass. */
#define WEFT_MARK 0x57454654
/* The same of what the agent sends: weft_to_port counts it, since nobody has. */
#define WEFT_AGENT_MARK 0x57454641
/* That of a copy for a mirror at an address: weft_to_port puts the headers on and sends it there. */
#define WEFT_MIRROR_MARK 0x5745464d
/* Of a copy for another host: weft_to_port lets it to no guest, but sends it there. Probed: its way's MTU is known. */
#define WEFT_COPY_MARK 0x57454642
#define WEFT_PROBED_COPY_MARK 0x57454643
/* Of a copy for a guest whose port is guarded: weft_to_port asks before it lets it pass. */
#define WEFT_GUARDED_MARK 0x57454647

/* How many segments a GSO packet will be, where the kernel has no number for it: of what a virtual machine sends
 * through a tap, and of what had a header put on or taken off. Slow way, for large packets only.
 */
static __noinline __u32 segments_in(struct __sk_buff *skb)
{
	__u32 at = ETHERNET_BYTES, size = skb->gso_size;
	__be16 type;
	int i;

	if (!size || bpf_skb_load_bytes(skb, at - 2, &type, 2))
		return 1;
	for (i = 0; i < 2; i++) { /* our outer header, and the guest's own */
		__u8 head[10], protocol;

		if (bpf_skb_load_bytes(skb, at, head, sizeof(head)))
			return 1;
		if (type == ETHERTYPE_IPV4) {
			protocol = head[9];
			at += (head[0] & 15) * 4;
		} else if (type == ETHERTYPE_IPV6) {
			protocol = head[6];
			at += IPV6_BYTES;
		} else {
			return 1;
		}
		if (protocol == IPPROTO_TCP) {
			if (bpf_skb_load_bytes(skb, at + 12, head, 1))
				return 1;
			at += (head[0] >> 4) * 4;
			break;
		}
		if (protocol == IPPROTO_UDP) {
			at += UDP_BYTES;
			break;
		}
		at += GRE_BYTES + ETHERNET_BYTES;
		if (protocol != IPPROTO_GRE || bpf_skb_load_bytes(skb, at - 2, &type, 2))
			return 1;
	}
	return skb->len > at ? (skb->len - at + size - 1) / size : 1;
}

static __noinline __u32 packets_in(struct __sk_buff *skb)
{
	if (skb->gso_segs)
		return skb->gso_segs;
	return skb->gso_size ? segments_in(skb) : 1;
}

INLINE struct counters *counters_at(__u32 slot)
{
	return bpf_map_lookup_elem(&counters, &slot);
}

/* 0: nobody's. */
static __noinline __u32 slot_of(seat at)
{
	__u32 *slot = bpf_map_lookup_elem(&counter_slots, &at);

	return slot ? *slot : 0;
}

/* Of a port whose entries are not at hand. */
INLINE struct counters *counters_of(seat at)
{
	return counters_at(slot_of(at));
}

/* uplink_slots: the programs' own, by the ifindex's last bits: where the counters of an uplink are, for some milliseconds. */
#define UPLINK_SLOTS 16
#define UPLINK_SLOT_NS (5 * 1000 * 1000ULL)
struct uplink_slot {
	__u64 until_ns;
	__u32 ifindex;
	__u32 slot;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, UPLINK_SLOTS);
	__type(key, __u32);
	__type(value, struct uplink_slot);
} uplink_slots SEC(".maps");

INLINE struct counters *counters_of_uplink(__u32 ifindex)
{
	__u32 place = ifindex & (UPLINK_SLOTS - 1);
	struct uplink_slot *u = bpf_map_lookup_elem(&uplink_slots, &place);
	__u64 now = bpf_ktime_get_coarse_ns();

	if (!u)
		return counters_at(0);
	if (u->ifindex != ifindex || u->until_ns <= now) {
		u->ifindex = ifindex;
		u->slot = slot_of(ifindex);
		u->until_ns = now + UPLINK_SLOT_NS;
	}
	return counters_at(u->slot);
}

/* Returns how many packets it is: whoever counts it again need not look again. */
INLINE __u32 count_received(struct __sk_buff *skb, struct counters *c)
{
	__u32 packets = packets_in(skb);

	if (c) {
		c->received_packets += packets;
		c->received_bytes += skb->len;
	}
	return packets;
}

INLINE void count_sent(struct __sk_buff *skb, struct counters *c)
{
	if (c) {
		c->sent_packets += packets_in(skb);
		c->sent_bytes += skb->len;
	}
}

INLINE void count_drop(struct __sk_buff *skb, struct counters *c, enum drop_reason reason)
{
	if (c)
		c->drops[reason & 63] += packets_in(skb);
}

/* Of what is counted already. */
INLINE int dropped(struct __sk_buff *skb, enum drop_reason reason)
{
	skb->cb[0] = VERDICT_DROP;
	skb->cb[1] = reason;
	return TC_ACT_SHOT;
}

INLINE int drop(struct __sk_buff *skb, struct counters *c, enum drop_reason reason)
{
	count_drop(skb, c, reason);
	return dropped(skb, reason);
}

/* Of the port that sends. */
INLINE seat sender_seat(const struct __sk_buff *skb)
{
	return seat_of(skb->ifindex, skb->cb[2]);
}

/* The tag of a sub-port, on the way to its guest: beside the frame, so that it costs no byte to be moved. */
static __noinline int put_tag(struct __sk_buff *skb, __u32 vlan)
{
	return bpf_skb_vlan_push(skb, ETHERTYPE_8021Q, vlan);
}

/* A copy for a guest. flags: of struct local_port. Returns 0 when it is on its way. */
static __noinline int copy_to_port(struct __sk_buff *skb, __u32 ifindex, __u32 vlan, __u32 flags)
{
	__u32 mark = skb->mark;
	int rc;

	if (vlan && put_tag(skb, vlan))
		return -1;
	skb->mark = flags & PORT_GUARDED ? WEFT_GUARDED_MARK : WEFT_MARK;
	rc = bpf_clone_redirect(skb, ifindex, 0);
	skb->mark = mark;
	if (vlan)
		bpf_skb_vlan_pop(skb);
	return rc;
}

/* Back out of the port that the packet came from. */
INLINE int answer(struct __sk_buff *skb, struct counters *c)
{
	count_sent(skb, c);
	skb->cb[0] = VERDICT_ANSWER;
	skb->cb[1] = skb->ifindex;
	skb->mark = WEFT_MARK;
	if (skb->cb[2])
		put_tag(skb, skb->cb[2]);
	return bpf_redirect(skb->ifindex, 0);
}

INLINE int to_stack(struct __sk_buff *skb)
{
	skb->cb[0] = VERDICT_TO_STACK;
	return TC_ACT_UNSPEC;
}
