/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the connection tracker reads of a packet: reference/flows.py says the same. Judges nothing. */
#pragma once

#include "parse.h"
#include "tcp.h"

#define IPPROTO_DCCP_ 33
#define IPPROTO_SCTP_ 132
#define IPPROTO_UDPLITE_ 136
#define SCTP_BYTES 16 /* the common header, and that of a chunk */
#define SCTP_INIT 1
#define SCTP_INIT_ACK 2
#define SCTP_ABORT 6
#define SCTP_SHUTDOWN 7
#define SCTP_SHUTDOWN_ACK 8
#define SCTP_COOKIE_ECHO 10
#define SCTP_COOKIE_ACK 11
#define SCTP_SHUTDOWN_COMPLETE 14
#define MOST_OPTIONS 10
#define MOST_EXTENSIONS 8 /* headers of IPv6 before the transport's */
#define IPPROTO_HOP_BY_HOP 0
#define IPPROTO_ROUTING_ 43
#define IPPROTO_OPTIONS 60

enum flow_kind {
	FLOW_TCP = 0,
	FLOW_UDP = 1,
	FLOW_SCTP = 2,
	FLOW_QUERY = 3, /* asks, in ICMP */
	FLOW_ANSWER = 4,
	FLOW_ERROR = 5, /* of a packet, which it quotes */
	FLOW_MESSAGE = 6, /* any other ICMP: it belongs to nothing */
	FLOW_OTHER = 7, /* of another protocol */
	FLOW_LATER = 8, /* a fragment that has no transport header */
};

/* A connection as it is made: without the lock. */
struct fresh {
	__u32 lock;
	CONNECTION_FIELDS
};

/* What is read, and what is found of it; per CPU, within one run of a program. What the agent asks has one of its own: up to
 * Linux 6.2 packets come in the midst of a test run.
 */
#define FLOW_OF_PACKET 0
#define FLOW_OF_AGENT 1
#define FLOWS 2
struct flow {
	struct connection_key key; /* of an error: that of the packet that it tells of */
	struct tcp_segment segment;
	__u32 kind;
	__u32 side; /* DIRECTION_*: whose packet it is */
	__u32 length; /* of the frame */
	__u32 tag; /* of SCTP */
	__u32 initiate;
	__u8 chunk;
	__u8 code;
	__u8 protocol; /* of the packet, also where the key has another */
	__u8 carries; /* of a fragment: the protocol that its header names */
	__u8 numbered; /* number says something */
	__u16 number; /* that rules look at: the destination's port, or ICMP's type and code */
	__u8 piece; /* it is a fragment */
	__u8 last;
	__u8 quoted; /* of an error: key says whose */
	__u8 logs; /* the rule that decided wants it */
	__u8 listens; /* it has text, and may be of an FTP control connection */
	__u8 ends_line; /* that ends with a line */
	__u8 speaks; /* SPEAKS_*: it comes next */
	__u8 arriving; /* its port is on its way here */
	__be16 ftp_port; /* of servers; 0: nobody listens */
	__be16 control_port; /* with related: the server's of its control connection */
	__u16 related; /* flags of the connection that it begins */
	__u32 text_at; /* where the text is, in the frame */
	__u32 identity; /* of a fragment */
	__u32 begin; /* of a fragment: its bytes behind the header that all have */
	__u32 end;
	__u64 now_ns;
	struct addr remote; /* that rules are asked about */
	__u32 vsid;
	__u32 tenant;
	__u32 epoch;
	/* What rules say. */
	__u32 rule;
	__s32 priority;
	__u32 flags; /* of struct ruling; 0: it is denied */
	__u32 found;
	struct rule_key ask;
	struct class_key prefix;
	struct record_key member;
	struct denial denial;
	struct datagram_key place;
	struct line_key line;
	struct fresh fresh;
	struct connection_event event;
	struct connection_key swept;
	struct connection_key awaited; /* of an expectation */
	struct connection_key control;
	struct expectation expectation;
	struct addr inner_source; /* of a quoted packet */
	struct addr inner_destination;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FLOWS);
	__type(key, __u32);
	__type(value, struct flow);
} flows SEC(".maps");

INLINE struct flow *flow_of_this_cpu(void)
{
	__u32 whose = FLOW_OF_PACKET;

	return bpf_map_lookup_elem(&flows, &whose);
}

