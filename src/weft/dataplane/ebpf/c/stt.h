/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* STT (draft-davie-stt-08): what looks like TCP and is none, its checksum, and what it says on receipt. A packet that is
 * yet to be segmented is one frame over several segments, which whoever segments TCP makes of it, and whoever merges
 * TCP's segments on receipt (GRO) joins: what is not joined by then is not joined here.
 */
#pragma once

#include "drop.h"
#include "parse.h"
#include "scratch.h"

#define STT_PORT 7471
#define STT_BYTES 18
#define TCP_CHECK_AT 16
#define STT_FLAGS_WINDOW bpf_htonl(0x5018ffff) /* 5 words, ACK and PSH, the largest window */
#define STT_PARTIAL 0x02 /* the inner transport checksum is of the pseudo-header only */
#define STT_IPV4 0x04
#define STT_TCP 0x08
#define STT_TAGGED bpf_htonl(0x1000) /* the V bit, of MSS and VLAN */
#define SOURCE_PORT_FIRST 49152 /* RFC 7348 section 5: of the dynamic ones (RFC 6335); of STT likewise */
#define STT_LONGEST 65535 /* frame with all of its headers: what an IPv4 header can say */
#define STT_SAVED (ETHERNET_BYTES + 60 + 2) /* more than is before the longest TCP header */
#define SUM_CHUNK 512 /* what bpf_csum_diff takes at a time */
#define SUM_CHUNKS 20 /* 10 KiB: more than any MTU of Ethernet leaves */

/* STT's header is two words (version, flags, L4 offset and a reserved byte; MSS and VLAN), the context id's two, and two bytes
 * without a meaning. Behind it is the inner frame.
 */
#define STT_AROUND (TCP_BYTES + STT_BYTES + ETHERNET_BYTES)

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

/* Everything but the checksum, which stt_seal() sets once the rest is there, or whoever segments. words: TCP's header and
 * STT's. payload: of the outer IP header. segment: of a packet yet to be segmented, so much TCP is in each; its checksum is
 * then unfinished.
 */
INLINE void stt_fill(__be32 *words, const struct packet *p, __u32 vsid, __u32 hash, __u32 payload, __u32 segment)
{
	__u32 flags = 0;

	if (segment)
		flags = (STT_PARTIAL | STT_TCP | (p->type == ETHERTYPE_IPV4 ? STT_IPV4 : 0)) << 16 |
			(ETHERNET_BYTES + p->l4_offset) << 8;
	words[0] = bpf_htonl((SOURCE_PORT_FIRST | hash >> 18) << 16 | STT_PORT);
	words[1] = bpf_htonl((payload - TCP_BYTES) << 16); /* the frame's length; the segment is its first */
	words[2] = bpf_htonl(hash);
	words[3] = STT_FLAGS_WINDOW;
	words[4] = 0;
	words[5] = bpf_htonl(flags);
	words[6] = bpf_htonl(segment << 16);
	words[7] = 0;
	words[8] = bpf_htonl(vsid);
	*(__be16 *)(words + 9) = 0;
}

/* Whether a packet has a checksum of its own over all that is behind its network header. frame: its Ethernet header. */
INLINE bool sums_itself(struct __sk_buff *skb, const struct packet *p, __u32 frame)
{
	const __u32 l4 = ETHERNET_BYTES + p->l4_offset;
	__u16 check = 0;

	if (p->fragment || p->l4_offset > p->ip_length)
		return false;
	if (p->protocol == IPPROTO_TCP)
		return p->ip_length - p->l4_offset >= TCP_BYTES;
	return p->protocol == IPPROTO_UDP && p->ip_length - p->l4_offset >= UDP_BYTES &&
	       !bpf_skb_load_bytes(skb, frame + l4 + 6, &check, sizeof(check)) && check;
}

/* Of two IPv4 addresses, and all from the outer TCP header up to the inner transport header, behind an IPv4 header without
 * options.
 */
#define SEALED_WORDS ((8 + STT_AROUND + IPV4_BYTES) / 4)

/* As sum_of(), of what nearly all have that are sealed. */
INLINE __u64 sum_of_sealed(struct __sk_buff *skb)
{
	__be32 *words = (void *)(long)skb->data + ETHERNET_BYTES + IPV4_BYTES - 8;
	__u64 sum = 0;
	int i;

	if ((void *)(words + SEALED_WORDS) > (void *)(long)skb->data_end)
		return sum_of(skb, ETHERNET_BYTES + IPV4_BYTES - 8, SEALED_WORDS * 4);
#pragma unroll
	for (i = 0; i < SEALED_WORDS; i++)
		sum += words[i];
	return sum;
}

