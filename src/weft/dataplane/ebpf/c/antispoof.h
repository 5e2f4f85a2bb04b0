/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who may say what: the source MAC and the source address together. */
#pragma once

#include "lookup.h"
#include "parse.h"

INLINE bool is_allowed_pair(__u32 ifindex, const __u8 *mac, const struct addr *address)
{
	struct source_key key = { .prefixlen = 224, .ifindex = ifindex, .prefix = *address };

	key.family = addr_is4(address) ? FAMILY_IPV4 : FAMILY_IPV6;
	__builtin_memcpy(key.mac, mac, 6);
	return bpf_map_lookup_elem(&sources, &key) != NULL;
}

/* Returns 0 when the pair is the port's own or an allowed address pair, else the reason. */
INLINE enum drop_reason check_source(const struct port *port, __u32 ifindex, const __u8 *mac, const struct addr *address)
{
	bool own = mac_equal(mac, port->mac);

	if (own) {
		struct addr link_local;

		/* A port without an address of the family has zero there, which is no licence to send from ::. */
		if (!addr_is_zero(address) &&
		    (addr_is4(address) ? addr_equal(address, &port->ca4) : addr_equal(address, &port->ca6)))
			return 0;
		link_local = addr_of_eui64(port->mac);
		if (addr_equal(address, &link_local))
			return 0;
	}
	if (is_allowed_pair(ifindex, mac, address))
		return 0;
	return own ? DROP_SPOOFED_CA : DROP_SPOOFED_MAC;
}
