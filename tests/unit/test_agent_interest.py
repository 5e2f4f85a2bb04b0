"""What hosts tell each other of who listens to which group: soon, no more than there is need of, and only to whom it
concerns. Time is the test's, and datagrams go from one host to the other as it says.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.agent import interest
from weft.agent.interest import (
    CHANGES,
    HOLD_S,
    LINGER_S,
    MOST_BYTES,
    MOST_GROUPS,
    REFRESH_S,
    Datagram,
    Interest,
    Said,
)
from weft.contracts.dataplane import Wanted
from weft.policy.rows import Host, Member, Peer, Port, Row, Rule, Subnet, Uplink

RDID = "0b1e0000-0000-4000-8000-000000000001"
WEB, DB = 5001, 5002
GROUP, OTHER, SIX = "239.1.2.3", "239.9.9.9", "ff15::123"


def pa(number: int) -> str:
    return f"192.0.{2 + number // 250}.{1 + number % 250}"


class World:
    """Hosts that run ports of some subnets, and the network between them."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.hosts: dict[str, Interest] = {}
        self.heeded: dict[str, dict[tuple[int, str], tuple[frozenset[str], float]]] = {}
        self.sent: list[Datagram] = []
        self.lost: Callable[[Datagram], bool] = lambda _: False
        self._numbers = count(12_345, 7_919)
        self._vsids: dict[str, tuple[int, ...]] = {}

    def add(self, at: str, *vsids: int) -> Interest:
        """A host, or its agent anew. Everybody is told of everybody."""
        self.hosts[at] = Interest(lambda: 0.0, lambda: next(self._numbers))
        self.heeded[at] = {}
        self._vsids[at] = vsids
        for each in self.hosts:
            self.hosts[each].learn(self.rows(each), ())
        return self.hosts[at]

    def rows(self, at: str) -> list[Row]:
        vsids = self._vsids[at]
        rows: list[Row] = [Host("hosts/h", (at,), (Uplink("eth0", 1500, pas=(at,)),))]
        rows += (Subnet(vsid, RDID, ("10.0.1.0/24",), ("10.0.1.1",), "02:57:45:46:54:01", 0) for vsid in vsids)
        rows += (Port(f"tenants/t/ports/p{vsid}", vsid, "02:00:00:00:00:01", ("10.0.1.4",)) for vsid in vsids)
        for other, theirs in self._vsids.items():
            rows.append(Peer(RDID, other, (other,), ("",)))
            rows += (Member(vsid, other) for vsid in theirs)
        return rows

    def listen(self, at: str, groups: dict[int, frozenset[str] | None]) -> None:
        self.hosts[at].listening(groups, self.now_s)

    def settle(self) -> None:
        """What is due now is sent and comes, at once."""
        for _ in range(20):
            found = [(at, each) for at, host in self.hosts.items() for each in host.due(self.now_s)]
            for at, host in self.hosts.items():
                for place, said in host.heed().items():
                    if said is None:
                        self.heeded[at].pop(place, None)
                    else:
                        self.heeded[at][place] = said.groups, self.now_s + said.for_s
            if not found:
                return
            for at, each in found:
                assert each.source == at
                assert len(each.data) <= MOST_BYTES
                self.sent.append(each)
                if not self.lost(each) and each.destination in self.hosts:
                    self.hosts[each.destination].receive(each.destination, at, each.data, self.now_s)
        raise AssertionError("they go on and on")

    def pass_s(self, seconds: float, step_s: float = 0.05) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.settle()
            self.now_s += step_s
        self.settle()

    def known(self, at: str, of: str, vsid: int = WEB) -> frozenset[str] | None:
        """What the data plane goes by; None: everything is sent."""
        groups, until_s = self.heeded[at].get((vsid, of), (frozenset(), 0.0))
        return groups if until_s > self.now_s else None


A, B, C = pa(1), pa(2), pa(3)


@pytest.fixture
def two() -> World:
    world = World()
    for at in (A, B):
        world.add(at, WEB)
        world.listen(at, {})
    world.pass_s(1)
    return world


def test_before_a_host_has_said_anything_everything_is_sent_to_it() -> None:
    world = World()
    world.add(A, WEB)
    world.add(B, WEB)
    world.pass_s(5)
    assert world.known(A, B) is None, "its agent does not know yet who listens"
    world.listen(B, {WEB: frozenset({GROUP})})
    world.settle()
    assert world.known(A, B) == {GROUP}
    assert world.known(B, A) is None


def test_who_joins_is_told_at_once_and_who_has_left_a_little_later(two: World) -> None:
    assert two.known(A, B) == set()
    two.listen(B, {WEB: frozenset({GROUP, SIX})})
    two.settle()
    assert two.known(A, B) == {GROUP, SIX}
    two.listen(B, {WEB: frozenset({SIX})})
    two.pass_s(LINGER_S - 1)
    assert two.known(A, B) == {GROUP, SIX}
    two.pass_s(2)
    assert two.known(A, B) == {SIX}


