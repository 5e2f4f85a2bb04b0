"""From objects, as the API has them, to what a port may send and get while members come and go: OpenStack's word."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from budget import examples
from strategies.intents import ABLE, port, two_tenants
from weft.compiler.compiler import Compiler
from weft.model import drafts
from weft.model.names import Name
from weft.policy.rows import Direction
from weft.reference import security
from weft.reference.lookups import Lookups

GROUPS = ("a", "b")
OPERATORS = ("ops",)
ADDRESSES = "named"
PORTS = range(4)
NUMBERS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "sctp": 132, "any": None}
PREFIXES = {
    "ipv4": ("10.0.1.0/24", "10.0.2.0/30", "0.0.0.0/0", "10.0.1.2/32"),
    "ipv6": ("fd00:1::/64", "::/0", "fd00:1::2/128", "2001:db8::/32"),
}


@st.composite
def rules(draw: st.DrawFn, *, operator: bool = False) -> dict[str, Any]:
    """A rule as the API has it. Of an operator's group it may deny, and say how it stands to others."""
    family = draw(st.sampled_from(("ipv4", "ipv4", "ipv6")))
    icmp = "icmp" if family == "ipv4" else "icmpv6"
    asks = 8 if family == "ipv4" else 128
    spec: dict[str, Any] = {"direction": draw(st.sampled_from(("ingress", "egress")))}
    if family == "ipv6" or draw(st.booleans()):
        spec["family"] = family
    of: dict[str, Any] = draw(
        st.one_of(
            st.sampled_from(
                (
                    {},
                    {"protocol": "any"},
                    {"protocol": icmp},
                    {"protocol": str(NUMBERS[icmp]), "icmp_type": asks},
                    {"protocol": icmp, "icmp_type": 3},
                    {"protocol": NUMBERS[icmp], "icmp_type": 3, "icmp_code": 4},
                    {"protocol": icmp, "icmp_type": 0},
                    {"protocol": 47},
                    {"protocol": "47"},
                    {"protocol": "tcp"},
                    {"protocol": "SCTP", "port_min": 5000},
                )
            ),
            st.tuples(
                st.sampled_from(("tcp", "udp", 17, 33)),
                st.sampled_from(((22, 22), (20, 80), (80, None), (0, 0), (0, 65_535), (1, 65_535), (23, 8080))),
            ).map(lambda of: {"protocol": of[0], "port_min": of[1][0], "port_max": of[1][1]}),
        )
    )
    remote: dict[str, Any] = draw(
        st.one_of(
            st.just({}),
            st.sampled_from(GROUPS).map(lambda name: {"remote_group": name}),
            st.sampled_from(PREFIXES[family]).map(lambda text: {"remote_prefix": text}),
            st.just({"remote_address_group": ADDRESSES}),
        )
    )
    standing: dict[str, Any] = {}
    if operator:
        if draw(st.booleans()):  # of everybody and everything, so that several speak of one packet
            of, remote = {}, {}
        standing["action"] = draw(st.sampled_from(("deny", "allow")))
        standing |= draw(st.sampled_from(({}, {"priority": 0}, {"priority": 7}, {"priority": 65_535})))
    return {**spec, **of, **remote, **standing}


changes = st.one_of(
    st.tuples(
        st.just("port"),
        st.sampled_from(PORTS),
        st.sets(st.sampled_from(GROUPS)),
        st.sets(st.sampled_from(OPERATORS)),
        st.sampled_from(("h1", "h2")),
    ),
    st.tuples(st.just("rule"), st.sampled_from(range(3)), st.sampled_from(GROUPS), rules()),
    st.tuples(st.just("rule"), st.sampled_from(range(3)), st.sampled_from(OPERATORS), rules(operator=True)),
    st.tuples(st.just("gone"), st.sampled_from(PORTS)),
    st.tuples(st.just("revoked"), st.sampled_from(range(3)), st.sampled_from((*GROUPS, *OPERATORS))),
    st.tuples(st.just("named"), st.sets(st.sampled_from((*PREFIXES["ipv4"], *PREFIXES["ipv6"])))),
)
#: Protocol and what its rules may ask for: the port, or type and code of ICMP; None: it has neither.
PACKETS = (
        *((protocol, port) for protocol in (6, 17, 33) for port in (0, 22, 23, 53, 80, 81, 65_535)),
        (132, 5000), (132, 5001),
        *((1, kind << 8 | code) for kind, code in ((8, 0), (8, 5), (0, 0), (3, 4), (3, 3))),
        *((58, kind << 8 | code) for kind, code in ((128, 0), (128, 5), (0, 0), (3, 4), (3, 3))),
        (47, None), (50, None),
)  # fmt: skip


