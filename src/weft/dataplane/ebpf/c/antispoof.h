/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who may say what: the source MAC and the source address together. */
#pragma once

#include "lookup.h"
#include "parse.h"

/* Room for the key, since the stack has none left. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct source_key);
} asked_source SEC(".maps");

/* The slow way: sources other than the first address of each family. */
INLINE int is_allowed_pair(seat at, const __u8 *mac, const struct addr *address)
{
	__u32 zero = 0;
	struct source_key *key = bpf_map_lookup_elem(&asked_source, &zero);

	if (!key || !mac || !address)
		return 0;
	key->prefixlen = 256;
	key->ifindex = at;
	key->vlan = at >> 32;
	key->prefix = *address;
	key->family = addr_is4(address) ? FAMILY_IPV4 : FAMILY_IPV6;
	__builtin_memcpy(key->mac, mac, 6);
	return bpf_map_lookup_elem(&sources, key) != NULL;
}

/* The fast way: the port's own MAC, with its first address of the family. A port without one has zero there, which is no
 * licence to send from ::.
 */
INLINE bool is_first_pair(const struct port *port, const __u8 *mac, const struct addr *address)
{
	return mac_equal(mac, port->mac) && !addr_is_zero(address) &&
	       (addr_is4(address) ? addr_equal(address, &port->ca4) : addr_equal(address, &port->ca6));
}

/* Returns 0 when the pair is the sending port's own or an allowed address pair, else the reason. In a stack frame of its
 * own: whoever asks has little room left.
 */
static __noinline int check_source(struct __sk_buff *skb, const struct port *port, const __u8 *mac,
				   const struct addr *address)
{
	if (!port || !mac || !address)
		return DROP_MALFORMED;
	if (is_first_pair(port, mac, address) || is_allowed_pair(sender_seat(skb), mac, address))
		return 0;
	if (!mac_equal(mac, port->mac))
		return DROP_SPOOFED_MAC;
	return is_eui64_of(address, port->mac) ? 0 : DROP_SPOOFED_CA;
}
