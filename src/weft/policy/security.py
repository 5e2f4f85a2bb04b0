"""Security groups' rules as look-ups that cost the same however many rules there are. Knows neither maps nor packets.

What a port's groups say, in one direction and of one IP version, is a *policy*: two longest-prefix maps.

- *Classes*: an address to the class of it, which stands for all the rules whose prefixes hold it; no match: class 0.
- *Rules*: (remote, protocol, port) to the rule that decides. The remote is ``ANYBODY``, or a class, or an identity: a
  number that a host gives to each set of security groups that its records bear, of those that rules there name at
  all. Ports match by prefix.

A packet is asked of as: anybody, its class (unless 0), its identity (unless it has none), each with its protocol and
with ``ANY_PROTOCOL``: two to six look-ups, and of what they find the rule that ``precedes`` all others. A packet that
has no port (ICMP: type and code) is asked of with no bit of it, and finds the rules that do not ask for one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import NamedTuple

from weft.policy.rows import PORT_LAST, AddressGroup, Direction, SecurityGroup, SecurityRule

ANYBODY = 0  #: the remote of a rule that names none
IDENTITIES = 1 << 31  #: identities as remotes are numbers from here on; below it are classes
ANY_PROTOCOL = 0  #: no rule is of protocol 0 (IPv6's hop-by-hop options are an extension header)

_PORT_BITS = 16


class Match(NamedTuple):
    """A key of the rules' map: ``length`` bits of the port count, from the highest."""

    remote: int
    protocol: int
    port: int
    length: int


class Prefix(NamedTuple):
    """A key of the classes' map: ``length`` bits of the address count, from the highest."""

    address: bytes
    length: int


@dataclass(frozen=True, slots=True)
class Policy:
    """What a port's groups say in one direction and of one IP version, but for what they say of identities."""

    classes: Mapping[Prefix, int]
    rules: Mapping[Match, SecurityRule]


def precedence(rule: SecurityRule) -> tuple[int, bool, int]:
    """The least decides: the highest priority, one that denies, the lowest number."""
    return -rule.priority, rule.allow, rule.number


def compile_policy(
    groups: Iterable[SecurityGroup], address_groups: Mapping[int, AddressGroup], direction: Direction, version: int
) -> Policy:
    """address_groups: by number, those that the rules name; one that is not there has no prefixes."""
    everybody: list[SecurityRule] = []
    by_prefix: dict[Prefix, list[SecurityRule]] = {}
    for rule in _rules(groups, direction, version):
        prefixes = _remote_prefixes(rule, address_groups)
        if prefixes is None:
            if rule.remote_group is None:
                everybody.append(rule)
            continue
        for prefix in prefixes:
            by_prefix.setdefault(prefix, []).append(rule)
    everybody += by_prefix.pop(Prefix(bytes(4 if version == 4 else 16), 0), ())
    classes, members = _classes(by_prefix)
    rules = dict(_matches(ANYBODY, everybody))
    for number, some in members.items():
        rules.update(_matches(number, some))
    return Policy(classes, rules)


def compile_identity(
    groups: Iterable[SecurityGroup], direction: Direction, version: int, identity: int, bears: Collection[int]
) -> Mapping[Match, SecurityRule]:
    """What a policy's groups say of addresses whose records bear these security groups (by number).

    identity: the host's number of this set, from 1 on. Empty when no rule names one of them.
    """
    named = (rule for rule in _rules(groups, direction, version) if rule.remote_group in bears)
    return dict(_matches(IDENTITIES + identity, named))


def remote_groups(groups: Iterable[SecurityGroup]) -> frozenset[int]:
    """The security groups that rules of these name: of an identity that bears none of them nothing is said."""
    return frozenset(rule.remote_group for group in groups for rule in group.rules if rule.remote_group is not None)


