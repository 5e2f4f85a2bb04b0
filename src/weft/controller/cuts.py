"""Which connections a change would cut: whose rules it changes, and what their hosts say of it. Judges none itself.

Asked are only the hosts of ports whose rules change, and only of those ports. A host evaluates the rules as they would
be, by the reference, on what it has (agent/cuts.py); one that does not say so in time is named.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from weft.compiler.compiler import Compiler
from weft.controller.questions import Questions, Unanswered
from weft.model.catalog import Catalog, Change
from weft.model.names import Name, group_of, tenant_of
from weft.model.objects import AddressGroup, Port, SecurityGroup, SecurityGroupRule
from weft.policy.delta import ScopedDelta
from weft.policy.rows import Port as PortRow
from weft.policy.rows import Record, Row, address_group_scope, domain_scope, host_scope, security_group_scope
from weft.policy.rows import SecurityGroup as GroupRow
from weft.wire import cuts as wire
from weft.wire import feed

#: Until everybody has answered, or is said not to have.
PATIENCE_S = 6.0
#: Hosts that are asked at once.
AT_ONCE = 64

_decode = msgspec.json.Decoder(wire.Answer).decode


@dataclass(slots=True)
class _Asked:
    ports: dict[Name, None] = field(default_factory=dict)
    gone: dict[Name, None] = field(default_factory=dict)


def questions(
    catalog: Catalog, compiler: Compiler, changes: Sequence[Change], delta: ScopedDelta
) -> Mapping[Name, wire.Question]:
    """By host, what to ask. catalog and compiler: as they would be; delta: what the changes are in rows."""
    asked: dict[Name, _Asked] = {}
    was = {change.name: change.old for change in changes}
    for name in _whose_rules_change(catalog, changes):
        old, new = was.get(name, catalog.ports.get(name)), catalog.ports.get(name)
        if not isinstance(old, Port) or old.host is None or not (old.groups or old.port_security):
            continue  # nothing is known of what it has now
        of_host = asked.setdefault(old.host, _Asked())
        stays = new is not None and (old.host in new.hosts or old.destination in new.hosts)
        (of_host.ports if stays else of_host.gone)[name] = None
    return {host: _question(catalog, compiler, delta, host, of) for host, of in asked.items()}


def _whose_rules_change(catalog: Catalog, changes: Sequence[Change]) -> Iterable[Name]:
    groups: dict[Name, None] = {}
    members: set[Name] = set()  # groups of which somebody becomes, or is no longer, a member
    addresses: set[Name] = set()
    ports: dict[Name, None] = {}
    for change in changes:
        match change.old, change.new:
            case (SecurityGroupRule(), _) | (_, SecurityGroupRule()):
                groups[group_of(change.name)] = None
            case SecurityGroup(), SecurityGroup():
                groups[change.name] = None
            case (AddressGroup(), _) | (_, AddressGroup()):
                addresses.add(change.name)
            case (Port(), _) | (_, Port()):
                old, new = (each if isinstance(each, Port) else None for each in (change.old, change.new))
                if _rules_of(old) != _rules_of(new) or (old is not None and _left(old, new)):
                    ports[change.name] = None
                if _addresses_of(old) != _addresses_of(new):
                    members.update(old.groups if old else (), new.groups if new else ())
            case _:
                pass
    if members or addresses:
        tenants = {tenant_of(name) for name in (*members, *addresses)}
        for name, rule in catalog.security_group_rules.items():
            named = rule.remote_group in members or rule.remote_address_group in addresses
            if named and tenant_of(name) in tenants:
                groups[group_of(name)] = None
    for group in groups:
        ports.update(dict.fromkeys(catalog.ports_with(group)))
    return ports


def _rules_of(port: Port | None) -> object:
    return None if port is None else (frozenset(port.groups), port.port_security)


def _addresses_of(port: Port | None) -> object:
    """What makes members of its groups of it."""
    if port is None:
        return None
    return frozenset(port.groups), port.virtual_subnet, port.addresses, port.announced_addresses


def _left(old: Port, new: Port | None) -> bool:
    return new is None or not {old.host, old.destination} & set(new.hosts)


def _question(catalog: Catalog, compiler: Compiler, delta: ScopedDelta, host: Name, asked: _Asked) -> wire.Question:
    frames: list[bytes] = []
    rows = compiler.rows(host_scope(host))
    own = [row for name in asked.ports if isinstance(row := rows.get(("ports", name)), PortRow)]
    if not own:
        # One that is moving has its row at its destination, too, which says the same of rules.
        own = [row for name in asked.ports for row in _elsewhere(catalog, compiler, name)]
    frames.append(feed.encode_rows(host_scope(host), own))
    numbers = {number for row in own for number in row.groups}
    addresses: set[int] = set()
    for number in sorted(numbers):
        scope = security_group_scope(number)
        found: list[Row] = list(compiler.rows(scope).values())
        frames.append(feed.encode_rows(scope, found))
        for group in found:
            if isinstance(group, GroupRow):
                addresses.update(rule.remote_addresses for rule in group.rules if rule.remote_addresses is not None)
    for number in sorted(addresses):
        scope = address_group_scope(number)
        frames.append(feed.encode_rows(scope, compiler.rows(scope).values()))
    for rdid in sorted({catalog.routing_domains[_domain_of(catalog, name)].rdid for name in asked.ports}):
        if (change := delta.scopes.get(domain_scope(rdid))) is not None:
            puts = [row for row in change.puts if isinstance(row, Record)]
            deletes = [key for key in change.deletes if key[0] == "records"]
            if puts or deletes:
                frames.append(feed.encode_rows(domain_scope(rdid), puts, deletes))
    return wire.Question(list(asked.ports), list(asked.gone), [frame.decode().rstrip("\n") for frame in frames])


def _elsewhere(catalog: Catalog, compiler: Compiler, name: Name) -> Iterable[PortRow]:
    for host in catalog.ports[name].hosts:
        if isinstance(row := compiler.rows(host_scope(host)).get(("ports", name)), PortRow):
            yield row
            return


def _domain_of(catalog: Catalog, port: Name) -> Name:
    return Name(catalog.ports[port].virtual_subnet.partition("/virtual-subnets/")[0])


async def ask(questions_: Questions, asked: Mapping[Name, wire.Question]) -> wire.Cuts:
    """What hosts say, and who has said nothing."""
    enough = asyncio.Semaphore(AT_ONCE)

    async def one(host: Name, question: wire.Question) -> wire.Answer | wire.Unanswered:
        ports = [*question.ports, *question.gone]
        try:
            async with enough:
                answer = await questions_.ask(host, "cuts", question, timeout_s=PATIENCE_S)
            found = _decode(answer)
        except Unanswered as fault:
            return wire.Unanswered(ports=ports, reason=str(fault), host=host)
        except msgspec.DecodeError as fault:
            return wire.Unanswered(ports=ports, reason=f"{host} has not answered as it should: {fault}", host=host)
        # It speaks for its own ports, whatever it says.
        known = set(ports)
        cut = [msgspec.structs.replace(each, host=host) for each in found.cut if each.port in known]
        return msgspec.structs.replace(found, cut=cut)

    said = await asyncio.gather(*(one(host, question) for host, question in asked.items()))
    answers = [each for each in said if isinstance(each, wire.Answer)]
    return wire.Cuts(
        connections=[each for answer in answers for each in answer.cut][: wire.MOST_TOLD],
        total=sum(answer.total for answer in answers),
        looked_at=sum(answer.looked_at for answer in answers),
        unjudged=sum(answer.unjudged for answer in answers),
        unanswered=[each for each in said if isinstance(each, wire.Unanswered)],
    )


def for_tenant(cuts: wire.Cuts) -> wire.Cuts:
    """Without where its ports are."""
    return msgspec.structs.replace(
        cuts,
        connections=[msgspec.structs.replace(each, host=None) for each in cuts.connections],
        unanswered=[
            wire.Unanswered(ports=each.ports, reason="the host of these ports has not answered")
            for each in cuts.unanswered
        ],
    )
