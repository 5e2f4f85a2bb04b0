/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps that programs and agent share: who writes, who reads. Layouts are pinned state: a change is a new generation.
 *
 * Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d, always in network byte order; VSIDs, ifindexes and numbers are in
 * host byte order. Every byte of padding is zero.
 */
#pragma once

#include "types.h"

/* Where a port is: the ifindex of its interface, and above it the 802.1Q VLAN of its frames there; 0: they have no tag. */
typedef __u64 seat;

INLINE seat seat_of(__u32 ifindex, __u32 vlan)
{
	return (seat)vlan << 32 | ifindex;
}

#define MAX_PAS 8 /* provider addresses of one host */

/* host: written by the agent from the Host row (and the kernel's view of the uplinks); read on every packet. */
struct host {
	struct addr pas[MAX_PAS]; /* unused ones all zero */
	struct addr source4; /* first IPv4 PA, mapped; zero: none */
	struct addr source6; /* first IPv6 PA; zero: none */
	__u32 uplink_mtu; /* smallest of the uplinks; 0: no Host row yet */
	__u16 accepts; /* bit 1 << RULE_*: what some subnet here accepts */
	__u16 flags;
};
#define HOST_PATHS 1 /* there is something in paths */
#define HOST_SAMPLED 2 /* uplinks have entries in sampling */
#define HOST_VLANS 4 /* there is something in vlans */
#define HOST_BRIDGES 8 /* there is something in segments */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct host);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} host SEC(".maps");

/* vlans: written by the agent from the Host row: the VLAN of the PAs of an uplink; read for what comes and goes by uplinks,
 * where the host has the flag.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32); /* ifindex */
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} vlans SEC(".maps");

/* aliases: written by the agent from Peer rows: a further PA of a peer -> its first; read when a received packet does not
 * come from the PA that its source's record names.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct addr);
	__type(value, struct addr);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} aliases SEC(".maps");

/* paths: written by the agent: by a peer's first PA, the ways to it that its probes have found to work, one for each place
 * that a flow can have. Read for every packet to another host, where the host has the flag.
 */
#define WAYS 16
struct way {
	struct addr source;
	struct addr destination; /* both of the family of the key */
	__u32 mtu; /* of the outer packet; 0: as the uplink's */
};

struct path {
	struct way ways[WAYS];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct addr);
	__type(value, struct path);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} paths SEC(".maps");

/* subnets: written by the agent from Subnet rows; read on every packet. */
#define SUBNET_HAS4 1
#define SUBNET_HAS6 2
#define SUBNET_DHCP4 4 /* the agent answers DHCPv4 */
#define SUBNET_DHCP6 8 /* the agent answers DHCPv6 and router solicitations */
#define SUBNET_BROADCAST 16 /* broadcast and multicast are carried */
#define SUBNET_SNOOPING 32 /* a group reaches only who listens to it */
#define SUBNET_BRIDGED 64 /* what is for all, and for whom policy does not know, goes out in its VLAN */
#define SUBNET_ACCEPTS 8 /* from this bit on: 1 << RULE_* */
struct subnet {
	__u8 rdid[16];
	struct addr gateway6;
	__be32 gateway4;
	__u8 router_mac[6];
	__u16 flags;
	__u32 mtu; /* 0: what the underlay leaves */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32); /* VSID */
	__type(value, struct subnet);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} subnets SEC(".maps");

/* segments, segment_vsids: written by the agent from Subnet rows and the Host row: the VLAN of an uplink that a subnet is,
 * and back; read for what is bridged. Nothing in them until a subnet is.
 */
struct segment {
	__u32 ifindex;
	__u16 vlan;
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32); /* VSID */
	__type(value, struct segment);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} segments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, seat); /* of the uplink */
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} segment_vsids SEC(".maps");

/* records: written by the agent from Record rows; read on every packet. */
#define RULE_NVGRE 1
#define RULE_VXLAN 2
#define RULE_GENEVE 3
#define RULE_GRE 4
#define RULE_STT 5
#define RULE_REWRITE 6
#define RULE_VLAN 7
#define RULE_FALLBACK RULE_NVGRE /* of what cannot be rewritten, and what is routed into a VLAN */
struct record_key {
	__u32 vsid;
	struct addr ca;
};
struct record {
	struct addr pa;
	__u8 mac[6];
	__u16 rule; /* RULE_*, and RECORD_MOVING beside it */
};
#define RECORD_MOVING 32768 /* the highest bit: the port has a second PA, in moving */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct record_key);
	__type(value, struct record);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} records SEC(".maps");

