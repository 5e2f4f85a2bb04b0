/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Types that every header of the data plane needs. */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define INLINE static __always_inline

/* An IPv4 (mapped) or IPv6 address in network byte order. */
struct addr {
	__be32 w[4];
};