def test_what_was_said_holds_while_it_is_confirmed_and_not_much_longer(two: World) -> None:
    two.listen(B, {WEB: frozenset({GROUP})})
    two.pass_s(10 * HOLD_S, 0.5)
    assert two.known(A, B) == {GROUP}
    two.lost = lambda each: each.source == B
    two.pass_s(HOLD_S - REFRESH_S, 0.5)
    assert two.known(A, B) == {GROUP}, "one answer may be lost, and two"
    two.pass_s(REFRESH_S + 1, 0.5)
    assert two.known(A, B) is None
    two.lost = lambda _: False
    two.pass_s(REFRESH_S, 0.5)
    assert two.known(A, B) == {GROUP}


def test_who_joins_while_words_are_lost_is_told_again(two: World) -> None:
    losses = iter([True] * 4)
    two.lost = lambda each: each.source == B and next(losses, False)
    two.listen(B, {WEB: frozenset({GROUP})})
    two.settle()
    assert two.known(A, B) == set()
    two.pass_s(6)
    assert two.known(A, B) == {GROUP}


def test_an_agent_that_starts_is_asked_and_asks_at_once(two: World) -> None:
    two.listen(B, {WEB: frozenset({GROUP})})
    two.pass_s(1)
    fresh = two.add(B, WEB)
    two.pass_s(0.5)
    assert two.known(A, B) == {GROUP}, "what the former one said goes on for its time"
    fresh.listening({WEB: frozenset({OTHER})}, two.now_s)
    two.settle()
    assert two.known(A, B) == {OTHER}, "the new one knows of whom it has not heard yet, since it has asked"
    assert two.known(B, A) == set()


def test_no_two_agents_are_taken_for_each_other(two: World) -> None:
    """Their first words are of no common numbering."""
    fresh = two.add(B, WEB)
    fresh.listening({WEB: frozenset({GROUP})}, two.now_s)
    two.pass_s(1)
    assert two.known(A, B) == {GROUP}


def words(world: World, begin: int = 0) -> int:
    return sum(bool((read := interest.read(each.data)) and read.said) for each in world.sent[begin:])


def test_a_guest_that_joins_and_leaves_in_a_loop_costs_nothing(two: World) -> None:
    two.listen(B, {WEB: frozenset({GROUP})})
    two.settle()
    before = len(two.sent)
    for _ in range(600):
        two.listen(B, {WEB: frozenset()})
        two.pass_s(0.05)
        two.listen(B, {WEB: frozenset({GROUP})})
        two.pass_s(0.05)
    assert words(two, before) <= 2 * 60 / (0.75 * REFRESH_S) + 2, "no more than what is said in any minute"
    assert two.known(A, B) == {GROUP}


def test_a_guest_that_joins_ever_new_groups_is_held_to_its_share(two: World) -> None:
    before = len(two.sent)
    for number in range(600):
        two.listen(B, {WEB: frozenset({f"239.2.{number // 250}.{number % 250}"})})
        two.pass_s(0.1)
    # Each change is told once, and confirmed.
    assert words(two, before) <= 3 * (CHANGES + 60) + 20
    two.pass_s(1.2)
    assert f"239.2.{599 // 250}.{599 % 250}" in (two.known(A, B) or ()), "the last one, within a second"


