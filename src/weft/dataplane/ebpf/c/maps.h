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
#define HOST_GROUPS 16 /* there is something in groups */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct host);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} host SEC(".maps");

/* changes: counted by the agent whenever it has changed any other map; read on every packet: what is remembered of former ones
 * (remember.h) is good until then.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} changes SEC(".maps");

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
#define SUBNET_GROUP 128 /* has an entry in provider_groups */
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
	__uint(map_flags, BPF_F_NO_PREALLOC);
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

/* provider_groups: written by the agent from Subnet rows: the group of the underlay that a subnet's broadcast and
 * multicast go to; read where SUBNET_GROUP is set.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32); /* VSID */
	__type(value, struct addr);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} provider_groups SEC(".maps");

/* groups: written by the agent: those groups, of whatever subnet; read for multicast from an uplink, where the host has the
 * flag.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct addr);
	__type(value, __u32); /* 1 */
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} groups SEC(".maps");

/* group_uplinks: written by the agent: the uplink that has this host's first PA of a family, by which packets to groups
 * leave.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32); /* 0: IPv4; 1: IPv6 */
	__type(value, __u32); /* ifindex */
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} group_uplinks SEC(".maps");

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
	__uint(map_flags, BPF_F_NO_PREALLOC);
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
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mac_key);
	__type(value, struct record);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} macs SEC(".maps");

/* learned: the programs' own: who was heard behind an uplink. The agent takes out those who have not been for too long. */
#define LEARNED_MAX 4096 /* of one subnet */
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

/* hearing: made by the agent for each segment, by VSID: whose it is. Counted by the programs: how many learned has of it, and
 * how often there was no room for one more.
 */
struct hearing {
	__u64 learned;
	__u64 refused;
	__u32 tenant; /* as in struct guard */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct hearing);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} hearing SEC(".maps");

/* learning: the programs' own: how many learned has beyond what each segment is sure of. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} learning SEC(".maps");

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
#define PORT_GUARDED 32 /* has an entry in guards */
struct port {
	__u64 number; /* as in struct guard: the port's, by which its connections are known */
	__u32 vsid;
	__u8 mac[6];
	__u16 flags;
	struct addr ca4; /* first IPv4 CA, mapped, and first IPv6 CA: the fast way through anti-spoofing; zero: none */
	struct addr ca6;
	__u32 flood_pps; /* broadcast and multicast that the guest may send, packets/s; 0: no limit */
	__u32 slot; /* of its counters */
	__u32 tenant; /* as in struct guard */
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
	__u16 flags; /* as in struct port; so are the next two */
	__u64 number;
	__u32 slot;
	__u32 pad;
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
#define SAMPLES_BYTES (1 << 20)
struct sample {
	__u32 ifindex;
	__u32 rate;
	__u32 length; /* of the frame */
	__u32 captured; /* of it, in header */
	__u8 header[SAMPLE_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, SAMPLES_BYTES);
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

/* counters: counted by the programs, a value per CPU, found by a number: that of a port stands in its entries, so that
 * nothing is looked up for it. Slot 0 counts what comes in by an interface that has none.
 */
struct counters {
	__u64 received_packets;
	__u64 received_bytes;
	__u64 sent_packets;
	__u64 sent_bytes;
	__u64 drops[64]; /* by enum drop_reason */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4112);
	__type(key, __u32);
	__type(value, struct counters);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} counters SEC(".maps");

/* counter_slots: written by the agent for every bound port and uplink, before its program is attached. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4112);
	__type(key, seat); /* of an uplink: the ifindex */
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} counter_slots SEC(".maps");

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

#define UPCALLS_BYTES (1 << 20)
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, UPCALLS_BYTES);
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

/* wanted: written by the agent: which multicast groups of a subnet guests of another host listen to, as that host has
 * said. The entry without a group (0) says until when it has, in bpf_ktime_get_ns()'s time: then, and where there is
 * none, every group is for that host.
 */