/* Sets the outer TCP checksum of what travels by STT, once its headers are on. What the guest's TCP or UDP header says of itself
 * counts as right, whatever it is: a checksum that the guest has left to a network card is made after this one. So all
 * from that header on adds up to the complement of its pseudo-header, and need not be read. 0 or an errno.
 */
static __noinline int stt_seal(struct __sk_buff *skb, const struct packet *p, __u32 is4)
{
	const __u32 at = ETHERNET_BYTES + (is4 ? IPV4_BYTES : IPV6_BYTES), addresses = is4 ? 8 : 32;
	const __u32 frame = at + TCP_BYTES + STT_BYTES, network = frame + ETHERNET_BYTES;
	__u32 length = skb->len - at;
	__u64 sum = (__u64)bpf_htonl(IPPROTO_TCP) + bpf_htonl(length);
	__u16 check, *field;

	if (!p)
		return -1;
	if (skb->gso_size) /* whoever segments sets it */
		return 0;
	if (sums_itself(skb, p, frame)) {
		__u64 pseudo = (__u64)bpf_htonl(p->protocol) + bpf_htonl(p->ip_length - p->l4_offset);
		int i;

#pragma unroll
		for (i = 0; i < 4; i++) /* of IPv4, the mapped prefix adds nothing: it is all ones */
			pseudo += (__u64)p->source.w[i] + p->destination.w[i];
		sum += csum_fold(pseudo);
		if (skb->len > network + p->ip_length) {
			check = ~csum_fold(sum_of(skb, network + p->ip_length, skb->len - network - p->ip_length));
			sum += p->ip_length & 1 ? (__u16)(check << 8 | check >> 8) : check;
		}
		length = network - at + p->l4_offset;
	}
	if (length > SUM_CHUNK * SUM_CHUNKS - 32)
		return -1;
	if (is4 && length == (SEALED_WORDS - 2) * 4)
		sum += sum_of_sealed(skb);
	else
		sum += sum_of(skb, at - addresses, addresses + length);
	field = (void *)(long)skb->data + at + TCP_CHECK_AT;
	if ((void *)(field + 1) > (void *)(long)skb->data_end)
		return -1;
	*field = csum_fold(sum);
	return 0;
}

/* Room for an outer IP header, STT's and the inner Ethernet's before a TCP packet that is yet to be segmented, which
 * becomes one whose outer header is what is segmented. So it may not be known any more as one whose inner checksum is
 * unfinished, or that one would be taken for the outer one: taking off the headers up to where that checksum begins, and
 * putting them back, makes the kernel forget it. And the kernel goes by what family the segments are. 0 or an errno.
 */