INLINE struct flow *flow_of_agent(void)
{
	__u32 whose = FLOW_OF_AGENT;

	return bpf_map_lookup_elem(&flows, &whose);
}

INLINE struct tracking *tracking_of_host(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&tracking, &zero);
}

INLINE struct tracked *tracked_of_host(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&tracked, &zero);
}

/* The type that asks, of an ICMP query or of its answer; 0: neither, since no query is of type 0. */
INLINE __u8 asking_type(bool is4, __u8 type, bool *answers)
{
	*answers = false;
	if (!is4) {
		*answers = type == 129;
		return type == 128 || type == 129 ? 128 : 0;
	}
	switch (type) {
	case 8:
	case 13:
	case 15:
	case 17:
		return type;
	case 0:
		*answers = true;
		return 8;
	case 14:
	case 16:
	case 18:
		*answers = true;
		return type - 1;
	}
	return 0;
}

/* Unreachable, too big, time exceeded, parameter problem. */
INLINE bool is_telling(bool is4, __u8 type)
{
	return is4 ? type == 3 || type == 11 || type == 12 : type >= 1 && type <= 4;
}

INLINE bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_DCCP_ ||
	       protocol == IPPROTO_SCTP_ || protocol == IPPROTO_UDPLITE_;
}

/* What whoever gets it reads on behind, whatever it says. */
INLINE bool is_extension(__u32 protocol)
{
	return protocol == IPPROTO_HOP_BY_HOP || protocol == IPPROTO_ROUTING_ || protocol == IPPROTO_OPTIONS;
}

/* Behind IPv6's extension headers: the protocol, and where it begins, << 8. -1: one is not whole, or there are too many. at and
 * stop: in the frame. A global function: the verifier takes it by itself.
 */
__noinline int behind_extensions(struct __sk_buff *skb, __u32 protocol, __u32 at, __u32 stop)
{
	__u8 head[2];
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < MOST_EXTENSIONS && is_extension(protocol); i++) {
		if (at + 8 > stop || bpf_skb_load_bytes(skb, at, head, sizeof(head)))
			return -1;
		protocol = head[0];
		at += (head[1] + 1) * 8;
		if (at > stop)
			return -1;
	}
	return is_extension(protocol) ? -1 : (int)(at << 8 | (protocol & 255));
}

INLINE __u64 addresses_of(const struct addr *local, const struct addr *remote)
{
	const __u64 *ours = (const void *)local, *theirs = (const void *)remote;

	return ours[0] * 0x9E3779B97F4A7C15ull ^ ours[1] * 0xC2B2AE3D27D4EB4Full ^ theirs[0] * 0x165667B19E3779F9ull ^ theirs[1];
}

#define TAG_SERIAL bpf_cpu_to_be64(0xffff)

INLINE void put_owner(struct connection_tag *tag, const struct connection_key *key)
{
	struct tracked *t = tracked_of_host();
	__u64 made = t ? __sync_fetch_and_add(&t->made, 1) : 0;

	tag->port = key->port;
	tag->ends = *(const __u64 *)&key->local_port | (bpf_cpu_to_be64(made) & TAG_SERIAL);
	tag->addresses = addresses_of(&key->local, &key->remote);
}

/* How a tag differs: 0: not at all. ends, addresses: as they are in it, without a serial. */
INLINE __u64 other_tag(const struct connection_tag *tag, __u64 port, __u64 ends, __u64 addresses)
{
	return (tag->port ^ port) | ((tag->ends ^ ends) & ~TAG_SERIAL) | (tag->addresses ^ addresses);
}

/* Whether it is the key's connection. */
INLINE bool is_of(const struct connection_tag *tag, const struct connection_key *key)
{
	return !other_tag(tag, key->port, *(const __u64 *)&key->local_port, addresses_of(&key->local, &key->remote));
}

/* Of one that is read without its lock, before what is read of it, and behind: whether it was the key's all the while. */
INLINE __u64 first_look(const struct connection *c)
{
	__u64 ends = *(const volatile __u64 *)&c->tag.ends;

	in_order();
	return ends;
}

INLINE bool was_of(const struct connection *c, const struct connection_key *key, __u64 first)
{
	in_order();
	return *(const volatile __u64 *)&c->tag.ends == first && is_of(&c->tag, key);
}

