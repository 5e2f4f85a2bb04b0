/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The fast way through the tracker, without the lock of the connection: of packets of which there is nothing to be asked, told or
 * heard, and that come in the same moment of the coarse clock as one before them. They are nearly all. Of them it does
 * what judge() does; all others it leaves as they are, to judge().
 *
 * A packet is counted without the lock: where two CPUs have one of the same direction at once, one may be missing.
 */
#pragma once

#include "conntrack.h"

/* A segment without SYN, FIN and RST, whose header is linear: 0; -1: it is none. */
INLINE int read_plain_segment(struct __sk_buff *skb, const struct packet *p, struct tcp_segment *s)
{
	__u8 *tcp = (void *)(long)skb->data + ETHERNET_BYTES + (p->l4_offset & 63);
	__u32 header, length = p->ip_length - p->l4_offset;

	if ((void *)(tcp + TCP_BYTES) > (void *)(long)skb->data_end)
		return -1;
	header = (tcp[12] >> 4) * 4;
	s->flags = tcp[13] & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK);
	if (header < TCP_BYTES || header > length || s->flags != TCP_ACK)
		return -1;
	s->seq = bpf_ntohl(*(__be32 *)(tcp + 4));
	s->ack = bpf_ntohl(*(__be32 *)(tcp + 8));
	s->window = bpf_ntohs(*(__be16 *)(tcp + 14));
	s->data_bytes = length - header;
	s->end = s->seq + s->data_bytes;
	return 0;
}

/* Of UDP: it has been answered and told of, or the one who has begun it goes on. */
INLINE bool others_flow(const struct connection *c, __u32 side)
{
	if (c->flags & REFUSED)
		return false;
	return c->state == STATE_UDP_REPLIED ? c->flags & TOLD : c->state == STATE_UDP_UNREPLIED && side == c->opener;
}

/* A key of what a packet bears, by words: what is put piece by piece is slow to be read as a whole just behind. */
INLINE void put_key(struct connection_key *key, const struct packet *p, __u32 side, __u64 port)
{
	__u64 *words = (void *)key, ports = bpf_ntohl(p->l4_word);
	const __u64 *local = (const void *)&p->source, *remote = (const void *)&p->destination;

	if (side != DIRECTION_FROM_GUEST) {
		local = (const void *)&p->destination;
		remote = (const void *)&p->source;
		ports = ports >> 16 | (ports & 0xffff) << 16;
	}
	words[0] = port;
	words[1] = local[0];
	words[2] = local[1];
	words[3] = remote[0];
	words[4] = remote[1];
	words[5] = bpf_cpu_to_be64(ports << 32 | (__u64)p->protocol << 24);
}

/* 1: the packet passes, and is counted; 0: judge() is to say, and nothing has been done. port: its number, as in struct
 * guard; packets[0] is the packet's. Its epoch is that of the rules, so there is nothing to ask them; what a guard's flags
 * say is of packets without a connection, and of those of another epoch.
 */
__noinline int carries_on(struct __sk_buff *skb, __u32 direction, __u64 port)
{
	__u32 zero = 0, side = direction & 1;
	struct packet *p = bpf_map_lookup_elem(&packets, &zero);
	struct tracking *t = tracking_of_host();
	struct connection_key key;
	struct tcp_segment s = {};
	struct connection *c;
	__u64 now_ns, first;

	if (!p || !t || !p->l4_word || p->ip_length < p->l4_offset + UDP_BYTES)
		return 0;
	put_key(&key, p, side, port);
	if (p->protocol == IPPROTO_TCP && (read_plain_segment(skb, p, &s) || (s.data_bytes && is_control(&key, t->ftp_port))))
		return 0;
	c = bpf_map_lookup_elem(&connections, &key);
	if (!c)
		return 0;
	first = *(volatile __u64 *)&c->tag.ends;
	if (*(volatile __u32 *)&c->epoch != t->epoch)
		return 0;
	in_order();
	/* What puts off its end writes behind the lock: here it is the same moment of the coarse clock still. */
	now_ns = t->clock_ns ? t->clock_ns : p->now_ns;
	if (!now_ns)
		now_ns = bpf_ktime_get_coarse_ns();
	if (c->expires_ns != now_ns + t->timeouts_ns[c->state & (STATES - 1)])
		return 0;
	if (p->protocol == IPPROTO_TCP ? !tcp_flows(c, side, &s) : !others_flow(c, side))
		return 0;
	/* What has been looked at was this connection's: whoever takes its element away says so first. */
	if (!was_of(c, &key, first))
		return 0;
	c->packets[side] += 1;
	c->bytes[side] += skb->len;
	return 1;
}
