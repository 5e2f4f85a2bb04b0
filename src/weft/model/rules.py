"""How a virtual subnet changes over from one rule to another, and which may not be side by side. Never waits.

Make before break: first every receiver takes the wanted rule beside the others, then every sender uses it, then no
receiver takes any other. Each step is an ordinary change of the subnet; somebody who sees when hosts have it asks for
the next one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import assert_never

from weft.model.features import Rule
from weft.model.names import Name
from weft.model.objects import RuleChange, VirtualSubnet
from weft.model.values import VSID_LAST, Vsid

#: RFC 7637 3.2: the VSID is the upper 24 bits of NVGRE's key; the whole key is a GRE tunnel's id.
_FLOW_BITS = 8


class Phase(StrEnum):
    """Where a subnet is on the way to its rule."""

    SETTLED = "settled"  # sent and taken: the wanted rule and nothing else
    RECEIVERS = "receivers"  # hosts learn to take the wanted rule; none sends by it yet
    SENDERS = "senders"  # hosts begin to send by the wanted rule; others are still taken


def change(rule: Rule, sending: Rule, accepted: Iterable[Rule]) -> RuleChange | None:
    """What is said of a subnet that is to have ``rule``: the canonical form; None: it has it."""
    taken = {rule, sending, *accepted}
    if taken == {rule}:
        return None
    return RuleChange(sending, tuple(each for each in Rule if each in taken))


def phase(subnet: VirtualSubnet) -> Phase:
    if subnet.rule_change is None:
        return Phase.SETTLED
    return Phase.SENDERS if subnet.sending_rule is subnet.rule else Phase.RECEIVERS


def next_step(subnet: VirtualSubnet) -> RuleChange:
    """What comes next, once every host does what is said now."""
    match phase(subnet):
        case Phase.RECEIVERS:
            return RuleChange(subnet.rule, subnet.accepted_rules)
        case Phase.SENDERS | Phase.SETTLED:
            return RuleChange(subnet.rule, (subnet.rule,))
        case never:
            assert_never(never)


def confused_with(
    vsid: Vsid, accepts: Collection[Rule], vsids: Mapping[Vsid, Name], subnets: Mapping[Name, VirtualSubnet]
) -> Name | None:
    """A subnet whose packets could be taken for those of one that has this VSID; None: there is none.

    GRE's key is the VSID, NVGRE's is the VSID and 8 bits more, and nothing else tells the two apart: a GRE packet of
    VSID v reads as an NVGRE packet of VSID v >> 8.
    """
    if Rule.GRE in accepts:
        holder = vsids.get(Vsid(vsid >> _FLOW_BITS))
        if holder is not None and Rule.NVGRE in subnets[holder].carried_rules:
            return holder
    if Rule.NVGRE in accepts and vsid <= VSID_LAST >> _FLOW_BITS:
        for key in range(vsid << _FLOW_BITS, (vsid + 1) << _FLOW_BITS):
            holder = vsids.get(Vsid(key))
            if holder is not None and Rule.GRE in subnets[holder].carried_rules:
                return holder
    return None