/* Whether it may be a control connection of FTP. ftp_port: of servers; 0: nobody listens. */
INLINE bool is_control(const struct connection_key *key, __be16 ftp_port)
{
	return ftp_port && (key->local_port == ftp_port || key->remote_port == ftp_port);
}

/* The ends of a connection, by whose packet it is. */
INLINE void put_ends(struct connection_key *key, __u32 side, const struct addr *source, const struct addr *destination,
		     __be16 source_port, __be16 destination_port)
{
	if (side == DIRECTION_FROM_GUEST) {
		key->local = *source;
		key->remote = *destination;
		key->local_port = source_port;
		key->remote_port = destination_port;
	} else {
		key->local = *destination;
		key->remote = *source;
		key->local_port = destination_port;
		key->remote_port = source_port;
	}
}

/* The window scale (RFC 7323 section 2.2), among the first options; slow way: SYN segments only. */
static __noinline int window_scale(struct __sk_buff *skb, __u32 at, __u32 stop)
{
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < MOST_OPTIONS; i++) {
		__u8 option[3];

		if (at >= stop || bpf_skb_load_bytes(skb, at, option, 1) || option[0] == 0)
			return NO_SCALE;
		if (option[0] == 1) {
			at += 1;
			continue;
		}
		if (at + 2 > stop || bpf_skb_load_bytes(skb, at, option, 2) || option[1] < 2 || at + option[1] > stop)
			return NO_SCALE;
		if (option[0] == 3 && option[1] == 3) {
			if (bpf_skb_load_bytes(skb, at, option, 3))
				return NO_SCALE;
			return option[2] < MOST_SCALE ? option[2] : MOST_SCALE;
		}
		at += option[1];
	}
	return NO_SCALE;
}

/* at: of the transport header, as an offset; length: from there to the packet's end. 0, or -1: there is no such header. */
static __noinline int read_tcp(struct __sk_buff *skb, struct flow *f, __u32 at, __u32 length)
{
	struct tcp_segment *s;
	__u8 head[TCP_BYTES];
	__u32 header;

	if (!f || length < TCP_BYTES || bpf_skb_load_bytes(skb, at, head, sizeof(head)))
		return -1;
	s = &f->segment;
	header = (head[12] >> 4) * 4;
	if (header < TCP_BYTES || header > length || !sound_flags(head[13]))
		return -1;
	s->seq = bpf_ntohl(*(__be32 *)(head + 4));
	s->ack = bpf_ntohl(*(__be32 *)(head + 8));
	s->window = bpf_ntohs(*(__be16 *)(head + 14));
	s->flags = head[13] & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK);
	s->data_bytes = length - header;
	s->end = s->seq + s->data_bytes + !!(s->flags & TCP_SYN) + (s->flags & TCP_FIN);
	s->scale = NO_SCALE;
	if (s->flags & TCP_SYN)
		s->scale = window_scale(skb, at + TCP_BYTES, at + header);
	f->listens = s->data_bytes && !(s->flags & (TCP_SYN | TCP_RST)) && is_control(&f->key, f->ftp_port);
	if (f->listens) {
		f->text_at = at + header;
		f->ends_line = !f->piece && !bpf_skb_load_bytes(skb, at + length - 1, head, 1) && head[0] == '\n';
	}
	return 0;
}

static __noinline int read_sctp(struct __sk_buff *skb, struct flow *f, __u32 at, __u32 length)
{
	__be32 word;

	f->initiate = 0;
	if (length < SCTP_BYTES || bpf_skb_load_bytes(skb, at + 4, &word, 4) ||
	    bpf_skb_load_bytes(skb, at + 12, &f->chunk, 1))
		return -1;
	f->tag = bpf_ntohl(word);
	if (f->chunk != SCTP_INIT && f->chunk != SCTP_INIT_ACK)
		return 0;
	if (length < SCTP_BYTES + 4 || bpf_skb_load_bytes(skb, at + 16, &word, 4))
		return -1;
	f->initiate = bpf_ntohl(word);
	return 0;
}