/* rewrites, pas: written by the agent from Rewrite rows: whom a PA stands for, and which PA stands for a CA; read for what
 * travels by IP rewrite. Nothing in them until a subnet does.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct addr);
	__type(value, struct record_key);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} rewrites SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct record_key);
	__type(value, struct addr);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} pas SEC(".maps");

/* macs: written by the agent from MacRecord rows; read when an address has no record. value.mac repeats the key's. */
struct mac_key {
	__u32 vsid;
	__u8 mac[6];
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct mac_key);
	__type(value, struct record);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} macs SEC(".maps");

/* learned: the programs' own: who was heard behind an uplink. The agent takes out those who have not been for too long. */
#define LEARNED_MAX 4096 /* of one subnet, so that none takes the others' room */
struct learned {
	__u64 seen_ns;
	__u32 ifindex;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mac_key);
	__type(value, struct learned);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} learned SEC(".maps");

/* hearing: made by the agent for each segment, by VSID: how many learned has of it, which the agent sets right now and
 * then, and how often there was no room for one more.
 */
struct hearing {
	__u64 learned;
	__u64 refused;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct hearing);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} hearing SEC(".maps");

/* moving: written by the agent from MacRecord rows: the PA that a port is moving to; read where a record has the flag. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mac_key);
	__type(value, struct addr);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} moving SEC(".maps");

#define FAMILY_IPV4 4
#define FAMILY_IPV6 6

/* routes: written by the agent from Route rows; read on every routed packet. */
struct route_key {
	__u32 prefixlen; /* 160 + length; an IPv4 length counts from 96 */
	__u8 rdid[16];
	__u32 family; /* FAMILY_*: ::/0 must not match a mapped IPv4 address */
	struct addr prefix;
};
struct route {
	__u32 vsid;
	__u32 via; /* 1: next_hop; 0: on-link */
	struct addr next_hop;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct route_key);
	__type(value, struct route);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} routes SEC(".maps");

/* ports: written by the agent from Port rows and bindings; read on every packet from a guest. */
#define PORT_ENABLED 1
#define PORT_PEER 2 /* veth or netkit whose other end is in another namespace: bpf_redirect_peer works */
#define PORT_DHCP 0x100 /* the agent answers it, where it answers its subnet */
#define PORT_DHCP_SERVER 0x200 /* may answer DHCP, and advertise itself as a router */
#define PORT_QOS 4 /* has an entry in qos */
#define PORT_SAMPLED 8 /* has an entry in sampling */
#define PORT_MIRRORED 16 /* has an entry in mirrors, while the mirror can be reached */
struct port {
	__u32 vsid;
	__u8 mac[6];
	__u16 flags;
	struct addr ca4; /* first IPv4 CA, mapped, and first IPv6 CA: the fast way through anti-spoofing; zero: none */
	struct addr ca6;
	__u32 flood_pps; /* broadcast and multicast that the guest may send, packets/s; 0: no limit */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, seat);
	__type(value, struct port);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} ports SEC(".maps");

/* local: written by the agent: the bound ports by MAC; read on every packet to a local port. */
struct local_port {
	__u32 ifindex;
	__u16 vlan; /* as in a seat */
	__u16 flags; /* as in struct port */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct mac_key);
	__type(value, struct local_port);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} local SEC(".maps");

/* sources: written by the agent: every (MAC, prefix) a bound port may send from, its own CAs included. */
struct source_key {
	__u32 prefixlen; /* 128 + length; an IPv4 length counts from 96 */
	__u32 ifindex;
	__u8 mac[6];
	__u16 vlan; /* as in a seat */
	__u32 family; /* as in struct route_key */
	struct addr prefix;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct source_key);
	__type(value, __u32); /* 1 */
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sources SEC(".maps");

/* qos: written by the agent from Port rows, of bound ports that have any; read where PORT_QOS is set. */
struct rate {
	__u64 rate; /* bits or packets a second; 0: any */
	__s64 most; /* what the bucket holds when it is full: a burst, in billionths */
	__u64 full_ns; /* after so long the bucket is full, however deep in debt it was */
};
struct limit {
	struct rate bits;
	struct rate packets;
};
#define DSCP_MARK 0x80 /* with the DSCP in the lower bits; without it packets stay as they are */
#define DSCP_COPY 0x80
struct qos {
	struct limit from_guest;
	struct limit to_guest;
	__u8 mark; /* DSCP_MARK and a DSCP, or 0 */
	__u8 outer_dscp; /* 0..63, or DSCP_COPY: the inner one */
	__u8 pad[6];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, seat);
	__type(value, struct qos);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} qos SEC(".maps");