struct wanted_key {
	__u32 vsid;
	struct addr pa;
	struct addr group;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct wanted_key);
	__type(value, __u64); /* until when; of a group 0 */
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} wanted SEC(".maps");

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

/* guards: written by the agent from Port rows and security groups, of bound ports that are asked of; read where PORT_GUARDED
 * is set. A change of a port's rules is one write of its guard: what it names was there before.
 */
#define GUARD_STATELESS 1 /* no connection is known: each packet is asked of by itself */
#define GUARD_KEEP 2 /* connections outlive the rule that let them begin */
#define GUARD_ARRIVING 4 /* the port is on its way here, from a host that has it, too */
#define GUARD_LEAVING 8 /* or from here */
#define GUARD_PARTIAL 16 /* of some records it is not known here whose they are: of an address without one, neither */
#define POLICY_NOTHING 0 /* denies whatever it is */
#define POLICY_EVERYTHING 1 /* and allows it */
struct guard {
	__u64 port; /* the port's number: the same while it has its name, wherever it is */
	__u32 policies[2][2]; /* by DIRECTION_*, and by version: IPv4, IPv6 */
	__u32 flags;
	__u32 vsid; /* of the port */
	__u32 tenant; /* a hash of whose port it is: a key of tenants */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, seat);
	__type(value, struct guard);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} guards SEC(".maps");

/* identities: written by the agent from Record rows whose ports have security groups: the host's number of what they have of
 * those that rules here name; read when rules are asked. Who has none of these is not in it.
 */
#define IDENTITY_UNKNOWN 0x7fffffff /* no rule says of it what it should: policies that name groups deny it, by an entry of rules */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct record_key);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} identities SEC(".maps");

/* classes: written by the agent from security groups: prefixes that rules name, of a policy; read when rules are asked. */
struct class_key {
	__u32 prefixlen; /* 32 + length; an IPv4 length counts from 96 */
	__u32 policy;
	struct addr prefix;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct class_key);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} classes SEC(".maps");

/* rules: written by the agent from security groups: what decides, of a policy; read when rules are asked. */
#define REMOTE_ANYBODY 0
#define REMOTE_IDENTITY 0x80000000 /* and the identity; below it are classes */
struct rule_key {
	__u32 prefixlen; /* 80 + bits of the port that count */
	__u32 policy;
	__u32 remote;
	__u8 protocol; /* 0: any */
	__u8 pad;
	__be16 port; /* the destination's; of ICMP, type and code */
};
#define RULE_ALLOW 1
#define RULE_LOG 2
struct ruling {
	__u32 rule; /* its number */
	__s32 priority;
	__u32 flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct rule_key);
	__type(value, struct ruling);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} rules SEC(".maps");

/* hits: counted by the programs: how often a rule has decided, by its number; read by the agent, which drops old ones. */
#define LOG_GAP_NS 10000000ull /* of one rule, on one host, no more is logged than every 10 ms */
struct hit {
	__u64 count;
	__u64 logged_ns; /* when a decision of it was logged last */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct hit);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} hits SEC(".maps");

/* denials: counted by the programs: packets of a port that rules have not let pass, by the port's number and the rule that
 * denies (0: none speaks of them); read by the agent, which drops old ones. Where there is no room for another, it is not counted.
 */
struct denial {
	__u64 port;
	__u32 rule;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct denial);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} denials SEC(".maps");

/* tracking: written by the agent: how connections are tracked; read for every packet of a guarded port. */
#define STATES 32
#define TRACKING_EVENTS 1 /* somebody wants to hear of connections */
struct tracking {
	__u64 timeouts_ns[STATES]; /* by enum connection_state */
	__u64 clock_ns; /* of a test; 0: the kernel's */
	__u32 epoch; /* of the rules, never 0: a connection of another is held against them anew */
	__u32 most; /* connections in all, beyond ports' own */
	__u32 most_of_port;
	__u32 flags;
	__u32 most_expected; /* data connections that a port may expect */
	__be16 ftp_port; /* of servers; 0: no control connection is listened to */
	__u16 pad;
	__u32 own_of_port; /* connections that each port is sure of, of those that its guest begins, and as many that others do */
	__u32 padding;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tracking);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tracking SEC(".maps");