static __noinline int stt_room_for_segments(struct __sk_buff *skb, const struct packet *p, __u32 is4)
{
	const __u32 headers = (is4 ? IPV4_BYTES : IPV6_BYTES) + STT_AROUND;
	const __be16 outer = is4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6;
	struct scratch *s = scratch_of_this_cpu();
	__s32 more;
	__u32 n;

	if (!p || !s || p->protocol != IPPROTO_TCP || p->fragment || skb->len + headers > STT_LONGEST)
		return -1;
	n = ETHERNET_BYTES + p->l4_offset + 2;
	BOUND(n, STT_SAVED, return -1);
	if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, s->frame, n))
		return -1;
	if (bpf_skb_adjust_room(skb, -(__s32)n, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return -1;
	/* A change of family takes off or puts on the difference of the headers, besides. */
	more = p->type == outer ? 0 : is4 ? IPV6_BYTES - IPV4_BYTES : IPV4_BYTES - IPV6_BYTES;
	if (bpf_skb_adjust_room(skb, (__s32)(n + headers) + more, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return -1;
	if (more && bpf_skb_change_proto(skb, outer, 0))
		return -1;
	BOUND(n, STT_SAVED, return -1);
	return bpf_skb_store_bytes(skb, ETHERNET_BYTES + headers, s->frame, n, 0);
}

/* How many segments a frame will be, its headers on. */
INLINE __u32 stt_segments(struct __sk_buff *skb, bool is4)
{
	const __u32 headers = ETHERNET_BYTES + (is4 ? IPV4_BYTES : IPV6_BYTES) + TCP_BYTES, size = skb->gso_size;

	return size ? (skb->len - headers + size - 1) / size : 1;
}

/* How many packets a frame is for the guest, its headers off. */
INLINE __u32 packets_joined(struct __sk_buff *skb, const struct packet *p)
{
	__u32 headers = ETHERNET_BYTES + p->l4_offset, size = skb->gso_size;
	__u8 *tcp = (__u8 *)(long)skb->data + ETHERNET_BYTES + (p->l4_offset & 63);

	if (!size || (void *)(tcp + TCP_BYTES) > (void *)(long)skb->data_end)
		return packets_in(skb);
	headers += (tcp[12] >> 4) * 4;
	return skb->len > headers ? (skb->len - headers + size - 1) / size : 1;
}

/* Of a frame that came in several segments, its outer headers off, so that the kernel knows of no checksum any more: TCP
 * whose checksum is unfinished is several segments of its own, whose bytes the outer checksum has vouched for. Anything
 * else is one packet. 0 or an errno.
 */
static __noinline int stt_joined(struct __sk_buff *skb, const struct packet *p, __u32 vouched)
{
	if (!p)
		return -1;
	if (!vouched || p->protocol != IPPROTO_TCP || p->fragment)
		return bpf_skb_change_tail(skb, skb->len, 0); /* which makes the kernel forget the segments */
	bpf_csum_level(skb, BPF_CSUM_LEVEL_INC);
	return 0;
}

/* Whether the kernel holds a packet for one whose checksum is unfinished: then what this helper writes is not written,
 * since it would be in that checksum. The urgent pointer of STT's TCP header means nothing.
 */
INLINE bool is_unfinished(struct __sk_buff *skb, __u32 tcp)
{
	const __u32 urgent = tcp + TCP_CHECK_AT + 2;
	__u16 before = 0, after = 0;

	if (bpf_skb_load_bytes(skb, urgent, &before, sizeof(before)) || bpf_l4_csum_replace(skb, urgent, 0, 1, 4) ||
	    bpf_skb_load_bytes(skb, urgent, &after, sizeof(after)))
		return false;
	return before == after || bpf_skb_store_bytes(skb, urgent, &before, sizeof(before), 0);
}

/* Sets the inner transport checksum that the sender left to its network card. Nothing but the outer checksum speaks for
 * the bytes, so it has to be right. tcp: where the outer header is. Returns 0 or the reason to drop it.
 */
static __noinline enum drop_reason stt_finish(struct __sk_buff *skb, __u32 tcp, __u32 length, __u32 transport, __u32 is_tcp)
{
	const __u32 sum_at = is_tcp ? 16 : 6, frame = tcp + TCP_BYTES + STT_BYTES;
	const __u32 addresses = tcp == ETHERNET_BYTES + IPV4_BYTES ? 8 : 32, payload = length + TCP_BYTES + STT_BYTES;
	__u16 check;

	if (transport < ETHERNET_BYTES || transport + sum_at + 2 > length || payload > SUM_CHUNK * SUM_CHUNKS - 32)
		return DROP_OUTER_MALFORMED;
	if (bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) < 0 && !is_unfinished(skb, tcp) &&
	    csum_fold((__u64)bpf_htonl(IPPROTO_TCP) + bpf_htonl(payload) + sum_of(skb, tcp - addresses, addresses + payload)))
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
	__be32 *words = (void *)(long)skb->data + at;
	__u32 segment, head;

	if (!stt || payload < TCP_BYTES + STT_BYTES ||
	    (void *)words + TCP_BYTES + STT_BYTES > (void *)(long)skb->data_end)
		return DROP_OUTER_MALFORMED;
	if (bpf_ntohl(words[3]) >> 28 != TCP_BYTES / 4)
		return DROP_OUTER_MALFORMED;
	segment = bpf_ntohl(words[1]);
	if (segment & 0xffff || segment >> 16 != payload - TCP_BYTES)
		return DROP_REASSEMBLY;
	head = bpf_ntohl(words[5]);
	if (head >> 24)
		return DROP_OUTER_MALFORMED;
	if (words[6] & STT_TAGGED)
		return DROP_VLAN_TAG;
	stt->vsid = words[7] ? 0 : bpf_ntohl(words[8]);
	stt->unfinished = (head >> 16 & STT_PARTIAL) != 0;
	stt->transport = head >> 8;
	stt->tcp = (head >> 16 & STT_TCP) != 0;
	return 0;
}
