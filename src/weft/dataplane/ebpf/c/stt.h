/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* STT (draft-davie-stt-08): what looks like TCP and is none, its checksum, and what it says on receipt. One frame is one
 * segment: what came in several is not joined, and what is to be segmented goes through the segmenter first.
 */
#pragma once

#include "drop.h"
#include "scratch.h"

#define STT_PORT 7471
#define STT_BYTES 18
#define STT_FLAGS_WINDOW bpf_htonl(0x5018ffff) /* 5 words, ACK and PSH, the largest window */
#define STT_PARTIAL 0x02 /* the inner transport checksum is of the pseudo-header only */
#define STT_TCP 0x08
#define STT_TAGGED 0x10 /* the V bit */
#define SUM_CHUNK 512 /* what bpf_csum_diff takes at a time */
#define SUM_CHUNKS 20 /* 10 KiB: more than any MTU of Ethernet leaves */

struct stt_tunnel {
	__be32 tcp[5];
	__u8 head[8]; /* version, flags, L4 offset, reserved, MSS, VLAN */
	__be32 context_high;
	__be32 context;
	__be16 pad;
	struct ethernet inner;
} __attribute__((packed));

/* The one's complement sum of a part of the packet, not folded. 0: it is not there, or too long. Not static: so the
 * verifier looks through its loop once, and not once for each way to it.
 */
__noinline __u32 sum_of(struct __sk_buff *skb, __u32 at, __u32 length)
{
	struct scratch *s = scratch_of_this_cpu();
	__u32 sum = 0, i;

	if (!s || length > SUM_CHUNK * SUM_CHUNKS)
		return 0;
	for (i = 0; i < SUM_CHUNKS && length; i++) {
		__u32 n = length < SUM_CHUNK ? length : SUM_CHUNK;

		BOUND(n, SUM_CHUNK, return 0);
		/* The last word is filled up with zeros. */
		__builtin_memset(s->frame + ((n - 1) & (SUM_CHUNK - 4)), 0, 4);
		if (bpf_skb_load_bytes(skb, at, s->frame, n))
			return 0;
		sum = bpf_csum_diff(NULL, 0, (void *)s->frame, (n + 3) & ~3u, sum);
		at += n;
		length -= n;
	}
	return sum;
}

/* Everything but the checksum, which stt_seal() sets once the rest is there. payload: of the outer IP header. */
INLINE void stt_fill(struct stt_tunnel *t, __u32 vsid, __u32 hash, __u32 port, __u32 payload)
{
	t->tcp[0] = bpf_htonl(port << 16 | STT_PORT);
	t->tcp[1] = bpf_htonl((payload - TCP_BYTES) << 16); /* the frame's length; the segment is its first */
	t->tcp[2] = bpf_htonl(hash);
	t->tcp[3] = STT_FLAGS_WINDOW;
	t->tcp[4] = 0;
	__builtin_memset(t->head, 0, sizeof(t->head));
	t->context_high = 0;
	t->context = bpf_htonl(vsid);
	t->pad = 0;
}

/* TCP's checksum, of an outer packet of this family. The addresses of its pseudo-header are what is before it. 0 or an
 * errno.
 */
INLINE int stt_seal(struct __sk_buff *skb, bool is4)
{
	const __u32 at = ETHERNET_BYTES + (is4 ? IPV4_BYTES : IPV6_BYTES), addresses = is4 ? 8 : 32;
	const __u32 length = skb->len - at;
	__u16 check = 0;

	/* What is there may be of a former copy's addresses. */
	if (length > SUM_CHUNK * SUM_CHUNKS - 32 || bpf_skb_store_bytes(skb, at + 16, &check, sizeof(check), 0))
		return -1;
	check = csum_fold((__u64)bpf_htonl(IPPROTO_TCP) + bpf_htonl(length) +
			  sum_of(skb, at - addresses, addresses + length));
	return bpf_skb_store_bytes(skb, at + 16, &check, sizeof(check), 0);
}

/* Sets the inner transport checksum that the sender left to its network card. Returns 0 or the reason to drop it. */
static __noinline enum drop_reason stt_finish(struct __sk_buff *skb, __u32 frame, __u32 length, __u32 transport, __u32 tcp)
{
	const __u32 sum_at = tcp ? 16 : 6;
	__u16 check;

	if (transport < ETHERNET_BYTES || transport + sum_at + 2 > length || length - transport > SUM_CHUNK * SUM_CHUNKS)
		return DROP_OUTER_MALFORMED;
	check = csum_fold(sum_of(skb, frame + transport, length - transport));
	if (!check)
		check = 0xffff; /* RFC 768: zero means that there is none; TCP takes either */
	return bpf_skb_store_bytes(skb, frame + transport + sum_at, &check, sizeof(check), 0) ? DROP_ENCAP_FAILED : 0;
}

/* What STT's headers say. unfinished: where the inner transport header is whose checksum is, and whether it is TCP. */
struct stt {
	__u32 vsid; /* 0: none that can be */
	__u8 unfinished;
	__u8 transport;
	__u8 tcp;
};

/* What is behind an outer IP header; payload: so many bytes. Returns 0 or the reason to drop it. */
static __noinline enum drop_reason stt_read(struct __sk_buff *skb, __u32 at, __u32 payload, struct stt *stt)
{
	struct stt_tunnel t;
	__u32 segment;

	if (!stt || payload < TCP_BYTES + STT_BYTES || bpf_skb_load_bytes(skb, at, &t, TCP_BYTES + STT_BYTES))
		return DROP_OUTER_MALFORMED;
	if (bpf_ntohl(t.tcp[3]) >> 28 != TCP_BYTES / 4)
		return DROP_OUTER_MALFORMED;
	segment = bpf_ntohl(t.tcp[1]);
	if (segment & 0xffff || segment >> 16 != payload - TCP_BYTES)
		return DROP_REASSEMBLY;
	if (t.head[0])
		return DROP_OUTER_MALFORMED;
	if (t.head[6] & STT_TAGGED)
		return DROP_VLAN_TAG;
	stt->vsid = t.context_high ? 0 : bpf_ntohl(t.context);
	stt->unfinished = t.head[1] & STT_PARTIAL;
	stt->transport = t.head[2];
	stt->tcp = t.head[1] & STT_TCP;
	return 0;
}
