"""From objects, as the API has them, to what a port may send and get while members come and go: OpenStack's word."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
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
PORTS = range(4)
NUMBERS = {"tcp": 6, "udp": 17, "icmp": 1, 47: 47}

#: A rule as the API has it.
rules = st.fixed_dictionaries(
    {"direction": st.sampled_from(("ingress", "egress"))},
    optional={
        "of": st.one_of(
            st.sampled_from(({"protocol": "icmp"}, {"protocol": "icmp", "icmp_type": 8}, {"protocol": 47})),
            st.tuples(st.sampled_from(("tcp", "udp")), st.sampled_from(((22, 22), (20, 80), (80, None)))).map(
                lambda of: {"protocol": of[0], "port_min": of[1][0], "port_max": of[1][1]}
            ),
        ),
        "remote": st.one_of(
            st.sampled_from(GROUPS).map(lambda name: {"remote_group": name}),
            st.sampled_from(("10.0.1.0/24", "10.0.2.0/30", "0.0.0.0/0")).map(lambda text: {"remote_prefix": text}),
        ),
    },
).map(lambda of: {"direction": of["direction"], **of.get("of", {}), **of.get("remote", {})})

changes = st.one_of(
    st.tuples(st.just("port"), st.sampled_from(PORTS), st.sets(st.sampled_from(GROUPS)), st.sampled_from(("h1", "h2"))),
    st.tuples(st.just("rule"), st.sampled_from(range(3)), st.sampled_from(GROUPS), rules),
    st.tuples(st.just("gone"), st.sampled_from(PORTS)),
    st.tuples(st.just("revoked"), st.sampled_from(range(3)), st.sampled_from(GROUPS)),
)
packets = st.sampled_from((("tcp", 22), ("tcp", 80), ("udp", 53), ("icmp", 8 << 8), ("icmp", 0), (47, None)))


def says(
    spec: dict[str, Any], direction: str, protocol: str | int, number: int | None, peer: str, of: set[str]
) -> bool:
    """Whether OpenStack lets it pass by the rule. of: the groups of the peer's port."""
    if spec["direction"] != direction or spec.get("protocol", protocol) != protocol:
        return False
    if "icmp_type" in spec and (number is None or number >> 8 != spec["icmp_type"]):
        return False
    if "port_min" in spec:
        last = spec["port_min"] if spec["port_max"] is None else spec["port_max"]
        if number is None or not spec["port_min"] <= number <= last:
            return False
    if "remote_group" in spec:
        return spec["remote_group"] in of
    return "remote_prefix" not in spec or ip_address(peer) in ip_network(spec["remote_prefix"])


@examples(60)
@given(st.lists(changes, min_size=4, max_size=16), st.lists(packets, min_size=1, max_size=3))
def test_what_passes_is_what_openstack_lets_pass_while_members_come_go_and_move(
    steps: list[tuple[Any, ...]], asked: list[tuple[str | int, int | None]]
) -> None:
    catalog = two_tenants(ABLE)
    compiler = Compiler(catalog)
    groups = {name: f"tenants/blue/security-groups/{name}" for name in GROUPS}
    compiler.apply(catalog.apply([drafts.SecurityGroup(name) for name in groups.values()]))
    bears: dict[int, set[str]] = {}
    at: dict[int, str] = {}
    said: dict[tuple[int, str], dict[str, Any]] = {}
    for step in steps:
        match step:
            case ("port", n, several, where):
                bears[n], at[n] = several, where
                subnet = "prod/web" if n < 2 else "prod/db"
                done = catalog.apply([port(f"blue/p{n}", subnet, host=where, security_groups=tuple(sorted(several)))])
            case ("rule", n, group, spec):
                said[n, group] = spec
                done = catalog.apply([drafts.SecurityGroupRule(f"{groups[group]}/rules/r{n}", **spec)])
            case ("gone", n) if bears.pop(n, None) is not None:
                done = catalog.apply([], [f"tenants/blue/ports/p{n}"])
            case ("revoked", n, group) if said.pop((n, group), None) is not None:
                done = catalog.apply([], [f"{groups[group]}/rules/r{n}"])
            case _:
                continue
        compiler.apply(done)
        addresses = {
            n: next(a for a in catalog.ports[Name(f"tenants/blue/ports/p{n}")].addresses if "." in a) for n in bears
        }
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
            for peer, address in addresses.items():
                for protocol, number in asked:
                    for direction in Direction:
                        question = security.Asked(direction, ip_address(address).packed, NUMBERS[protocol], number)
                        judged = security.evaluate(lookups, found, lookups.subnets[found.vsid], question)
                        assert judged.allowed == any(
                            says(spec, direction.value, protocol, number, address, bears[peer])
                            for (_, group), spec in said.items()
                            if group in own
                        ), (step, n, peer, protocol, number, direction)