/* tracked: the programs' own: how many connections there are beyond ports' own, when they were last swept, and what became of
 * what FTP's control connections say.
 */
#define EXPECTED_KINDS 8
#define PEER_KEYS 5
struct tracked {
	__u64 beyond;
	__u64 swept_ns;
	__u64 swept_expected_ns;
	__u64 expected[EXPECTED_KINDS]; /* by enum expected */
	__u64 keys[PEER_KEYS]; /* of peers: by chance, so that nobody can choose whom he shares a place with */
	__u64 made; /* connections */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tracked);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tracked SEC(".maps");

/* quotas: the programs' own: how many connections a port has, by its number, its lowest bit DIRECTION_* of who began them; the
 * agent drops those of ports that are gone.
 */
struct quota {
	__u64 used;
	__u32 tenant; /* as in struct guard; 0: not known */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct quota);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} quotas SEC(".maps");

/* tenants: the programs' own: what each has of what all share; the agent drops those that have nothing, and no port here. 0: what
 * is nobody's: the uplinks' samples.
 */
#define TENANT_LEAVES 3 /* of what is nobody's own a tenant has at most so many times what is left */
struct share {
	/* What it has put into a ring since the agent had read all of it, and where the last of that ends. */
	__u64 bytes;
	__u64 to;
};
struct tenant {
	__u64 beyond; /* connections of its ports beyond their own */
	__u64 learned; /* in its VLANs, beyond their own */
	struct share upcalls;
	struct share events; /* of connection_events */
	struct share samples;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct tenant);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tenants SEC(".maps");

static const struct tenant nothing_yet = {}; /* not on the stack */

/* What a tenant has, from now on if it had nothing; NULL: there is no room for one more. */
INLINE struct tenant *tenant_at(const __u32 *number)
{
	struct tenant *of = bpf_map_lookup_elem(&tenants, number);

	if (of)
		return of;
	bpf_map_update_elem(&tenants, number, &nothing_yet, BPF_NOEXIST);
	return bpf_map_lookup_elem(&tenants, number);
}

#define SHARE_NONE_LEFT 1
#define SHARE_USED_UP 2

/* One more of what is nobody's own, of which all have one number and a tenant another: 0; SHARE_NONE_LEFT; or SHARE_USED_UP: the
 * tenant has its part. Counted also where there is no room: who gives takes both back.
 */
INLINE int take_share(__u64 *all, __u64 *theirs, __u64 most)
{
	__u64 taken = __sync_fetch_and_add(all, 1), has = __sync_fetch_and_add(theirs, 1);

	if (taken >= most)
		return SHARE_NONE_LEFT;
	return has < TENANT_LEAVES * (most - taken) ? 0 : SHARE_USED_UP;
}

/* peers: the programs' own: how many connections each other end has begun here, with whichever ports; each at a place that its
 * port's VSID and MAC, or its address, fall upon by the keys in tracked. 0: nobody's.
 */
#define PEER_PLACES 32768
#define CHARGED_TO_OTHERS 0x8000 /* of a connection: the port's guest has not begun it; below it the place */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PEER_PLACES);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} peers SEC(".maps");

/* connections: the programs' own; the agent reads them. As a port sees them: the same for both directions. */
struct connection_key {
	__u64 port; /* as in struct guard */
	struct addr local;
	struct addr remote;
	__be16 local_port; /* of an ICMP query: its identifier */
	__be16 remote_port; /* and its type */
	__u8 protocol;
	__u8 asked; /* of an ICMP query: the other end asks */
	__u16 pad;
};

/* Whose connection it is, in half the room that a key takes: no other port's has the same, nor one of other ports and protocol. */
struct connection_tag {
	__u64 port; /* 0: nobody's any more */
	__u64 ends; /* what a key has from its local_port on, and in the place of its pad a serial: of two that have the element in turn */
	__u64 addresses; /* both, in one word */
};

