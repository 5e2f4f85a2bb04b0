"""What is compiled for data planes says what the reference says, which is what OpenStack's rules mean."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from strategies import security as some
from weft.policy import security
from weft.policy.rows import AddressGroup, Direction, Port, Record, Route, SecurityGroup, SecurityRule, Subnet
from weft.reference import packet
from weft.reference import security as reference
from weft.reference.lookups import Lookups

RDID = "0b1e0000-0000-4000-8000-000000000001"
VSID, ROUTER = 5001, "02:57:45:46:54:01"
MAC = "02:00:00:00:01:04"
NAME = "tenants/blue/ports/web"
Address = IPv4Address | IPv6Address


def told(
    groups: tuple[SecurityGroup, ...],
    address_groups: tuple[AddressGroup, ...],
    members: dict[str, tuple[int, ...]],
    *,
    port_security: bool,
) -> Lookups:
    lookups = Lookups("hosts/h1")
    prefixes = ("10.0.1.0/24", "fd00:1::/64")
    lookups.put(Subnet(VSID, RDID, prefixes, ("10.0.1.1", "fd00:1::1"), ROUTER, 0))
    for prefix in prefixes:
        lookups.put(Route(RDID, prefix, VSID))
    # Everybody else is behind a router whose groups are its own.
    lookups.put(Route(RDID, "0.0.0.0/0", VSID, "10.0.1.9"))
    for address, bears in members.items():
        lookups.put(Record(VSID, address, "192.0.2.11", MAC, groups=bears))
    for row in (*address_groups, *groups):
        lookups.put(row)
    numbers = tuple(group.number for group in groups)
    lookups.put(Port(NAME, VSID, MAC, ("10.0.1.4",), groups=numbers, port_security=port_security or bool(numbers)))
    return lookups


@given(
    some.groups(),
    some.address_groups(),
    some.memberships,
    st.booleans(),
    st.lists(some.packets, min_size=1, max_size=20),
)
def test_compiled_rules_and_the_reference_and_openstack_agree(
    groups: tuple[SecurityGroup, ...],
    address_groups: tuple[AddressGroup, ...],
    members: dict[str, tuple[int, ...]],
    port_security: bool,
    packets: list[tuple[Direction, Address, int, int | None]],
) -> None:
    lookups = told(groups, address_groups, members, port_security=port_security)
    port, subnet = lookups.port(NAME), lookups.subnets[VSID]
    assert port is not None
    names = security.remote_groups(groups)
    apart = {bears: security.told_apart(bears, names) for bears in members.values()}
    identities = {each: rank for rank, each in enumerate(sorted(set(apart.values()) - {()}), 1)}
    assert len(identities) < 1 << len(names)
    by_number = {group.number: group for group in address_groups}
    for direction, remote, protocol, number in packets:
        judged = reference.evaluate(lookups, port, subnet, reference.Asked(direction, remote.packed, protocol, number))
        bears = members.get(str(remote), ())
        assert judged.rule == some.decides(groups, by_number, bears, direction, str(remote), protocol, number)
        if groups:
            policy = security.compile_policy(groups, by_number, direction, remote.version)
            rules = dict(policy.rules)
            for each, identity in identities.items():
                rules |= security.compile_identity(groups, direction, remote.version, identity, each)
            found = look_up(policy, rules, identities.get(apart.get(bears, ()), 0), remote, protocol, number)
            assert found == judged.rule
            assert judged.allowed == (judged.rule is not None and judged.rule.allow)
        else:
            assert judged.rule is None
            assert judged.allowed == (direction is Direction.EGRESS or not port_security)


def look_up(
    policy: security.Policy,
    rules: dict[security.Match, SecurityRule],
    identity: int,
    remote: Address,
    protocol: int,
    port: int | None,
) -> SecurityRule | None:
    """As a data plane does: at most six look-ups of the longest match."""
    number, bits = int(remote), remote.max_prefixlen
    here = (
        policy.classes.get(
            security.Prefix((number >> bits - length << bits - length).to_bytes(bits // 8, "big"), length)
        )
        for length in range(bits, 0, -1)
    )
    of_class = next((found for found in here if found is not None), 0)
    remotes = [
        security.ANYBODY,
        *([of_class] if of_class else []),
        *([security.IDENTITIES + identity] * bool(identity)),
    ]
    found = []
    for each in remotes:
        for kind in (protocol, security.ANY_PROTOCOL):
            for length in range(16 if port is not None else 0, -1, -1):
                masked = (port or 0) >> 16 - length << 16 - length
                if (rule := rules.get(security.Match(each, kind, masked, length))) is not None:
                    found.append(rule)
                    break
    return min(found, key=security.precedence, default=None)


@given(st.integers(0, 65_535), st.integers(0, 65_535))
def test_a_range_of_ports_is_the_prefixes_that_it_becomes(one: int, other: int) -> None:
    first, last = sorted((one, other))
    prefixes = list(security.port_prefixes(first, last))
    covered = [port for start, length in prefixes for port in range(start, start + (1 << 16 - length))]
    assert covered == list(range(first, last + 1))
    assert len(prefixes) <= 30


def test_addresses_whose_rules_are_the_same_are_one_class() -> None:
    several = tuple(f"10.0.{number}.0/24" for number in range(200))
    rule = SecurityRule(1, "r", Direction.INGRESS, 4, remote_addresses=7)
    group = SecurityGroup(2, "g", rules=(rule,))
    policy = security.compile_policy([group], {7: AddressGroup(7, "a", several)}, Direction.INGRESS, 4)
    assert len(policy.classes) == 200
    assert set(policy.classes.values()) == {1}
    assert policy.rules == {security.Match(1, security.ANY_PROTOCOL, 0, 0): rule}


def test_the_reference_finds_members_behind_no_router() -> None:
    lookups = told((), (), {"10.0.1.9": (1001,)}, port_security=True)
    subnet = lookups.subnets[VSID]
    assert reference.groups_of(lookups, subnet, packet.address_bytes("10.0.1.9")) == (1001,)
    assert reference.groups_of(lookups, subnet, packet.address_bytes("192.0.2.7")) == ()
