"""Asks of a port's packet what its connections say, and where they say nothing, its security groups. Keeps neither."""

from __future__ import annotations

from collections.abc import Hashable

from weft.policy import rows
from weft.policy.drop import DropReason
from weft.reference import packet, security
from weft.reference.conntrack import Question, Ruling
from weft.reference.lookups import Lookups, Port, Subnet
from weft.reference.packet import Ip
from weft.reference.qos import Direction

_LOOKS = {Direction.FROM_GUEST: rows.Direction.EGRESS, Direction.TO_GUEST: rows.Direction.INGRESS}


def check(lookups: Lookups, port: Port, direction: Direction, ip: Ip, steps: list[str]) -> DropReason | None:
    """Why a port's packet does not pass; None: it does."""
    if not security.is_checked(port) or packet.neighbour_message(ip) is not None:
        return None
    subnet = lookups.subnets[port.vsid]
    said = [""]

    def judge(question: Question) -> Ruling:
        asked = security.Asked(_LOOKS[question.direction], question.remote, question.protocol, question.number)
        judgement = security.evaluate(lookups, port, subnet, asked)
        said[0] = f", {security.says(judgement)}"
        if judgement.rule is not None:
            lookups.hits[judgement.rule.number] += 1
        return Ruling(judgement.allowed, 0 if judgement.rule is None else judgement.rule.number)

    stateful = security.is_stateful(lookups, port)
    decision = lookups.tracker.check(
        port.name, direction, ip, lookups.now_ns, judge,
        stateful=stateful, keep=security.keeps(lookups, port), arriving=port.arriving, leaving=port.leaving,
        peer=lambda remote: _peer(lookups, subnet, remote),
    )  # fmt: skip
    if decision.reason is DropReason.SECURITY_GROUP:
        lookups.denials[port.name, decision.rule] += 1
    steps.append(f"{_LOOKS[direction]} of {port.name}: {decision.why}{said[0]}")
    return decision.reason


def _peer(lookups: Lookups, subnet: Subnet, remote: bytes) -> Hashable:
    """Who is at the other end: by the port that policy places it at, whatever addresses it has, or that the way to it
    leads by; where policy knows none, by its address.
    """
    vsid, found = subnet.vsid, lookups.record(subnet.vsid, remote)
    if found is None and not packet.is_link_local6(remote):
        route = lookups.route(subnet.rdid, remote)
        if route is not None:
            vsid = route.vsid
            found = lookups.record(vsid, remote if route.next_hop is None else route.next_hop)
    return (subnet.vsid, remote) if found is None else (vsid, found.mac)
