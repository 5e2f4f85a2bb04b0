"""Small random security groups, whose rules meet each other and the packets that are asked of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network

from hypothesis import strategies as st

from weft.policy.rows import AddressGroup, Direction, SecurityGroup, SecurityRule

GROUPS = (1001, 1002, 1003)
ADDRESS_GROUPS = (2001, 2002)
PREFIXES = {
    4: ("0.0.0.0/0", "10.0.0.0/8", "10.0.1.0/24", "10.0.1.4/32", "10.0.1.0/30", "192.0.2.0/24"),
    6: ("::/0", "fd00::/8", "fd00:1::/64", "fd00:1::4/128", "2001:db8::/32", "2001:db8:1::/64"),
}
ADDRESSES = (
    *(f"10.0.1.{number}" for number in (2, 3, 4, 5, 9)),
    "10.9.9.9",
    "192.0.2.7",
    "198.51.100.1",
    *(f"fd00:1::{number}" for number in (3, 4, 5)),
    "2001:db8::1",
)
PORTS = (0, 1, 22, 53, 79, 80, 81, 443, 1023, 1024, 8 << 8, 3 << 8 | 3, 3 << 8 | 4, 128 << 8, 65_535)
PROTOCOLS = (1, 6, 17, 47, 58, 132)


@st.composite
def rules(draw: st.DrawFn, number: int, group: int) -> SecurityRule:
    version = draw(st.sampled_from((4, 4, 6)))
    protocol = draw(st.none() | st.sampled_from(PROTOCOLS))
    first, last = sorted(draw(st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS))))
    if protocol in {None, 47} or draw(st.booleans()):
        first, last = 0, 65_535
    match draw(st.integers(0, 3)):
        case 0:
            remote = {"remote_prefix": draw(st.sampled_from(PREFIXES[version]))}
        case 1:
            remote = {"remote_group": draw(st.sampled_from(GROUPS))}
        case 2:
            remote = {"remote_addresses": draw(st.sampled_from(ADDRESS_GROUPS))}
        case _:
            remote = {}
    return SecurityRule(
        number,
        f"tenants/blue/security-groups/g{group}/rules/r{number}",
        draw(st.sampled_from(Direction)),
        version,
        protocol,
        first,
        last,
        allow=draw(st.booleans() | st.just(True)),
        priority=draw(st.sampled_from((0, 0, 1, 7))),
        log=draw(st.booleans()),
        **remote,  # one of the three, each of its own type
    )


@st.composite
def groups(draw: st.DrawFn) -> tuple[SecurityGroup, ...]:
    """Of one port: all stateful, or none."""
    stateful = draw(st.booleans() | st.just(True))
    found = []
    for number in draw(st.lists(st.sampled_from(GROUPS), unique=True, max_size=3)):
        several = [draw(rules(number * 10 + rank, number)) for rank in range(draw(st.integers(0, 6)))]
        found.append(
            SecurityGroup(
                number, f"tenants/blue/security-groups/g{number}", stateful, tuple(several), draw(st.booleans())
            )
        )
    return tuple(sorted(found, key=lambda group: group.number))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[tuple[AddressGroup, ...], dict[int, SecurityGroup]]:
    """Groups that many ports may have, by number; one of them may be stateless."""
    found = {}
    for number in GROUPS:
        several = [draw(rules(number * 10 + rank, number)) for rank in range(draw(st.integers(0, 5)))]
        # Where nothing may leave nothing comes: most let everything out, as a default group does.
        for version in draw(st.sampled_from(((4, 6), (4, 6), (4,), ()))):
            rank, name = number * 10 + version + 3, f"tenants/blue/security-groups/g{number}/rules/out{version}"
            several.append(SecurityRule(rank, name, Direction.EGRESS, version))
            if draw(st.booleans()):
                member, name = draw(st.none() | st.sampled_from(GROUPS)), name.replace("out", "in")
                several.append(SecurityRule(rank + 1000, name, Direction.INGRESS, version, remote_group=member))
        stateful = number != GROUPS[-1] or draw(st.booleans())
        found[number] = SecurityGroup(number, f"tenants/blue/security-groups/g{number}", stateful, tuple(several))
    return draw(address_groups()), found


@st.composite
def of_port(draw: st.DrawFn, world: Mapping[int, SecurityGroup]) -> tuple[int, ...]:
    """Numbers of groups that one port may have together."""
    stateful = draw(st.booleans() | st.just(True))
    alike = [number for number, group in world.items() if group.stateful is stateful]
    chosen = draw(st.lists(st.sampled_from(alike), unique=True, max_size=3)) if alike else []
    return tuple(sorted(chosen))


@st.composite
def address_groups(draw: st.DrawFn) -> tuple[AddressGroup, ...]:
    every = (*PREFIXES[4], *PREFIXES[6])
    return tuple(
        AddressGroup(
            number,
            f"tenants/blue/address-groups/a{number}",
            tuple(draw(st.lists(st.sampled_from(every), unique=True, max_size=4))),
        )
        for number in draw(st.sampled_from((ADDRESS_GROUPS, ADDRESS_GROUPS[:1])))
    )


#: Which groups the ports of some addresses have.
memberships = st.dictionaries(
    st.sampled_from([address for address in ADDRESSES if address.startswith(("10.0.1.", "fd00:1:"))]),
    st.lists(st.sampled_from(GROUPS), unique=True).map(lambda numbers: tuple(sorted(numbers))),
)

packets = st.tuples(
    st.sampled_from(Direction),
    st.sampled_from(ADDRESSES).map(ip_address),
    st.sampled_from((*PROTOCOLS, 89)),
    st.sampled_from(PORTS) | st.integers(0, 65_535) | st.none(),
)


def decides(
    several: Iterable[SecurityGroup],
    named: Mapping[int, AddressGroup],
    bears: Iterable[int],
    direction: Direction,
    address: str,
    protocol: int,
    number: int | None,
) -> SecurityRule | None:
    """As OpenStack says it: what some rule allows, unless an operator's rule of higher or equal standing denies.

    bears: the groups of the address's port. number: of the port, or the ICMP type and code.
    """
    remote = ip_address(address)

    def concerns(rule: SecurityRule) -> bool:
        if rule.direction != direction or rule.version != remote.version:
            return False
        if rule.protocol is not None and rule.protocol != protocol:
            return False
        if (rule.first, rule.last) != (0, 65_535) and (
            number is None or number not in range(rule.first, rule.last + 1)
        ):
            return False
        if rule.remote_prefix:
            return remote in ip_network(rule.remote_prefix)
        if rule.remote_group:
            return rule.remote_group in bears
        if rule.remote_addresses:
            group = named.get(rule.remote_addresses)
            return group is not None and any(remote in ip_network(prefix) for prefix in group.prefixes)
        return True

    concerned = [rule for group in several for rule in group.rules if concerns(rule)]
    for standing in sorted({rule.priority for rule in concerned}, reverse=True):
        equals = [rule for rule in concerned if rule.priority == standing]
        denying = [rule for rule in equals if not rule.allow]
        return min(denying or equals, key=lambda rule: rule.number)
    return None