def concerns(
    spec: dict[str, Any], direction: str, protocol: int, number: int | None, peer: str, of: set[str], named: set[str]
) -> bool:
    """Whether a rule speaks of a packet, as OpenStack says it. of: the groups of the peer's port."""
    remote = ip_address(peer)
    if spec["direction"] != direction or spec.get("family", "ipv4") != f"ipv{remote.version}":
        return False
    if (said := spec.get("protocol")) is not None:
        meant = NUMBERS.get(str(said).lower()) if not str(said).isdecimal() else int(said)
        if meant not in {None, protocol}:
            return False
    if "icmp_type" in spec and (number is None or number >> 8 != spec["icmp_type"]):
        return False
    if "icmp_code" in spec and (number is None or number & 255 != spec["icmp_code"]):
        return False
    if "port_min" in spec:
        last = spec["port_min"] if spec.get("port_max") is None else spec["port_max"]
        if number is None or not spec["port_min"] <= number <= last:
            return False
    if "remote_group" in spec:
        return spec["remote_group"] in of
    prefixes = {spec["remote_prefix"]} if "remote_prefix" in spec else named if "remote_address_group" in spec else None
    return prefixes is None or any(
        remote in network for network in map(ip_network, prefixes) if network.version == remote.version
    )


def passes(concerned: list[tuple[str, dict[str, Any]]]) -> bool:
    """What some rule allows, unless an operator's denies it that stands as high, or higher. (group, rule)"""
    standing = [
        (spec.get("priority", 100 if group in OPERATORS else 0), spec.get("action") != "deny")
        for group, spec in concerned
    ]
    highest = max((priority for priority, _ in standing), default=None)
    return highest is not None and all(allows for priority, allows in standing if priority == highest)


@examples(60)
@given(
    st.booleans(),
    st.lists(rules(operator=True), min_size=3, max_size=3),
    st.lists(changes, min_size=4, max_size=12),
    st.lists(st.sampled_from(PACKETS), min_size=1, max_size=2),
)
def test_what_passes_is_what_openstack_lets_pass_while_members_come_go_and_move(
    opened: bool, ops: list[dict[str, Any]], steps: list[tuple[Any, ...]], some: list[tuple[int, int | None]]
) -> None:
    catalog = two_tenants(ABLE)
    compiler = Compiler(catalog)
    groups = {name: f"tenants/blue/security-groups/{name}" for name in (*GROUPS, *OPERATORS)}
    named: set[str] = set()
    compiler.apply(
        catalog.apply(
            [
                drafts.AddressGroup(f"tenants/blue/address-groups/{ADDRESSES}", ()),
                *(drafts.SecurityGroup(name, operator=label in OPERATORS) for label, name in groups.items()),
            ]
        )
    )
    bears: dict[int, set[str]] = {}
    at: dict[int, str] = {}
    said: dict[tuple[int, str], dict[str, Any]] = {}
    begun: list[tuple[Any, ...]] = [("port", n, {"a"}, {"ops"}, ("h1", "h2")[n % 2]) for n in PORTS]
    begun += [("rule", n, "ops", spec) for n, spec in enumerate(ops)]
    if opened:  # else little passes, and nothing is left to deny
        begun += [
            ("rule", n, "a", {"direction": direction, "family": family})
            for n, (direction, family) in enumerate(product(("ingress", "egress"), ("ipv4", "ipv6")), 3)
        ]
    for rank, step in enumerate([*begun, *steps], 1):
        asked = PACKETS if rank == len(begun) + len(steps) else some
        match step:
            case ("port", n, several, operators, where):
                bears[n], at[n] = several | operators, where
                done = catalog.apply(
                    [
                        port(
                            f"blue/p{n}", "prod/web" if n < 2 else "prod/db", host=where,
                            security_groups=tuple(sorted(several)), operator_groups=tuple(sorted(operators)),
                        )
                    ]
                )  # fmt: skip
            case ("rule", n, group, spec):
                said[n, group] = spec
                done = catalog.apply([drafts.SecurityGroupRule(f"{groups[group]}/rules/r{n}", **spec)])
            case ("named", prefixes):
                named = prefixes
                done = catalog.apply(
                    [drafts.AddressGroup(f"tenants/blue/address-groups/{ADDRESSES}", tuple(sorted(named)))]
                )
            case ("gone", n) if bears.pop(n, None) is not None:
                done = catalog.apply([], [f"tenants/blue/ports/p{n}"])
            case ("revoked", n, group) if said.pop((n, group), None) is not None:
                done = catalog.apply([], [f"{groups[group]}/rules/r{n}"])
            case _:
                continue
        compiler.apply(done)
        addresses = {n: catalog.ports[Name(f"tenants/blue/ports/p{n}")].addresses for n in bears}
        hosts = {name: Lookups(f"hosts/{name}") for name in {at[n] for n in bears}}
        for name, lookups in hosts.items():
            for scope in compiler.scopes_of(Name(f"hosts/{name}")):
                for row in compiler.rows(scope).values():
                    lookups.put(row)
        for n, own in bears.items():
            if not own:
                continue
            lookups = hosts[at[n]]
            found = lookups.port(f"tenants/blue/ports/p{n}")
            assert found is not None
            for peer, address in ((peer, address) for peer, several in addresses.items() for address in several):
                for protocol, number in asked:
                    for direction in Direction:
                        question = security.Asked(direction, ip_address(address).packed, protocol, number)
                        judged = security.evaluate(lookups, found, lookups.subnets[found.vsid], question)
                        assert judged.allowed == passes(
                            [
                                (group, spec)
                                for (_, group), spec in said.items()
                                if group in own
                                and concerns(spec, direction.value, protocol, number, address, bears[peer], named)
                            ]
                        ), (step, n, peer, address, protocol, number, direction)
