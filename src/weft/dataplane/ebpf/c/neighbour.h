/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Answers ARP (RFC 826, RFC 5227) and neighbour solicitations (RFC 4861) from policy. Never floods, never learns. */
#pragma once

#include "antispoof.h"
#include "scratch.h"
#include "upcall.h"

#define ND_OPTIONS_MAX 4
#define NA_FRAME_BYTES 86

#define TO_BRIDGE 0x7e13 /* what weft_from_port's questions return when weft_bridge is to go on */

/* What policy does not answer may be for others in the subnet's VLAN; what is to the router is not. */
INLINE bool goes_on(const struct packet *p, const struct subnet *subnet)
{
	return subnet->flags & SUBNET_BRIDGED && !mac_equal(p->to, subnet->router_mac);
}

/* Whose a record's MAC is when the asker has it: silence is right (duplicate address detection). */
INLINE bool is_askers_own(struct __sk_buff *skb, const struct port *port, const struct record *record)
{
	struct local_port *local;

	if (mac_equal(record->mac, port->mac))
		return true;
	local = local_port_of(port->vsid, record->mac);
	return local && is_sender(skb, local);
}

struct na_frame {
	struct ethernet eth;
	struct ipv6 ip;
	struct neighbour na;
	struct link_option option;
} WIRE;

static __noinline int arp(struct __sk_buff *skb, const struct packet *p, const struct port *port,
			  const struct subnet *subnet, struct counters *c)
{
	void *end = (void *)(long)skb->data_end;
	struct ethernet *eth = (void *)(long)skb->data;
	struct arp *a = (void *)(eth + 1);
	struct addr sender, target;
	__u8 mac[6];
	enum drop_reason why;

	if (!p || !port || !subnet)
		return TC_ACT_SHOT;
	if ((void *)(a + 1) > end)
		return drop(skb, c, DROP_TRUNCATED);
	if (a->hardware != bpf_htons(1) || a->protocol != ETHERTYPE_IPV4 || a->hardware_length != 6 ||
	    a->protocol_length != 4)
		return drop(skb, c, DROP_MALFORMED);
	if (!mac_equal(a->sender_mac, p->from))
		return drop(skb, c, DROP_SPOOFED_MAC);
	sender = addr_of4(a->sender);
	target = addr_of4(a->target);
	if (a->sender != 0 || !mac_equal(p->from, port->mac)) {
		why = check_source(skb, port, p->from, &sender);
		if (why)
			return drop(skb, c, why);
	}
	if (a->opcode == bpf_htons(2) || a->sender == a->target) {
		if (sender.w[3] != 0) {
			hand_up_hint(skb, port->vsid, UPCALL_ANNOUNCEMENT, p->from, &sender);
			if (goes_on(p, subnet))
				return TO_BRIDGE;
		}
		return drop(skb, c, DROP_ANNOUNCEMENT);
	}
	if (a->opcode != bpf_htons(1))
		return drop(skb, c, DROP_MALFORMED);
	if (subnet->flags & SUBNET_HAS4 && a->target == subnet->gateway4) {
		__builtin_memcpy(mac, subnet->router_mac, 6);
	} else {
		struct record *record = record_of(port->vsid, &target);

		if (!record)
			return goes_on(p, subnet) ? TO_BRIDGE : drop(skb, c, DROP_NO_RECORD);
		/* A probe for what the port may use: it is about to take it over (RFC 5227 section 2.1.1). */
		if (is_askers_own(skb, port, record) ||
		    (sender.w[3] == 0 && check_source(skb, port, p->from, &target) == 0))
			return drop(skb, c, DROP_OWN_ADDRESS);
		__builtin_memcpy(mac, record->mac, 6);
	}
	end = (void *)(long)skb->data_end;
	eth = (void *)(long)skb->data;
	a = (void *)(eth + 1);
	if ((void *)(a + 1) > end)
		return drop(skb, c, DROP_TRUNCATED);
	__builtin_memcpy(eth->destination, p->from, 6);
	__builtin_memcpy(eth->source, mac, 6);
	a->opcode = bpf_htons(2);
	__builtin_memcpy(a->target_mac, p->from, 6);
	a->target = sender.w[3];
	__builtin_memcpy(a->sender_mac, mac, 6);
	a->sender = target.w[3];
	return answer(skb, c);
}

/* 133 bytes of options cannot be: what is scanned is bounded by count, each step by the end of the payload. */
INLINE enum drop_reason check_link_options(struct __sk_buff *skb, const struct packet *p, __u8 kind)
{
	__u32 at = ETHERNET_BYTES + IPV6_BYTES + sizeof(struct neighbour);
	__u32 stop = ETHERNET_BYTES + p->ip_length;
	struct link_option option;
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < ND_OPTIONS_MAX; i++) {
		__u32 bytes;

		if (at >= stop)
			return 0;
		/* An option is at least 8 bytes: RFC 4861 section 4.6. */
		if (at + 8 > stop || bpf_skb_load_bytes(skb, at, &option, sizeof(option)))
			return DROP_MALFORMED;
		bytes = option.length * 8;
		if (bytes == 0 || at + bytes > stop)
			return DROP_MALFORMED;
		if (option.type == kind && option.length == 1 && !mac_equal(option.mac, p->from))
			return DROP_SPOOFED_MAC;
		at += bytes;
	}
	return at >= stop ? 0 : DROP_MALFORMED;
}