def told_apart(bears: Collection[int], names: Collection[int]) -> tuple[int, ...]:
    """What makes an identity of the groups that a record bears, where rules name these; rising. None: it has none.

    So there are no more identities than sets of groups that are named, however many groups there are.
    """
    return tuple(sorted(group for group in bears if group in names))


def names_groups(groups: Iterable[SecurityGroup], direction: Direction, version: int) -> bool:
    """Whether it matters to these, in this direction and version, which groups an address bears."""
    return any(rule.remote_group is not None for rule in _rules(groups, direction, version))


def _rules(groups: Iterable[SecurityGroup], direction: Direction, version: int) -> Iterator[SecurityRule]:
    for group in groups:
        for rule in group.rules:
            if rule.direction is direction and rule.version == version:
                yield rule


def _remote_prefixes(rule: SecurityRule, address_groups: Mapping[int, AddressGroup]) -> Sequence[Prefix] | None:
    """Those of the rule's IP version; None: it names no prefixes."""
    if rule.remote_prefix is not None:
        named: tuple[str, ...] = (rule.remote_prefix,)
    elif rule.remote_addresses is not None:
        group = address_groups.get(rule.remote_addresses)
        named = () if group is None else group.prefixes
    else:
        return None
    return [_prefix(text) for text in dict.fromkeys(named) if (":" in text) == (rule.version == 6)]


def _prefix(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


def _classes(by_prefix: Mapping[Prefix, list[SecurityRule]]) -> tuple[dict[Prefix, int], dict[int, list[SecurityRule]]]:
    """The class of each prefix, and the rules of each class: those of the prefix, and of all that hold it.

    Prefixes with the same rules have one class; one that would have that of the prefix around it is left to it.
    """
    classes: dict[Prefix, int] = {}
    members: dict[int, list[SecurityRule]] = {}
    known: dict[frozenset[int], int] = {}
    around: list[tuple[Prefix, dict[int, SecurityRule], int]] = []
    for prefix in sorted(by_prefix):  # so a prefix comes right after those that hold it, and what they hold
        while around and not _holds(around[-1][0], prefix):
            around.pop()
        rules = dict(around[-1][1]) if around else {}
        rules.update((rule.number, rule) for rule in by_prefix[prefix])
        number = known.setdefault(frozenset(rules), len(known) + 1)
        members.setdefault(number, list(rules.values()))
        if not around or around[-1][2] != number:
            classes[prefix] = number
        around.append((prefix, rules, number))
    return classes, members


def _holds(outer: Prefix, inner: Prefix) -> bool:
    shift = len(outer.address) * 8 - outer.length
    number = int.from_bytes(outer.address, "big") ^ int.from_bytes(inner.address, "big")
    return outer.length <= inner.length and number >> shift == 0


def _matches(remote: int, rules: Iterable[SecurityRule]) -> Iterator[tuple[Match, SecurityRule]]:
    """For each prefix of ports that some rule asks for, the one that decides of all that hold it."""
    by_protocol: dict[int, dict[tuple[int, int], SecurityRule]] = {}
    for rule in rules:
        best = by_protocol.setdefault(rule.protocol or ANY_PROTOCOL, {})
        for place in port_prefixes(rule.first, rule.last):
            former = best.get(place)
            if former is None or precedence(rule) < precedence(former):
                best[place] = rule
    for protocol, best in by_protocol.items():
        for (port, length), rule in best.items():
            winner = rule
            for shorter in range(length):
                wider = best.get((port & _mask(shorter), shorter))
                if wider is not None and precedence(wider) < precedence(winner):
                    winner = wider
            yield Match(remote, protocol, port, length), winner


def _mask(length: int) -> int:
    return PORT_LAST >> (_PORT_BITS - length) << (_PORT_BITS - length)


def port_prefixes(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The fewest prefixes, as (port, length), that are together the range: at most 30."""
    while first <= last:
        size = first & -first or PORT_LAST + 1
        while size > last - first + 1:
            size >>= 1
        yield first, _PORT_BITS - size.bit_length() + 1
        first += size