/* buckets: entries made by the agent before those of qos, all zero: full. The programs fill and empty them. */
#define DIRECTION_FROM_GUEST 0
#define DIRECTION_TO_GUEST 1
struct bucket_key {
	seat port;
	__u64 direction;
};
struct bucket {
	struct bpf_spin_lock lock;
	__u32 pad;
	__s64 nanobits; /* below zero: in debt */
	__s64 nanopackets;
	__u64 at_ns; /* when that was so; 0: never asked */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct bucket_key);
	__type(value, struct bucket);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} buckets SEC(".maps");

/* sampling: written by the agent from the Host row and Port rows; read where PORT_SAMPLED or HOST_SAMPLED is set. */
struct sampling {
	__u32 below; /* a frame is taken when a random number is not above it */
	__u32 rate; /* one in so many */
	__u32 header_bytes;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4112);
	__type(key, __u32); /* ifindex */
	__type(value, struct sampling);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sampling SEC(".maps");

/* samples: written by the programs, read by the agent. Its own, so that no flood of samples starves upcalls. */
#define SAMPLE_MAX 256
struct sample {
	__u32 ifindex;
	__u32 rate;
	__u32 length; /* of the frame */
	__u32 captured; /* of it, in header */
	__u8 header[SAMPLE_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20); /* bytes */
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} samples SEC(".maps");

/* samples_lost: counted by the programs: samples for which there was no room. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} samples_lost SEC(".maps");

/* mirrors: written by the agent from Port rows and bindings; read where PORT_MIRRORED is set. */
struct mirror {
	struct addr address; /* zero: to the interface */
	__u32 ifindex; /* of the port that copies go to; 0: to the address */
	__u16 session;
	__u8 erspan; /* else GRE with key */
	__u8 directions; /* bit 1 << DIRECTION_* */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32); /* ifindex */
	__type(value, struct mirror);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mirrors SEC(".maps");

/* mirror_sequences: the programs' own, and pinned nowhere: numbers of copies in ERSPAN, by ifindex. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} mirror_sequences SEC(".maps");

/* counters: entries made by the agent for every bound port and uplink before its program is attached, counted by the
 * programs. A value per CPU. The entry of seat 0 counts what comes in by an interface that has none.
 */
struct counters {
	__u64 received_packets;
	__u64 received_bytes;
	__u64 sent_packets;
	__u64 sent_bytes;
	__u64 drops[64]; /* by enum drop_reason */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 4112);
	__type(key, seat); /* of an uplink: the ifindex */
	__type(value, struct counters);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} counters SEC(".maps");

/* upcalls: written by the programs, read by the agent: what a guest has announced or asked that policy alone cannot
 * answer. When it is full the packet is dropped, and counted.
 */
#define UPCALL_FRAME_MAX 1536
struct upcall {
	__u32 ifindex;
	__u32 vsid;
	__u16 kind; /* enum upcall_kind */
	__u16 length; /* of the frame that follows; 0: none */
	__u8 mac[6]; /* of an announcement */
	__u16 vlan; /* as in a seat */
	struct addr address; /* of an announcement */
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20); /* bytes */
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} upcalls SEC(".maps");

/* upcall_rates: the programs' own, and pinned nowhere: when an interface's share of a kind will be full again, in ns. */
struct upcall_rate_key {
	seat port;
	__u64 kind;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct upcall_rate_key);
	__type(value, __u64);
} upcall_rates SEC(".maps");

/* A place in a list that a program can walk: from number 0 on, to the first that is absent. A place that nobody has any
 * more is all zero, until somebody else has it.
 */
struct place {
	__u32 vsid;
	__u32 number;
};

/* members: written by the agent from Member rows; read on every packet to many. */
struct member {
	struct addr pa;
	__u32 rule;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct place);
	__type(value, struct member);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} members SEC(".maps");

/* receivers: written by the agent: the bound ports of each subnet; read on every packet to many. */
struct receiver {
	__u32 ifindex;
	__u16 vlan; /* as in a seat */
	__u16 flags; /* as in struct port */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct place);
	__type(value, struct receiver);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} receivers SEC(".maps");

/* listeners: written by the agent: which bound port has asked for which multicast group. */
struct listener_key {
	seat port;
	struct addr group;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct listener_key);
	__type(value, __u32); /* 1 */
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} listeners SEC(".maps");

/* flood_rates: the programs' own, and pinned nowhere: when a port's share of broadcast will be full again. */
struct flood_rate {
	__u64 full_ns;
	__u32 pps; /* by which that was reckoned: with another limit it begins anew */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, seat);
	__type(value, struct flood_rate);
} flood_rates SEC(".maps");