/* Returns whether the packet is a neighbour solicitation or advertisement, and so is neighbour()'s to handle. */
INLINE bool is_neighbour_discovery(struct __sk_buff *skb, const struct packet *p)
{
	void *end = (void *)(long)skb->data_end;
	struct na_frame *frame = (void *)(long)skb->data;

	if (p->type != ETHERTYPE_IPV6 || p->protocol != IPPROTO_ICMPV6 || p->hop_limit != 255)
		return false;
	if (p->icmp_type != 135 && p->icmp_type != 136)
		return false;
	if (p->ip_length < IPV6_BYTES + sizeof(struct neighbour) || (void *)&frame->option > end)
		return false;
	return frame->na.icmp.code == 0;
}

/* A redirect names a router, which is policy's to say; what cannot be looked at may say it, too: datapath.md, 6. */
INLINE enum drop_reason check_hidden_discovery(const struct packet *p)
{
	if (p->type != ETHERTYPE_IPV6 || p->hop_limit != 255)
		return 0;
	if (p->protocol == IPPROTO_ICMPV6 && p->has_icmp_type && p->icmp_type == 137)
		return DROP_ANNOUNCEMENT;
	if (p->protocol == IPPROTO_HOP_BY_HOP || p->protocol == IPPROTO_ROUTING6 || p->protocol == IPPROTO_DESTINATION)
		return DROP_MALFORMED;
	return 0;
}

static __noinline int neighbour(struct __sk_buff *skb, const struct packet *p, const struct port *port,
				const struct subnet *subnet, struct counters *c)
{
	void *end = (void *)(long)skb->data_end;
	struct na_frame *frame = (void *)(long)skb->data;
	struct scratch *s = scratch_of_this_cpu();
	struct na_frame *reply;
	struct addr target, destination;
	enum drop_reason why;
	__u32 flags = 0x20000000; /* override */
	__u8 mac[6];
	__u8 link_mac[6];
	__u32 sum;

	if (!s || !p || !port || !subnet || (void *)&frame->option > end)
		return TC_ACT_SHOT;
	reply = (void *)s->frame;
	__builtin_memset(reply, 0, sizeof(*reply));
	target = frame->na.target;
	if (addr_is4(&target))
		return drop(skb, c, DROP_MALFORMED);
	if (p->icmp_type == 136) {
		why = check_link_options(skb, p, 2);
		if (!why)
			why = check_source(skb, port, p->from, &target);
		if (!why) {
			hand_up_hint(skb, port->vsid, UPCALL_ANNOUNCEMENT, p->from, &target);
			if (goes_on(p, subnet))
				return TO_BRIDGE;
		}
		return drop(skb, c, why ? why : DROP_ANNOUNCEMENT);
	}
	why = check_link_options(skb, p, 1);
	if (why)
		return drop(skb, c, why);
	if ((subnet->flags & SUBNET_HAS6 && addr_equal(&target, &subnet->gateway6)) ||
	    (!(subnet->router_mac[0] & 1) && is_eui64_of(&target, subnet->router_mac))) {
		__builtin_memcpy(mac, subnet->router_mac, 6);
		flags |= 0x80000000; /* router */
	} else {
		struct record *record = record_of(port->vsid, &target);

		if (!record && mac_of_eui64(&target, link_mac))
			record = record_of_mac(port->vsid, link_mac);
		if (!record)
			return goes_on(p, subnet) ? TO_BRIDGE : drop(skb, c, DROP_NO_RECORD);
		/* Duplicate address detection for what the port may use: it is about to take it over (RFC 4862 5.4). */
		if (is_askers_own(skb, port, record) ||
		    (addr_is_unspecified(&p->source) && check_source(skb, port, p->from, &target) == 0))
			return drop(skb, c, DROP_OWN_ADDRESS);
		__builtin_memcpy(mac, record->mac, 6);
	}
	__builtin_memcpy(reply->eth.destination, p->from, 6);
	destination = p->source;
	if (addr_is_unspecified(&p->source)) {
		destination = (struct addr){ .w = { bpf_htonl(0xff020000), 0, 0, bpf_htonl(1) } };
		reply->eth.destination[0] = 0x33;
		reply->eth.destination[1] = 0x33;
		reply->eth.destination[2] = 0;
		reply->eth.destination[3] = 0;
		reply->eth.destination[4] = 0;
		reply->eth.destination[5] = 1;
	} else {
		flags |= 0x40000000; /* solicited */
	}
	__builtin_memcpy(reply->eth.source, mac, 6);
	reply->eth.type = ETHERTYPE_IPV6;
	reply->ip.version_class_flow = bpf_htonl(6u << 28);
	reply->ip.payload_length = bpf_htons(sizeof(struct neighbour) + sizeof(struct link_option));
	reply->ip.next_header = IPPROTO_ICMPV6;
	reply->ip.hop_limit = 255;
	reply->ip.source = target;
	reply->ip.destination = destination;
	reply->na.icmp.type = 136;
	reply->na.icmp.rest = bpf_htonl(flags);
	reply->na.target = target;
	reply->option.type = 2;
	reply->option.length = 1;
	__builtin_memcpy(reply->option.mac, mac, 6);
	/* Both addresses, then the ICMPv6 message, lie in a row. */
	sum = bpf_csum_diff(0, 0, (void *)&reply->ip.source, sizeof(*reply) - ETHERNET_BYTES - 8, 0);
	reply->na.icmp.check = csum_fold((__u64)sum + bpf_htonl(32) + bpf_htonl(IPPROTO_ICMPV6));
	if (bpf_skb_change_tail(skb, sizeof(*reply), 0) || bpf_skb_store_bytes(skb, 0, reply, sizeof(*reply), 0))
		return drop(skb, c, DROP_ENCAP_FAILED);
	return answer(skb, c);
}
