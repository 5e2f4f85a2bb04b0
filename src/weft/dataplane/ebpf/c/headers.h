/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Headers as they are on the wire. */
#pragma once

#include "types.h"

/* linux/in6.h has these, and types that clash with ours. */
#define IPPROTO_HOP_BY_HOP 0
#define IPPROTO_ROUTING6 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_DESTINATION 60
#define IPPROTO_ICMPV6 58

#define ETHERTYPE_IPV4 bpf_htons(0x0800)
#define ETHERTYPE_ARP bpf_htons(0x0806)
#define ETHERTYPE_IPV6 bpf_htons(0x86dd)
#define ETHERTYPE_8021Q bpf_htons(0x8100)
#define ETHERTYPE_8021AD bpf_htons(0x88a8)

#define ETHERNET_BYTES 14
#define IPV4_BYTES 20
#define IPV6_BYTES 40
#define GRE_BYTES 8
#define ICMP_BYTES 8
#define UDP_BYTES 8
#define TCP_BYTES 20 /* without options */

struct ethernet {
	__u8 destination[6];
	__u8 source[6];
	__be16 type;
} WIRE;

#define IPV4_DF 0x4000
#define IPV4_MF 0x2000
#define IPV4_OFFSET 0x1fff

struct ipv4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 check;
	__be32 source;
	__be32 destination;
} WIRE;

struct ipv6 {
	__be32 version_class_flow;
	__be16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	struct addr source;
	struct addr destination;
} WIRE;

struct ipv6_fragment {
	__u8 next_header;
	__u8 reserved;
	__be16 offset;
	__be32 id;
} WIRE;

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 opcode;
	__u8 sender_mac[6];
	__be32 sender;
	__u8 target_mac[6];
	__be32 target;
} WIRE;

struct icmp {
	__u8 type;
	__u8 code;
	__u16 check;
	__be32 rest;
} WIRE;

struct neighbour { /* NS and NA: RFC 4861 sections 4.3 and 4.4 */
	struct icmp icmp;
	struct addr target;
} WIRE;

struct link_option { /* source or target link-layer address option: RFC 4861 section 4.6.1 */
	__u8 type;
	__u8 length;
	__u8 mac[6];
} WIRE;