/* Whose packet an error is of, into the key: it went the other way. 1: that is to be told. */
static __noinline int read_quoted(struct __sk_buff *skb, struct flow *f, __u32 at, __u32 stop, __u32 is4)
{
	struct addr *source, *destination;
	__u32 side;
	__u8 head[8], protocol;
	__be16 ports[2] = {};
	bool answers;
	int behind;

	if (!f)
		return 0;
	source = &f->inner_source;
	destination = &f->inner_destination;
	side = !(f->side & 1);
	if (is4) {
		struct ipv4 ip;

		if (at + sizeof(ip) > stop || bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version_ihl >> 4 != 4 ||
		    ip.fragment & bpf_htons(IPV4_OFFSET) || (ip.version_ihl & 15) < 5)
			return 0;
		at += (ip.version_ihl & 15) * 4;
		protocol = ip.protocol;
		*source = addr_of4(ip.source);
		*destination = addr_of4(ip.destination);
	} else {
		if (at + IPV6_BYTES > stop || bpf_skb_load_bytes(skb, at, head, sizeof(head)) || head[0] >> 4 != 6 ||
		    bpf_skb_load_bytes(skb, at + 8, source, sizeof(*source)) ||
		    bpf_skb_load_bytes(skb, at + 24, destination, sizeof(*destination)))
			return 0;
		behind = behind_extensions(skb, head[6], at + IPV6_BYTES, stop);
		if (behind >= 0 && (behind & 255) == IPPROTO_FRAGMENT) {
			at = behind >> 8;
			if (at + 8 > stop || bpf_skb_load_bytes(skb, at, head, sizeof(head)) || head[2] || head[3] & 0xf8)
				return 0;
			behind = behind_extensions(skb, head[0], at + 8, stop);
		}
		if (behind < 0)
			return 0;
		protocol = behind;
		at = behind >> 8;
	}
	if (at + 8 > stop || bpf_skb_load_bytes(skb, at, head, sizeof(head)))
		return 0;
	f->key.protocol = protocol;
	f->key.asked = 0;
	if (protocol == (is4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
		__u8 type = asking_type(is4, head[0], &answers);

		if (!type)
			return 0;
		put_ends(&f->key, side, source, destination, 0, 0);
		f->key.local_port = *(__be16 *)(head + 4);
		f->key.remote_port = bpf_htons(type);
		f->key.asked = answers ? !side : side;
	} else {
		if (has_ports(protocol)) {
			ports[0] = *(__be16 *)head;
			ports[1] = *(__be16 *)(head + 2);
		}
		put_ends(&f->key, side, source, destination, ports[0], ports[1]);
		f->segment.seq = bpf_ntohl(*(__be32 *)(head + 4));
	}
	return 1;
}

/* ICMP: which query it is of, or what it tells of. */
static __noinline int read_icmp(struct __sk_buff *skb, struct flow *f, __u32 at, __u32 length, __u32 is4)
{
	__u8 head[ICMP_BYTES], type;
	bool answers;

	if (!f || length < ICMP_BYTES || bpf_skb_load_bytes(skb, at, head, sizeof(head)))
		return -1;
	f->code = head[1];
	f->number = (__u16)head[0] << 8 | head[1];
	f->numbered = 1;
	type = asking_type(is4, head[0], &answers);
	if (type) {
		f->kind = answers ? FLOW_ANSWER : FLOW_QUERY;
		f->key.local_port = *(__be16 *)(head + 4);
		f->key.remote_port = bpf_htons(type);
		f->key.asked = answers ? !(f->side & 1) : f->side & 1;
	} else if (is_telling(is4, head[0])) {
		f->kind = FLOW_ERROR;
		f->quoted = read_quoted(skb, f, at + ICMP_BYTES, at + length, is4);
	} else {
		f->kind = FLOW_MESSAGE;
	}
	return 0;
}

/* Where the transport header is, and what of its datagram a fragment is. */
static __noinline int read_piece(struct __sk_buff *skb, const struct packet *p, struct flow *f, __u32 *at)
{
	__u32 offset, more, length;

	if (!p || !f || !at)
		return -1;
	if (p->type == ETHERTYPE_IPV4) {
		__be16 words[2];

		if (bpf_skb_load_bytes(skb, ETHERNET_BYTES + 4, words, sizeof(words)))
			return -1;
		f->identity = bpf_ntohs(words[0]);
		offset = (bpf_ntohs(words[1]) & IPV4_OFFSET) * 8;
		more = bpf_ntohs(words[1]) & IPV4_MF;
	} else {
		struct ipv6_fragment fragment;

		if (p->ip_length < *at + 8 || bpf_skb_load_bytes(skb, ETHERNET_BYTES + *at, &fragment, sizeof(fragment)))
			return -1;
		*at += sizeof(fragment);
		f->protocol = fragment.next_header;
		f->identity = bpf_ntohl(fragment.id);
		offset = bpf_ntohs(fragment.offset) & 0xfff8;
		more = bpf_ntohs(fragment.offset) & 1;
	}
	if (!offset && !more)
		return 0;
	length = p->ip_length - *at;
	if (p->ip_length <= *at || (more && length & 7) || offset + length > 65535)
		return -1;
	f->piece = 1;
	f->carries = f->protocol;
	f->last = !more;
	f->begin = offset;
	f->end = offset + length;
	return 0;
}

/* The packet's flow; its side and port are known. -1: its headers are none that a connection could have. */
static __noinline int read_flow(struct __sk_buff *skb, const struct packet *p, struct flow *f)
{
	__u32 at, length, is4;
	__be16 ports[2] = {};
	int behind;

	if (!p || !f)
		return -1;
	is4 = p->type == ETHERTYPE_IPV4;
	at = p->l4_offset;
	f->protocol = p->protocol;
	f->length = skb->len;
	f->piece = 0;
	f->listens = 0;
	f->code = 0;
	f->numbered = 0;
	f->number = 0;
	f->key.asked = 0;
	f->key.pad = 0;
	if (!is4 && is_extension(f->protocol)) {
		behind = behind_extensions(skb, f->protocol, ETHERNET_BYTES + at, ETHERNET_BYTES + p->ip_length);
		if (behind < 0)
			return -1;
		f->protocol = behind;
		at = (behind >> 8) - ETHERNET_BYTES;
	}
	if (is4 ? p->fragment : f->protocol == IPPROTO_FRAGMENT) {
		if (read_piece(skb, p, f, &at))
			return -1;
		if (!is4 && !(f->piece && f->begin)) {
			behind = behind_extensions(skb, f->protocol, ETHERNET_BYTES + at, ETHERNET_BYTES + p->ip_length);
			/* A fragment in a fragment is nobody's to send. */
			if (behind < 0 || (behind & 255) == IPPROTO_FRAGMENT)
				return -1;
			f->protocol = behind;
			at = (behind >> 8) - ETHERNET_BYTES;
		}
	}
	f->key.protocol = f->protocol;
	f->remote = f->side == DIRECTION_FROM_GUEST ? p->destination : p->source;
	put_ends(&f->key, f->side, &p->source, &p->destination, 0, 0);
	if (f->piece && f->begin) {
		f->kind = FLOW_LATER;
		return 0;
	}
	length = p->ip_length - at;
	at += ETHERNET_BYTES;
	if (has_ports(f->protocol)) {
		if (length < UDP_BYTES)
			return -1;
		/* parse_transport() has read the commonest; it has read nothing else of 0. */
		if (p->l4_word)
			__builtin_memcpy(ports, &p->l4_word, sizeof(ports));
		else if (bpf_skb_load_bytes(skb, at, ports, sizeof(ports)))
			return -1;
		if (f->side == DIRECTION_FROM_GUEST) {
			f->key.local_port = ports[0];
			f->key.remote_port = ports[1];
		} else {
			f->key.local_port = ports[1];
			f->key.remote_port = ports[0];
		}
		f->number = bpf_ntohs(ports[1]);
		f->numbered = 1;
		f->kind = FLOW_UDP;
		if (f->protocol == IPPROTO_TCP) {
			f->kind = FLOW_TCP;
			return read_tcp(skb, f, at, length);
		}
		if (f->protocol == IPPROTO_SCTP_) {
			f->kind = FLOW_SCTP;
			return read_sctp(skb, f, at, length);
		}
		return 0;
	}
	f->kind = FLOW_OTHER;
	if (f->protocol != (is4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return 0;
	if (read_icmp(skb, f, at, length, is4))
		return -1;
	/* Whose packet it was is told of it, and nobody else: what is quoted is no way to say anything to anybody. */
	if (f->kind == FLOW_ERROR && !addr_equal(&f->inner_source, &p->destination))
		f->quoted = 0;
	return 0;
}
