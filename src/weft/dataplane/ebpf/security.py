"""Security groups as entries of the programs' maps. Pure: knows neither the kernel nor what is programmed."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag

from weft.dataplane.ebpf import layout
from weft.policy.rows import Direction, SecurityRule
from weft.policy.security import ANY_PROTOCOL, IDENTITIES, Match, Policy

#: Policies that have no entries; those that have are numbers from 2 on.
NOTHING, EVERYTHING = 0, 1
#: IDENTITY_UNKNOWN: of records of which rules do not say what they should; who names groups denies them.
UNKNOWN = 0x7FFFFFFF
#: Bits of a key before the prefix itself: the policy; policy, remote, protocol and padding.
_CLASS_BITS, _RULE_BITS = 32, 80
_ALLOW, _LOG = 1, 2  # RULE_*
_ABOVE_ALL = 2**31 - 1
_MAPPED = bytes(10) + b"\xff\xff"
#: In which order a guard has them.
LOOKS = tuple((direction, version) for direction in (Direction.EGRESS, Direction.INGRESS) for version in (4, 6))


class Flag(IntFlag):
    """GUARD_*."""

    STATELESS = 1
    KEEP = 2
    ARRIVING = 4
    LEAVING = 8
    PARTIAL = 16


def guard(port: str, vsid: int, policies: Mapping[tuple[Direction, int], int], flags: Flag) -> bytes:
    """Value of the map guards. policies: their numbers, by direction and version."""
    numbers = (policies[look] for look in LOOKS)
    return layout.GUARD.pack(layout.port_number(port), *numbers, flags, vsid, layout.tenant_number(port))


def partial(guard: bytes, *, partial: bool) -> bytes:
    """The same rules; whether there are records of which nothing says whose they are."""
    *before, flags, vsid, tenant = layout.GUARD.unpack(guard)
    return layout.GUARD.pack(*before, flags & ~Flag.PARTIAL | (Flag.PARTIAL if partial else 0), vsid, tenant)


def policies_of(guard: bytes) -> tuple[int, ...]:
    """The numbers of those that a guard names."""
    _, *numbers, _, _, _ = layout.GUARD.unpack(guard)
    return tuple(numbers)


def classes(number: int, policy: Policy) -> dict[bytes, bytes]:
    """Entries of the map classes."""
    found = {}
    for prefix, of in policy.classes.items():
        address, length = prefix
        if len(address) == 4:
            address, length = _MAPPED + address, length + 96
        found[layout.CLASS_KEY.pack(_CLASS_BITS + length, number, address)] = layout.NUMBER.pack(of)
    return found


def rules(number: int, matches: Mapping[Match, SecurityRule]) -> dict[bytes, bytes]:
    """Entries of the map rules."""
    return {
        layout.RULE_KEY.pack(
            _RULE_BITS + match.length, number, match.remote, match.protocol, 0, match.port.to_bytes(2, "big")
        ): layout.RULING.pack(rule.number, rule.priority, (_ALLOW if rule.allow else 0) | (_LOG if rule.log else 0))
        for match, rule in matches.items()
    }


def denies_unknown(number: int) -> dict[bytes, bytes]:
    """The entry of the map rules by which a policy that names groups denies those whose groups are not known."""
    key = layout.RULE_KEY.pack(_RULE_BITS, number, IDENTITIES | UNKNOWN, ANY_PROTOCOL, 0, bytes(2))
    return {key: layout.RULING.pack(0, _ABOVE_ALL, 0)}
