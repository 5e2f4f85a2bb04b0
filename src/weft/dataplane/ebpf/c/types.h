/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Types and byte helpers that every header of the data plane needs. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define INLINE static __always_inline

/* Whether this machine may read in another order than a program says; set as the object is loaded. */
const volatile __u32 weft_weakly_ordered = 1;

/* What is read behind it is read after what is read before it. */
INLINE void in_order(void)
{
	__u32 nothing = 0;

	if (weft_weakly_ordered)
		__sync_lock_test_and_set(&nothing, 1);
	asm volatile("" ::: "memory");
}

/* A header as it is on the wire. All begin at an even place of their frame; unless it is told, the compiler reads and
 * writes all that is in them byte by byte.
 */
#define WIRE __attribute__((packed, aligned(2)))

#define AF_INET 2
#define AF_INET6 10

/* An IPv4 (mapped, ::ffff:a.b.c.d) or IPv6 address in network byte order. */
struct addr {
	__be32 w[4];
};

#define MAPPED bpf_htonl(0xffff)

INLINE struct addr addr_of4(__be32 address)
{
	return (struct addr){ .w = { 0, 0, MAPPED, address } };
}

INLINE bool addr_is4(const struct addr *a)
{
	return a->w[0] == 0 && a->w[1] == 0 && a->w[2] == MAPPED;
}

INLINE bool addr_equal(const struct addr *a, const struct addr *b)
{
	return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

INLINE bool addr_is_zero(const struct addr *a)
{
	return (a->w[0] | a->w[1] | a->w[2] | a->w[3]) == 0;
}

/* 0.0.0.0 or :: */
INLINE bool addr_is_unspecified(const struct addr *a)
{
	return (a->w[0] | a->w[1] | a->w[3]) == 0 && (a->w[2] == 0 || a->w[2] == MAPPED);
}

/* 224.0.0.0/4, 255.255.255.255 or ff00::/8 */
INLINE bool addr_is_multicast(const struct addr *a)
{
	if (addr_is4(a))
		return (a->w[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || a->w[3] == bpf_htonl(0xffffffff);
	return (a->w[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

/* fe80::/10 */
INLINE bool is_link_local(const struct addr *a)
{
	return (a->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* MACs are at even places, on the wire and in all that we keep. */
typedef __u16 __attribute__((may_alias)) mac_word;

INLINE void put_mac(__u8 *to, const __u8 *mac)
{
	mac_word *x = (mac_word *)to;
	const mac_word *y = (const mac_word *)mac;

	x[0] = y[0];
	x[1] = y[1];
	x[2] = y[2];
}

INLINE bool mac_equal(const __u8 *a, const __u8 *b)
{
	const mac_word *x = (const mac_word *)a, *y = (const mac_word *)b;

	return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2])) == 0;
}

/* Whether an address is the link-local one with the modified EUI-64 of a MAC: RFC 4291 appendix A. */
INLINE bool is_eui64_of(const struct addr *a, const __u8 *mac)
{
	__u32 high = bpf_ntohl(a->w[2]), low = bpf_ntohl(a->w[3]);

	return a->w[0] == bpf_htonl(0xfe800000) && a->w[1] == 0 &&
	       high == ((__u32)(mac[0] ^ 2) << 24 | (__u32)mac[1] << 16 | (__u32)mac[2] << 8 | 0xff) &&
	       low == (0xfe000000u | (__u32)mac[3] << 16 | (__u32)mac[4] << 8 | mac[5]);
}

/* The MAC inside a link-local address of EUI-64 form; false when it has another form. */
INLINE bool mac_of_eui64(const struct addr *a, __u8 *mac)
{
	__u32 high = bpf_ntohl(a->w[2]), low = bpf_ntohl(a->w[3]);

	if (a->w[0] != bpf_htonl(0xfe800000) || a->w[1] != 0)
		return false;
	if ((high & 0xff) != 0xff || (low >> 24) != 0xfe)
		return false;
	mac[0] = (high >> 24) ^ 2;
	mac[1] = high >> 16;
	mac[2] = high >> 8;
	mac[3] = low >> 16;
	mac[4] = low >> 8;
	mac[5] = low;
	return true;
}

/* What the compiler knows to be less than 128, and the verifier has forgotten once it was on the stack. */
INLINE __u32 below_128(__u32 value)
{
	asm volatile("%0 &= 0x7f" : "+r"(value));
	return value;
}

/* One's complement sums, on words as they lie in memory. */
INLINE __u16 csum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* The same for a difference of sums, as bpf_csum_diff() has it. */
INLINE __u16 csum_apply(__u16 check, __u32 diff)
{
	return csum_fold((__u64)(__u16)~check + diff);
}

/* RFC 1624, equation 3: HC' = ~(~HC + ~m + m'). */
INLINE __u16 csum_update(__u16 check, __u16 old, __u16 new)
{
	__u32 sum = (__u16)~check + (__u16)~old + new;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* That n is in 1..most, or otherwise. Of a number that the compiler knows nothing of, so that it is checked where it is
 * used: the verifier of Linux 6.1 learns nothing from a comparison with zero, and forgets what was checked on a copy.
 */
#define BOUND(n, most, otherwise) \
	do { \
		(n) -= 1; \
		asm volatile("" : "+r"(n)); \
		if ((n) >= (most)) { \
			otherwise; \
		} \
		(n) += 1; \
	} while (0)