@pytest.mark.parametrize("number", [1, 300, MOST_GROUPS])
def test_as_many_groups_as_there_are_arrive(two: World, number: int) -> None:
    groups = frozenset(f"ff15::{each + 1:x}" for each in range(number // 2)) | {
        f"239.1.{each // 250}.{each % 250}" for each in range(number - number // 2)
    }
    two.listen(B, {WEB: groups})
    two.settle()
    assert two.known(A, B) == groups


def test_who_listens_to_too_many_groups_or_is_a_router_is_sent_everything(two: World) -> None:
    two.listen(B, {WEB: frozenset(f"239.1.{each // 250}.{each % 250}" for each in range(MOST_GROUPS + 1))})
    two.settle()
    assert two.known(A, B) is None
    two.listen(B, {WEB: frozenset({GROUP})})
    two.pass_s(1.1)
    assert two.known(A, B) == {GROUP}
    two.listen(B, {WEB: None})
    two.pass_s(1.1)
    assert two.known(A, B) is None


def test_a_host_that_names_more_groups_than_it_may_is_sent_everything(two: World) -> None:
    many = frozenset(f"239.{each >> 16 & 255}.{each >> 8 & 255}.{each & 255}" for each in range(MOST_GROUPS + 1))
    for groups, held in ((many, False), (many - {"239.0.0.0"}, True), (many, False)):
        edition = 7 + len(groups) + held
        of = two.hosts[A]._peers[B].known[WEB]
        for data in interest.word(two.hosts[A]._peers[B].token, 99, [Said(WEB, of.edition + edition, groups)]):
            two.hosts[A].receive(A, B, data, two.now_s)
        assert two.hosts[A].heed()[WEB, B] == (Wanted(groups, HOLD_S) if held else None)


def test_a_subnet_that_two_hosts_do_not_share_is_nothing_to_tell() -> None:
    world = World()
    world.add(A, WEB)
    world.add(B, WEB, DB)
    world.add(C, DB)
    for at in (A, B, C):
        world.listen(at, {WEB: frozenset({GROUP}), DB: frozenset({OTHER})})
    world.pass_s(2)
    assert world.known(A, B) == {GROUP}
    assert world.known(C, B, DB) == {OTHER}
    assert {(each.source, each.destination) for each in world.sent} == {(A, B), (B, A), (B, C), (C, B)}
    before = len(world.sent)
    for data in interest.question(7, 8, {DB: 0}):
        world.hosts[B].receive(B, A, data, world.now_s)
        world.hosts[B].receive(B, pa(99), data, world.now_s)
    world.settle()
    assert not any(bytes((239, 9, 9, 9)) in each.data for each in world.sent[before:] if each.destination != C)


def test_a_word_that_nobody_asked_for_is_not_believed(two: World) -> None:
    two.listen(B, {WEB: frozenset({GROUP})})
    two.settle()
    for data in interest.word(4711, 1, [Said(WEB, (1 << 32) - 1, frozenset())]):
        two.hosts[A].receive(A, B, data, two.now_s)
    two.settle()
    assert two.known(A, B) == {GROUP}


def test_a_host_that_leaves_the_subnet_is_forgotten(two: World) -> None:
    two.hosts[A].learn((), [("members", WEB, B)])
    two.settle()
    assert two.heeded[A] == {}
    before = len(two.sent)
    two.pass_s(2 * REFRESH_S, 0.5)
    assert all(each.source != A for each in two.sent[before:])


def test_of_a_subnet_without_snooping_or_in_a_vlan_nobody_is_asked() -> None:
    for change in ({"snooping": False}, {"broadcast": False}, {"rule": Rule.VLAN}):
        world = World()
        world.add(A, WEB)
        world.add(B, WEB)
        for host in world.hosts.values():
            if "rule" in change:
                host.learn([Member(WEB, A, Rule.VLAN), Member(WEB, B, Rule.VLAN)], ())
            else:
                host.learn([Subnet(WEB, RDID, ("10.0.1.0/24",), ("10.0.1.1",), "02:57:45:46:54:01", 0, **change)], ())
        world.pass_s(1)
        assert world.sent == []


def test_a_change_reaches_500_hosts_within_a_second() -> None:
    world = World()
    world._vsids = {pa(number): (WEB,) for number in range(501)}
    first = pa(0)
    world.hosts = {first: Interest(lambda: 0.0, lambda: next(world._numbers))}
    world.heeded = {first: {}}
    world.hosts[first].learn(world.rows(first), ())
    world.listen(first, {})
    for number in range(1, 501):
        for data in interest.question(number, number, {WEB: 0}):
            world.hosts[first].receive(first, pa(number), data, world.now_s)
    world.pass_s(3)
    world.sent.clear()
    world.listen(first, {WEB: frozenset({GROUP})})
    world.pass_s(1)
    told = {each.destination for each in world.sent if bytes((239, 1, 2, 3)) in each.data}
    assert len(told) == 500


@given(st.binary(max_size=64))
def test_garbage_is_read_or_passed_over(data: bytes) -> None:
    interest.read(data)
    world = World()
    world.add(A, WEB)
    world.hosts[A].receive(A, B, data, 0.0)


@given(st.data())
def test_what_is_written_is_read(data: st.DataObject) -> None:
    groups = st.frozensets(
        st.ip_addresses(network="224.0.0.0/4").map(str) | st.ip_addresses(network="ff00::/8").map(str), max_size=200
    )
    said = data.draw(st.lists(st.builds(Said, st.just(WEB), st.integers(1, 2**32 - 1), groups), max_size=3))
    found: list[Said] = []
    for each in interest.word(1, 2, said):
        read = interest.read(each)
        assert read is not None
        found += read.said
    whole: dict[int, set[str]] = {}
    for piece in found:
        whole.setdefault(piece.edition, set()).update(piece.groups or ())
    assert {edition: frozenset(groups) for edition, groups in whole.items()} == {
        each.edition: frozenset().union(*(other.groups or () for other in said if other.edition == each.edition))
        for each in said
    }


def test_wanted_says_for_how_long_it_holds(two: World) -> None:
    two.listen(B, {WEB: frozenset({GROUP})})
    list(two.hosts[B].due(two.now_s))
    for data in interest.word(two.hosts[A]._peers[B].token, 99, [Said(WEB, 5, frozenset({GROUP}))]):
        two.hosts[A].receive(A, B, data, two.now_s)
    assert two.hosts[A].heed() == {(WEB, B): Wanted(frozenset({GROUP}), HOLD_S)}
