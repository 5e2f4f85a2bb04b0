"""What security groups say of a packet, by looking at every rule. Knows nothing of connections.

Docs: datapath.md, Security groups.
"""

from __future__ import annotations

from dataclasses import dataclass

from weft.policy import rows
from weft.policy.rows import Direction
from weft.reference import packet
from weft.reference.lookups import Lookups, Port, SecurityRule, Subnet


@dataclass(frozen=True, slots=True)
class Asked:
    """What rules look at. remote: the source of what comes to the guest, the destination of what it sends.

    port: the destination's; of ICMP, type << 8 | code; None: it has none, or none that could be read.
    """

    direction: Direction
    remote: bytes
    protocol: int
    port: int | None

    @property
    def version(self) -> int:
        return 4 if len(self.remote) == 4 else 6


@dataclass(frozen=True, slots=True)
class Judgement:
    """rule: the one that decided; None: none matched, and what nobody allows is denied.

    stateful: what answers an allowed packet passes, whatever rules say of it.
    """

    allowed: bool
    rule: rows.SecurityRule | None
    stateful: bool


def is_checked(port: Port) -> bool:
    """Whether anything is asked of the port's packets."""
    return port.port_security or bool(port.groups)


def is_stateful(lookups: Lookups, port: Port) -> bool:
    """All groups of a port are, or none; without any, answers pass, too."""
    groups = (lookups.security_groups.get(number) for number in port.groups)
    return all(group.stateful for group in groups if group is not None)


def keeps(lookups: Lookups, port: Port) -> bool:
    """Whether the port's connections outlive the rule that let them begin: when all of its groups say so."""
    groups = [lookups.security_groups.get(number) for number in port.groups]
    return bool(groups) and all(group is not None and group.keep for group in groups)


def evaluate(lookups: Lookups, port: Port, subnet: Subnet, asked: Asked) -> Judgement:
    """What the port's rules say of a packet that belongs to no connection yet. subnet: the port's."""
    stateful = is_stateful(lookups, port)
    if not port.groups:
        # What the guest does not begin does not come in.
        return Judgement(not port.port_security or asked.direction is Direction.EGRESS, None, stateful)
    bears = groups_of(lookups, subnet, asked.remote)
    matching = [
        rule.row
        for number in port.groups
        if (group := lookups.security_groups.get(number)) is not None
        for rule in group.rules
        if _matches(lookups, rule, asked, bears)
    ]
    # The highest priority; one that denies before one that allows; the lowest number.
    best = min(matching, key=lambda rule: (-rule.priority, rule.allow, rule.number), default=None)
    return Judgement(best is not None and best.allow, best, stateful)


def groups_of(lookups: Lookups, subnet: Subnet, address: bytes) -> tuple[int, ...]:
    """The security groups whose member has the address, as a port of the subnet sees it: those of its record.

    Behind a next hop nobody is a member: the record there is the router's.
    """
    found = lookups.record(subnet.vsid, address)
    if found is None and not packet.is_link_local6(address):
        route = lookups.route(subnet.rdid, address)
        if route is not None and route.next_hop is None:
            found = lookups.record(route.vsid, address)
    return () if found is None else found.groups


def _matches(lookups: Lookups, rule: SecurityRule, asked: Asked, bears: tuple[int, ...]) -> bool:
    row = rule.row
    if (row.direction, row.version) != (asked.direction, asked.version):
        return False
    if row.protocol not in {None, asked.protocol}:
        return False
    if asked.port is None:
        if (row.first, row.last) != (0, rows.PORT_LAST):
            return False
    elif not row.first <= asked.port <= row.last:
        return False
    if rule.remote is not None:
        return rule.remote.covers(asked.remote)
    if row.remote_group is not None:
        return row.remote_group in bears
    if row.remote_addresses is not None:
        return any(prefix.covers(asked.remote) for prefix in lookups.address_groups.get(row.remote_addresses, ()))
    return True


def says(judgement: Judgement) -> str:
    """For those who ask why."""
    if judgement.rule is None:
        return "no rule speaks of it" if not judgement.allowed else "nothing is asked of it"
    return f"{judgement.rule.name} {'allows' if judgement.allowed else 'denies'} it"