/* A side of a connection: the guest, or the other end. */
struct half {
	__u32 end; /* of TCP: what it has sent; of SCTP: the tag that it is to be written to with */
	__u32 edge; /* of TCP: up to where it may send */
	__u32 window; /* its largest */
	__u32 acked; /* up to where it has acknowledged what the other sent */
};

/* Flags of a connection; the first two pairs are shifted by the side. */
#define HEARD 1 /* its SYN has been acknowledged */
#define FINISHED 4 /* its FIN has come */
#define CHALLENGED 16
#define PENDING 32 /* a SYN within the connection waits for an answer */
#define PENDING_SIDE 64 /* it is the other end's */
#define REFUSED 128 /* no rule lets it begin any more */
#define TOLD 256 /* that it is established */
#define LINE 512 /* shifted by the side: what it sends next begins a line; of FTP's control connections */
#define RELATED 2048 /* an FTP data connection that no rule of its own has let begin */
#define CONTROL_SIDE 4096 /* the other end has begun its control connection */
#define EXPECTED_SIDE 8192 /* the other end is to open what a control connection has spoken of last */
#define MOVED 16384 /* it was another host's, or its guest is still there: of TCP, windows say nothing */
#define SPOKEN 32768 /* of one that is moved, in TCP: the guest has spoken here */

#define EPOCH_TAKEN 0 /* of one that another host has told of: no rule has been asked of it here, and any port's is */
#define EPOCH_FORMER 0xFFFFFFFF /* of one that former programs of this host have left, whose epochs were others */

#define CONNECTION_FIELDS \
	__u8 state; /* enum connection_state */ \
	__u8 opener; /* DIRECTION_* of its first packet */ \
	__u16 flags; \
	__u64 expires_ns; \
	__u64 began_ns; \
	__u64 packets[2]; /* by DIRECTION_* */ \
	__u64 bytes[2]; \
	struct half halves[2]; \
	__u32 epoch; \
	__u32 rule; \
	__u32 pending_end; \
	__u16 pending_window; \
	__u8 pending_scale; \
	__u8 code; /* of an ICMP query */ \
	__u8 scale[2]; \
	__be16 expected; /* of a control connection: the port that it has spoken of last */ \
	__be16 control; /* of a related one: the server's port of its control connection */ \
	__u16 charged; /* by whom it took its place: CHARGED_TO_OTHERS, and a place in peers; 0: the port's guest */ \
	struct connection_tag tag;

/* Its element may be given to another connection in the midst of a run that has found it: whoever has decided by it, or writes
 * to it, looks at its tag, and behind the lock nobody can take it away (forget() in conntrack.h).
 *
 * All of it is read and written behind the lock, but for its packets, which a reader may see half counted, and for what
 * established.h writes.
 */
struct connection {
	struct bpf_spin_lock lock;
	CONNECTION_FIELDS
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct connection_key);
	__type(value, struct connection);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} connections SEC(".maps");

/* expectations: the programs' own; the agent reads them: FTP data connections that a control connection has said will come.
 * In the key the opener's port is 0: any. There is room for all that every port may expect.
 */
struct expectation {
	__u64 expires_ns;
	__u64 began_ns;
	struct connection_key control;
	__u32 rule; /* the control connection's */
	__u8 opener; /* DIRECTION_* */
	__u8 pad[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct connection_key);
	__type(value, struct expectation);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} expectations SEC(".maps");

/* expecting: the programs' own: how many of those a port has, by its number; the agent drops those of ports that are gone. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} expecting SEC(".maps");

/* lines: the programs' own: those of FTP's control connections that are not whole yet, in places of their port's own: a port's can
 * take no other's. There is room for all places of every port; the agent drops what has expired, or is of ports that are gone.
 */
