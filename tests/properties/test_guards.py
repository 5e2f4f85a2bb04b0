"""Whatever is put and goes, what a host has programmed says at every single write what some whole set of rows says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from strategies import security as some
from weft.policy import guards, security
from weft.policy.guards import Guard, Guards, Plan
from weft.policy.rows import AddressGroup, Direction, SecurityGroup, SecurityRule
from weft.policy.security import Match, Prefix

PORTS = ("tenants/blue/ports/a", "tenants/blue/ports/b")
MEMBERS = [address for address in some.ADDRESSES if address.startswith(("10.0.1.", "fd00:1:"))]
VSID = 5001
LOOKED_AT = [
    (direction, address, protocol, port)
    for direction in Direction
    for address in ("10.0.1.4", "10.0.1.9", "192.0.2.7", "fd00:1::4")
    for protocol, port in ((6, 80), (6, 443), (17, 1024), (1, 8 << 8), (47, None))
]
Says = dict[Any, Any]


class Kernel:
    """The maps, as a data plane writes them: one entry at a time."""

    def __init__(self) -> None:
        self.classes: dict[tuple[int, Prefix], int] = {}
        self.rules: dict[tuple[int, Match], SecurityRule] = {}
        self.identities: dict[str, int] = {}
        self.guards: dict[str, Guard] = {}

    def carry_out(self, plan: Plan) -> Iterator[str]:
        """Yields after each write."""
        for number, classes in plan.classes.items():
            for prefix, of in classes.items():
                assert (number, prefix) not in self.classes
                self.classes[number, prefix] = of
                yield "class"
        for number, rules in plan.rules.items():
            for match, one in rules.items():
                assert (number, match) not in self.rules
                self.rules[number, match] = one
                yield "rule"
        for (_, address), identity in plan.identities.items():
            if identity is None:
                del self.identities[address]
            else:
                self.identities[address] = identity
            yield "identity"
        for port, guard in plan.guards.items():
            if guard is None:
                del self.guards[port]
            else:
                self.guards[port] = guard
            yield f"guard of {port}"
        for number, prefixes in plan.gone_classes.items():
            for prefix in prefixes:
                del self.classes[number, prefix]
                yield "class gone"
        for number, matches in plan.gone_rules.items():
            for match in matches:
                del self.rules[number, match]
                yield "rule gone"

    def says(self, port: str) -> Says | None:
        guard = self.guards.get(port)
        return None if guard is None else {packet: self._judge(guard, *packet) for packet in LOOKED_AT}

    def _judge(self, guard: Guard, direction: Direction, address: str, protocol: int, port: int | None) -> Any:
        remote = IPv6Address(address) if ":" in address else IPv4Address(address)
        number = guard.policies[direction, remote.version]
        if number in (guards.NOTHING, guards.EVERYTHING):
            return number == guards.EVERYTHING, None
        bits = remote.max_prefixlen
        of_class = 0
        for length in range(bits + 1):
            masked = (int(remote) >> bits - length << bits - length).to_bytes(bits // 8, "big")
            of_class = self.classes.get((number, Prefix(masked, length)), of_class)
        remotes = {security.ANYBODY, of_class}
        if address in self.identities:
            remotes.add(security.IDENTITIES + self.identities[address])
        found = []
        for each in remotes:
            for kind in (protocol, security.ANY_PROTOCOL):
                for length in range(16 if port is not None else 0, -1, -1):
                    at = Match(each, kind, (port or 0) >> 16 - length << 16 - length, length)
                    if (one := self.rules.get((number, at))) is not None:
                        found.append(one)
                        break
        best = min(found, key=security.precedence, default=None)
        return best is not None and best.allow, best and best.number


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.guards = Guards()
        self.kernel = Kernel()
        self.groups: dict[int, SecurityGroup] = {}
        self.addresses: dict[int, AddressGroup] = {}
        self.ports: dict[str, tuple[int, ...]] = {}
        self.records: dict[str, tuple[int, ...]] = {}
        self.touched: set[str] = set()  # members that came or went

    @initialize(several=some.groups())
    def populated(self, several: tuple[SecurityGroup, ...]) -> None:
        self.put_groups(several)
        self.put_port(PORTS[0], list(some.GROUPS))
        for rank, address in enumerate(MEMBERS):
            self.put_record(address, [some.GROUPS[rank % 3], some.GROUPS[(rank + 1) % 3]])

    @rule(several=some.groups())
    def put_groups(self, several: tuple[SecurityGroup, ...]) -> None:
        for group in several:
            row = replace(group, stateful=True)
            self.groups[group.number] = row
            self.guards.put(row)

    @rule(several=some.address_groups())
    def put_addresses(self, several: tuple[AddressGroup, ...]) -> None:
        for each in several:
            self.addresses[each.number] = each
            self.guards.put(each)

    @rule(number=st.sampled_from(some.GROUPS), other=st.sampled_from(some.ADDRESS_GROUPS))
    def drop(self, number: int, other: int) -> None:
        self.groups.pop(number, None)
        self.guards.drop_group(number)
        self.addresses.pop(other, None)
        self.guards.drop_addresses(other)

    @rule(port=st.sampled_from(PORTS), has=st.none() | st.lists(st.sampled_from(some.GROUPS), unique=True))
    def put_port(self, port: str, has: list[int] | None) -> None:
        groups = tuple(sorted(has or ()))
        if has is None:
            self.ports.pop(port, None)
        else:
            self.ports[port] = groups
        self.guards.put_port(port, groups, port_security=has is not None)

    @rule(address=st.sampled_from(MEMBERS), has=st.lists(st.sampled_from(some.GROUPS), unique=True))
    def put_record(self, address: str, has: list[int]) -> None:
        groups = tuple(sorted(has))
        self.records[address] = groups
        self.touched.add(address)
        self.guards.put_record((VSID, address), groups)

    @rule(address=st.sampled_from(MEMBERS))
    def drop_record(self, address: str) -> None:
        self.records.pop(address, None)
        self.touched.add(address)
        self.guards.drop_record((VSID, address))

    @invariant()
    def each_port_is_judged_by_all_of_the_old_or_all_of_the_new(self) -> None:
        """But for members, who come and go one by one, each by its own write."""
        plan = self.guards.plan()
        wanted = {port: self.wanted(port, self.records) for port in PORTS}
        before = {port: self.kernel.says(port) for port in PORTS}
        moving, self.touched = self.touched, set()
        for write in self.kernel.carry_out(plan):
            for port in PORTS:
                now = self.kernel.says(port)
                if now is None or before[port] is None or wanted[port] is None:
                    assert now in (before[port], wanted[port]), write
                    continue
                still = {packet for packet in LOOKED_AT if packet[1] not in moving}
                assert any(
                    all(now[packet] == whole[packet] for packet in still) for whole in (before[port], wanted[port])
                )
        assert {port: self.kernel.says(port) for port in PORTS} == wanted
        assert not self.guards.plan(), "there is nothing left to do"

    @invariant()
    def nothing_is_kept_that_nobody_names(self) -> None:
        named = {number for guard in self.kernel.guards.values() for number in guard.policies.values()}
        assert {number for number, _ in (*self.kernel.rules, *self.kernel.classes)} <= named
        remotes = {match.remote - security.IDENTITIES for _, match in self.kernel.rules}
        assert {each for each in remotes if each > 0} <= set(self.kernel.identities.values())

    def wanted(self, port: str, records: dict[str, tuple[int, ...]]) -> Says | None:
        if port not in self.ports:
            return None
        numbers = self.ports[port]
        if not numbers:
            return {packet: (packet[0] is Direction.EGRESS, None) for packet in LOOKED_AT}
        groups = [self.groups[number] for number in numbers if number in self.groups]
        found = {}
        for direction, address, protocol, number in LOOKED_AT:
            best = some.decides(groups, self.addresses, records.get(address, ()), direction, address, protocol, number)
            found[direction, address, protocol, number] = (best is not None and best.allow, best and best.number)
        return found


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=10, deadline=None)


def test_numbers_of_a_former_agent_are_not_used() -> None:
    found = Guards(first_policy=90, first_identity=70)
    one = SecurityRule(1, "r", Direction.INGRESS, 4, remote_group=1001)
    found.put(SecurityGroup(1001, "g", rules=(one,)))
    found.put_port(PORTS[0], (1001,), port_security=True)
    found.put_record((VSID, "10.0.1.4"), (1001,))
    plan = found.plan()
    assert set(plan.rules) == {90}
    assert plan.identities == {(VSID, "10.0.1.4"): 70}


def test_only_groups_that_rules_here_name_make_identities() -> None:
    found = Guards()
    one = SecurityRule(1, "r", Direction.INGRESS, 4, remote_group=1001)
    found.put(SecurityGroup(1001, "g", rules=(one,)))
    found.put_port(PORTS[0], (1001,), port_security=True)
    for number in range(100):
        found.put_record((VSID, f"10.0.1.{number}"), (1001, 5000 + number))
        found.put_record((VSID, f"10.0.2.{number}"), (5000 + number,))
    plan = found.plan()
    assert set(plan.identities.values()) == {1}
    assert len(plan.identities) == 100
    assert len(plan.rules[2]) == 1


def test_a_member_more_is_one_write() -> None:
    found = Guards()
    one = SecurityRule(1, "r", Direction.INGRESS, 4, remote_group=1001)
    found.put(SecurityGroup(1001, "g", rules=(one,)))
    found.put_port(PORTS[0], (1001,), port_security=True)
    found.put_record((VSID, "10.0.1.1"), (1001,))
    found.plan()
    found.put_record((VSID, "10.0.1.2"), (1001,))
    assert found.plan() == Plan(identities={(VSID, "10.0.1.2"): 1})


def test_a_member_of_both_is_judged_wholly_while_rules_begin_to_name_another_group() -> None:
    found, kernel = Guards(), Kernel()
    old = SecurityRule(1, "old", Direction.INGRESS, 4, remote_group=1001)
    new = SecurityRule(2, "new", Direction.INGRESS, 4, 6, 80, 80, remote_group=1002)
    found.put(SecurityGroup(1001, "g", rules=(old,)))
    found.put_port(PORTS[0], (1001,), port_security=True)
    found.put_record((VSID, "10.0.1.4"), (1001, 1002))
    list(kernel.carry_out(found.plan()))
    before = kernel.says(PORTS[0])
    found.put(SecurityGroup(1001, "g", rules=(new,)))
    seen = [kernel.says(PORTS[0]) for _ in kernel.carry_out(found.plan())]
    after = kernel.says(PORTS[0])
    assert before != after
    assert all(said in (before, after) for said in seen)
