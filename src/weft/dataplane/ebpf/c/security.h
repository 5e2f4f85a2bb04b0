/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What security groups say of a packet, in as many look-ups however many rules there are: weft/policy/security.py. */
#pragma once

#include "flows.h"
#include "lookup.h"

/* The rule for a remote, when it precedes what was found: by priority, what denies, number. */
static __noinline int consider(struct flow *f, __u32 remote, __u32 protocol)
{
	struct ruling *r;
	bool denies;

	if (!f)
		return 0;
	f->ask.prefixlen = 80 + (f->numbered ? 16 : 0);
	f->ask.remote = remote;
	f->ask.protocol = protocol;
	f->ask.pad = 0;
	f->ask.port = bpf_htons(f->number);
	r = bpf_map_lookup_elem(&rules, &f->ask);
	if (!r)
		return 0;
	denies = !(r->flags & RULE_ALLOW);
	if (f->found) {
		bool denied = !(f->flags & RULE_ALLOW);

		if (r->priority < f->priority)
			return 0;
		if (r->priority == f->priority && (denies != denied ? denied : r->rule > f->rule))
			return 0;
	}
	f->found = 1;
	f->rule = r->rule;
	f->priority = r->priority;
	f->flags = r->flags;
	return 0;
}

/* Of whom and of which protocol a rule may be. */
static __noinline int consider_remote(struct flow *f, __u32 remote)
{
	if (!f)
		return 0;
	consider(f, remote, 0);
	if (f->protocol)
		consider(f, remote, f->protocol);
	return 0;
}

/* The host's number of the security groups whose member has the address, as a port of the VSID sees it; 0: none. nobody: the
 * same of an address that nobody has a record of, here: it may be one that there was no room for.
 */
static __noinline __u32 identity_of(struct flow *f, const struct addr *remote, __u32 nobody)
{
	struct subnet *subnet;
	struct route *r;
	__u32 *identity;

	if (!f || !remote)
		return 0;
	f->member.vsid = f->vsid;
	f->member.ca = *remote;
	identity = bpf_map_lookup_elem(&identities, &f->member);
	if (identity)
		return *identity;
	if (bpf_map_lookup_elem(&records, &f->member))
		return 0;
	if (is_link_local(remote))
		return nobody;
	subnet = subnet_of(f->vsid);
	r = subnet ? route_of(subnet, remote) : NULL;
	if (!r)
		return nobody;
	if (r->via)
		return 0;
	f->member.vsid = r->vsid;
	identity = bpf_map_lookup_elem(&identities, &f->member);
	if (identity)
		return *identity;
	return nobody && !bpf_map_lookup_elem(&records, &f->member) ? nobody : 0;
}

/* f->event, if the packet's tenant may have one more in the ring: 0: it is there. */
INLINE int put_event(struct flow *f)
{
	struct tenant *of = tenant_at(&f->tenant);

	if (!of || !may_put(&connection_events, EVENTS_BYTES, &of->events, sizeof(f->event)) ||
	    bpf_ringbuf_output(&connection_events, &f->event, sizeof(f->event), 0))
		return -1;
	has_put(&connection_events, &of->events, sizeof(f->event));
	return 0;
}

/* A rule that logs has decided of a packet: for whoever listens, sampled. */
static __noinline int log_ruling(struct flow *f, __u32 direction)
{
	struct hit *hit;

	if (!f)
		return 0;
	hit = bpf_map_lookup_elem(&hits, &f->rule);
	/* Two CPUs may log at once, which harms nobody. */
	if (!hit || (hit->logged_ns && f->now_ns - hit->logged_ns < LOG_GAP_NS))
		return 0;
	f->event.key = f->key;
	f->event.key.remote = f->remote;
	f->event.key.protocol = f->protocol;
	f->event.what = EVENT_LOG;
	f->event.state = f->flags & RULE_ALLOW;
	f->event.opener = direction;
	f->event.rule = f->rule;
	f->event.packets[0] = f->numbered ? f->number : 0;
	f->event.packets[1] = 0;
	f->event.bytes[0] = f->length;
	f->event.bytes[1] = 0;
	if (!put_event(f))
		hit->logged_ns = f->now_ns;
	return 0;
}

static __noinline int count_hit(struct flow *f)
{
	struct hit first = {.count = 1}, *hit;

	if (!f)
		return 0;
	hit = bpf_map_lookup_elem(&hits, &f->rule);
	if (hit)
		__sync_fetch_and_add(&hit->count, 1);
	else
		bpf_map_update_elem(&hits, &f->rule, &first, BPF_NOEXIST);
	return 0;
}

/* Rules have not let a frame of a port pass; f->rule: the one that denies it. */
static __noinline int count_denial(struct flow *f, __u64 packets)
{
	__u64 *count;

	if (!f)
		return 0;
	f->denial.port = f->key.port;
	f->denial.rule = f->rule;
	f->denial.pad = 0;
	count = bpf_map_lookup_elem(&denials, &f->denial);
	if (!count) {
		__u64 none = 0;

		bpf_map_update_elem(&denials, &f->denial, &none, BPF_NOEXIST);
		count = bpf_map_lookup_elem(&denials, &f->denial);
	}
	if (count)
		__sync_fetch_and_add(count, packets);
	return 0;
}

/* Whether rules let the packet of a flow pass that goes in a direction, with its number; f->rule is the one that decided. */
static __noinline int rules_say(struct flow *f, const struct guard *g, __u32 direction)
{
	__u32 policy, identity, *class;

	if (!f || !g)
		return 0;
	policy = g->policies[direction & 1][!addr_is4(&f->remote)];
	f->found = 0;
	f->rule = 0;
	f->flags = 0;
	if (policy == POLICY_EVERYTHING || policy == POLICY_NOTHING)
		return policy == POLICY_EVERYTHING;
	f->ask.policy = policy;
	consider_remote(f, REMOTE_ANYBODY);
	f->prefix.prefixlen = 160;
	f->prefix.policy = policy;
	f->prefix.prefix = f->remote;
	class = bpf_map_lookup_elem(&classes, &f->prefix);
	if (class && *class)
		consider_remote(f, *class);
	identity = identity_of(f, &f->remote, g->flags & GUARD_PARTIAL ? IDENTITY_UNKNOWN : 0);
	if (identity)
		consider_remote(f, REMOTE_IDENTITY | identity);
	if (f->rule)
		count_hit(f);
	if (f->rule && f->flags & RULE_LOG)
		log_ruling(f, direction);
	return f->flags & RULE_ALLOW;
}