#define LINE_SLOTS 16 /* of a port, for each side */
struct line_key {
	__u64 port;
	__u32 side; /* whose line it is */
	__u32 slot;
};
struct line {
	struct connection_key key; /* whose place it is */
	__u64 expires_ns;
	__u32 next; /* the sequence number that it goes on at */
	__u32 bytes; /* of it, so far */
	/* How far it is read: ftp.h. */
	__u32 state; /* enum speech_state */
	__u32 kind; /* enum speech_kind */
	__u32 word; /* how it begins */
	__u32 read; /* bytes of that */
	__u32 number;
	__u32 digits; /* of number */
	__u32 fields; /* numbers to read, and those that were */
	__u32 field;
	__u32 family;
	__u32 groups; /* of an IPv6 address; where its :: is, or 8; and what came before: a colon, ::, or a colon at its start */
	__u32 gap;
	__u32 colon;
	__u8 separator;
	__u8 delimiter;
	__u8 pad[6];
	__u8 numbers[8];
	struct addr address;
	__u64 high; /* what is behind :: */
	__u64 low;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct line_key);
	__type(value, struct line);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} lines SEC(".maps");

/* datagrams: the programs' own: those whose fragments are under way, in places of their port's own. There is room for all places
 * of every port; the agent drops what has expired, or is of ports that are gone.
 */
#define DATAGRAM_SLOTS 64 /* of a port, for each direction */
#define DATAGRAM_PIECES 8 /* with gaps between them */
struct datagram_key {
	__u64 port;
	__u32 side;
	__u32 slot;
};
struct datagram_piece {
	__u16 begin;
	__u16 end; /* 0: there is none here */
};
struct datagram {
	struct bpf_spin_lock lock;
	__u32 identity;
	struct addr source;
	struct addr destination;
	__u64 expires_ns;
	__u32 number; /* of TCP: the sequence number of its offset 0 */
	__be16 source_port;
	__be16 destination_port;
	__u16 total; /* bytes, once its last has come */
	__u8 protocol;
	__u8 spoilt;
	struct datagram_piece pieces[DATAGRAM_PIECES];
	__u8 transport; /* what its first has behind extension headers; else protocol */
	__u32 side;
	__u64 port; /* and side: of the key, which a run that has found the element looks at behind the lock; 0: nobody's */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct datagram_key);
	__type(value, struct datagram);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} datagrams SEC(".maps");

/* connection_events: written by the programs, read by the agent: what became of connections, and what rules log. */
#define EVENT_NEW 1
#define EVENT_ESTABLISHED 2
#define EVENT_DESTROYED 3
#define EVENT_EXPECTS 5 /* it is a control connection of FTP, and has said that another will come */
#define EVENT_LOG 4 /* a rule that logs has decided; packets[0]: the number that it looked at, bytes[0]: the frame's */
struct connection_event {
	struct connection_key key;
	__u32 rule;
	__u8 what;
	__u8 state; /* of a log: whether the packet passes */
	__u8 opener; /* of a log: the direction */
	__u8 pad;
	__u64 packets[2];
	__u64 bytes[2];
};

#define EVENTS_BYTES (1 << 20)
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENTS_BYTES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} connection_events SEC(".maps");

/* Of a ring a tenant has no more than it leaves to others; what it has there counts until the agent has read all of it. */
#define RECORD_BYTES 8 /* before each record, and the next one begins at a multiple of as many */

INLINE __u64 room_of(__u64 bytes)
{
	return (bytes + RECORD_BYTES + 7) & ~7ULL;
}

INLINE bool may_put(void *ring, __u64 ring_bytes, struct share *of, __u64 bytes)
{
	if (of->to <= bpf_ringbuf_query(ring, BPF_RB_CONS_POS))
		of->bytes = 0;
	return of->bytes + room_of(bytes) <= ring_bytes - bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);
}

INLINE void has_put(void *ring, struct share *of, __u64 bytes)
{
	__sync_fetch_and_add(&of->bytes, room_of(bytes));
	of->to = bpf_ringbuf_query(ring, BPF_RB_PROD_POS);
}
