/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tells what guests ask about their addresses, and what only who gives them may say. Answers nothing: the agent does. */
#pragma once

#include "flows.h"
#include "upcall.h"

#define ROUTER_SOLICITATION 133
#define ROUTER_ADVERTISEMENT 134
#define NOT_DHCP (-2) /* no verdict: the packet goes on */

INLINE bool is_router_message(const struct packet *p, __u8 type)
{
	return p->icmp_type == type && p->protocol == IPPROTO_ICMPV6 && p->type == ETHERTYPE_IPV6 && p->hop_limit == 255;
}

/* A DHCP client that has no address yet: RFC 2131 section 4.1. */
INLINE bool is_dhcp_discover(const struct packet *p)
{
	return p->type == ETHERTYPE_IPV4 && p->source.w[3] == 0 && p->protocol == IPPROTO_UDP && !p->fragment &&
	       p->l4_word == bpf_htonl(68 << 16 | 67) && p->ip_length >= p->l4_offset + 8;
}

/* Whether what is transported is behind headers of IPv6's own. */
INLINE bool hides_transport(const struct packet *p)
{
	return p->type == ETHERTYPE_IPV6 && (is_extension(p->protocol) || p->protocol == IPPROTO_FRAGMENT);
}

/* DHCPv6 as a server sends it, behind IPv6's headers, where clients find it as well: 0, or why the packet is dropped. Where
 * those end is to be in it, as in every first fragment (RFC 7112). A global function: the verifier takes it by itself.
 */
__noinline int hidden_server(struct __sk_buff *skb)
{
	__u32 zero = 0, at, stop;
	struct packet *p = bpf_map_lookup_elem(&packets, &zero);
	__u8 head[4];
	int behind;

	if (!p)
		return DROP_MALFORMED;
	stop = ETHERNET_BYTES + p->ip_length;
	behind = behind_extensions(skb, p->protocol, ETHERNET_BYTES + IPV6_BYTES, stop);
	if (behind >= 0 && (behind & 255) == IPPROTO_FRAGMENT) {
		at = behind >> 8;
		if (at + 8 > stop || bpf_skb_load_bytes(skb, at, head, sizeof(head)))
			return DROP_MALFORMED;
		if (head[2] || head[3] & 0xf8)
			return 0; /* a later one */
		behind = behind_extensions(skb, head[0], at + 8, stop);
		if (behind >= 0 && (behind & 255) == IPPROTO_FRAGMENT)
			return DROP_MALFORMED;
	}
	if (behind < 0)
		return DROP_MALFORMED;
	if ((behind & 255) != IPPROTO_UDP)
		return 0;
	at = behind >> 8;
	if (at + 4 > stop || bpf_skb_load_bytes(skb, at, head, sizeof(head)))
		return DROP_MALFORMED;
	return head[2] == 546 >> 8 && head[3] == (546 & 255) ? DROP_GUEST_SERVER : 0;
}

/* All that most packets pay: whether dhcp() is to look. */
INLINE bool may_be_dhcp(const struct packet *p)
{
	__u16 to;

	if (p->protocol == IPPROTO_ICMPV6)
		return p->icmp_type == ROUTER_SOLICITATION || p->icmp_type == ROUTER_ADVERTISEMENT;
	if (p->protocol != IPPROTO_UDP)
		return hides_transport(p);
	to = bpf_ntohl(p->l4_word);
	return p->fragment || to == 67 || to == 68 || to == 546 || to == 547;
}

/* Step 6a: handed up, dropped, or NOT_DHCP. */
static __noinline int dhcp(struct __sk_buff *skb, const struct packet *p, const struct port *port,
			   const struct subnet *subnet, struct counters *c)
{
	__u32 kind = 0, flag = SUBNET_DHCP6;
	bool server = false;

	if (!p || !port || !subnet)
		return TC_ACT_SHOT;
	if (hides_transport(p)) {
		int why = port->flags & PORT_DHCP_SERVER ? 0 : hidden_server(skb);

		return why ? drop(skb, c, why) : NOT_DHCP;
	}
	if (p->protocol == IPPROTO_UDP) {
		bool is4 = p->type == ETHERTYPE_IPV4;
		__be32 ports = p->l4_word;
		__u16 to;

		/* Clients take what begins in a first fragment, too. */
		if (p->fragment && !(p->fragment & FRAGMENT_LATER) && p->ip_length >= p->l4_offset + 4 &&
		    bpf_skb_load_bytes(skb, ETHERNET_BYTES + p->l4_offset, &ports, sizeof(ports)))
			return drop(skb, c, DROP_TRUNCATED);
		to = bpf_ntohl(ports);
		server = to == (is4 ? 68 : 546);
		if (!p->fragment && p->ip_length >= p->l4_offset + 8) {
			if (is4 && ports == bpf_htonl(68 << 16 | 67)) {
				kind = UPCALL_DHCP4;
				flag = SUBNET_DHCP4;
			} else if (!is4 && ports == bpf_htonl(546 << 16 | 547)) {
				kind = UPCALL_DHCP6;
			}
		}
	} else if (is_router_message(p, ROUTER_ADVERTISEMENT)) {
		server = true;
	} else if (is_router_message(p, ROUTER_SOLICITATION)) {
		kind = UPCALL_ROUTER_SOLICITATION;
	}
	if (server && !(port->flags & PORT_DHCP_SERVER))
		return drop(skb, c, DROP_GUEST_SERVER);
	if (kind && port->flags & PORT_DHCP && subnet->flags & flag)
		return hand_up(skb, port->vsid, kind, c);
	return NOT_DHCP;
}
