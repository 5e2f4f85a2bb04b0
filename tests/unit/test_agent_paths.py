"""Which ways work, and how large a packet takes each: found out over a network of numbers, in its own time."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count
from random import Random

import pytest

from weft.agent import paths
from weft.agent.paths import Paths
from weft.contracts.dataplane import Way
from weft.policy.rows import Host, Peer, Uplink

A, B = "provider-networks/a", "provider-networks/b"
A1, B1, A2, B2 = "100.64.1.2", "100.65.1.2", "100.64.2.2", "100.65.2.2"
HOST = Host("hosts/h1", (A1, B1), (Uplink("eth0", 1500, A, (A1,)), Uplink("eth1", 1500, B, (B1,))))
PEER = Peer("rd", A2, (A2, B2), (A, B))
FIRST, SECOND = (A1, A2), (B1, B2)
STRAIGHT = {FIRST, SECOND}


class Network:
    """Probes that fit and are not lost come back 1 ms later. mtu: by pair; hints: routers say when one does not fit.

    lie: what somebody says of every larger one, and is not so.
    """

    def __init__(self, host: Host = HOST, peers: Iterable[Peer] = (PEER,), *, hints: bool = False) -> None:
        tokens = count(1)
        self.now_s = 100.0
        self.paths = Paths(
            Random(7).random,  # noqa: S311 -- no secret: the same each time
            lambda: next(tokens),
        )
        self.paths.follow(host, peers, self.now_s)
        self.lost: Callable[[str, str], bool] = lambda source, destination: (source, destination) not in STRAIGHT
        self.mtu: dict[tuple[str, str], int] = {}
        self.hints = hints
        self.lie = 0
        self.sent: Counter[tuple[str, str]] = Counter()
        self.ways: dict[str, tuple[Way, ...]] = {}
        self._flying: list[tuple[float, str, str, int]] = []

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> float:
        """How long it took until that was so; or the whole time."""
        begun, end_s = self.now_s, self.now_s + seconds
        while not until():
            next_s = min(self.paths.next_s or end_s, self._flying[0][0] if self._flying else end_s, end_s)
            self.now_s = max(self.now_s, next_s)
            if next_s >= end_s:
                break
            while self._flying and self._flying[0][0] <= self.now_s:
                _, source, destination, token = heapq.heappop(self._flying)
                self.paths.heard(source, destination, token, self.now_s)
            for probe in list(self.paths.due(self.now_s)):
                pair = (probe.source, probe.destination)
                self.sent[pair] += 1
                if self.lost(*pair):
                    continue
                if probe.packet_bytes > self.mtu.get(pair, 1500):
                    if self.hints:
                        self.paths.refused(*pair, self.mtu[pair], self.now_s)
                    continue
                if self.lie and probe.packet_bytes > self.lie:
                    self.paths.refused(*pair, self.lie, self.now_s)
                heapq.heappush(self._flying, (self.now_s + 0.001, *pair, probe.token))
            self.ways |= self.paths.ways()
        return self.now_s - begun

    @property
    def used(self) -> set[tuple[str, str]]:
        """The pairs that flows to the peer have."""
        return {(way.source, way.destination) for way in self.ways.get(A2, ())}

    def lose(self, *pairs: tuple[str, str]) -> None:
        self.lost = lambda source, destination: (source, destination) not in STRAIGHT - set(pairs)


def test_flows_are_spread_evenly_over_the_ways_that_lead_from_network_to_network() -> None:
    network = Network()
    assert network.run(2, lambda: network.used == STRAIGHT) < 0.5
    assert Counter((way.source, way.destination) for way in network.ways[A2]) == {FIRST: 8, SECOND: 8}


@pytest.mark.parametrize("after_s", [n / 20 for n in range(20)])
def test_a_way_that_loses_everything_is_left_within_a_second_and_taken_again_when_it_works(after_s: float) -> None:
    network = Network()
    network.run(3 + after_s)
    before = network.ways[A2]
    network.lose(FIRST)
    assert network.run(2, lambda: network.used == {SECOND}) < 0.75
    network.run(5)
    network.lose()
    assert network.run(2, lambda: network.used == STRAIGHT) < 1
    assert network.ways[A2] == before, "each flow is where it was"


def test_flows_of_a_way_that_works_stay_where_they_are_when_another_fails() -> None:
    pas = tuple(f"100.64.2.{n}" for n in range(2, 7))
    network = Network(peers=[Peer("rd", A2, pas, (A,) * 5)])
    network.lost = lambda source, _: source != A1
    network.run(3)
    before = network.ways[A2]
    network.lost = lambda source, destination: source != A1 or destination == pas[1]
    network.run(3)
    after = network.ways[A2]
    assert all(was == now for was, now in zip(before, after, strict=True) if was.destination != pas[1])
    assert {way.destination for way in after} == {*pas} - {pas[1]}


def test_a_link_that_is_down_is_left_at_once() -> None:
    network = Network()
    network.run(3)
    network.paths.links({"eth0"})
    network.ways |= network.paths.ways()
    assert network.used == {SECOND}
    network.paths.links(())
    network.ways |= network.paths.ways()
    assert network.used == STRAIGHT


def test_a_peer_that_falls_silent_on_all_ways_keeps_them() -> None:
    """Its agent is being replaced, and the kernel goes on without it."""
    network = Network()
    network.run(3)
    network.lose(FIRST, SECOND)
    network.run(2)
    assert network.used == STRAIGHT
    network.run(60)
    assert network.used == STRAIGHT


def test_a_way_that_had_failed_before_its_peer_fell_silent_is_not_tried_again() -> None:
    network = Network()
    network.run(3)
    network.lose(FIRST)
    network.run(5)
    network.lose(FIRST, SECOND)
    network.run(20)
    assert network.used == {SECOND}


def test_of_a_peer_that_never_answered_nothing_is_said() -> None:
    network = Network()
    network.lose(FIRST, SECOND)
    network.run(30)
    assert network.ways == {}, "what a former agent has found out stays"


def test_ways_across_two_networks_are_taken_when_no_other_works() -> None:
    network = Network()
    network.lost = lambda source, destination: False
    network.run(3)
    assert network.used == STRAIGHT
    network.lost = lambda source, destination: source == A1 or destination == B2
    network.run(2)
    assert network.used == {(B1, A2)}


def test_a_single_way_is_probed_seldom_and_its_size_is_said() -> None:
    """Also that it takes all that the uplink takes: the kernel may have been told otherwise, by anybody."""
    host = Host("hosts/h1", (A1,), (Uplink("eth0", 1500, A, (A1,)),))
    network = Network(host, [Peer("rd", A2, (A2,), (A,))])
    network.run(30)
    assert set(network.ways[A2]) == {Way(A1, A2, 1500)}
    assert network.sent[FIRST] < 75, "for its size, each second, and for its liveness"
    network.mtu[FIRST] = 1400
    network.run(5)
    assert set(network.ways[A2]) == {Way(A1, A2, 1400)}


@pytest.mark.parametrize("hints", [False, True])
@pytest.mark.parametrize("mtu_bytes", [576, 1279, 1280, 1281, 1400, 1499])
def test_the_mtu_of_a_path_is_found_to_the_byte_and_only_the_end_of_the_search_is_told(
    mtu_bytes: int, hints: bool
) -> None:
    network = Network(hints=hints)
    network.run(3)
    network.mtu[SECOND] = mtu_bytes
    told = set()

    def found() -> bool:
        told.update(way.mtu_bytes for way in network.ways[A2])
        return Way(*SECOND, mtu_bytes) in network.ways[A2]

    assert network.run(20, found) < (2.5 if hints else 7)
    assert told == {1500, mtu_bytes}
    assert Way(*FIRST, 1500) in network.ways[A2], "it is another way's MTU"
    network.run(100)
    assert network.used == STRAIGHT, "small probes pass all the while"


def test_a_path_that_takes_more_again_is_found_out() -> None:
    network = Network()
    network.mtu[SECOND] = 1400
    network.run(20)
    assert Way(*SECOND, 1400) in network.ways[A2]
    network.mtu[SECOND] = 1450
    assert network.run(60, lambda: Way(*SECOND, 1450) in network.ways[A2]) < 40
    network.mtu[SECOND] = 1500
    assert network.run(60, lambda: Way(*SECOND, 1500) in network.ways[A2]) < 40


def test_a_router_that_lies_about_sizes_is_not_believed() -> None:
    network = Network()
    network.run(3)
    network.lie = 600
    network.run(60)
    assert {way.mtu_bytes for way in network.ways[A2]} == {1500}


def test_what_an_operator_says_of_a_route_is_held_to_whatever_gets_through() -> None:
    network = Network()
    network.run(3)
    network.paths.locked(*FIRST, 1400)
    network.run(2)
    assert set(network.ways[A2]) == {Way(*FIRST, 1400), Way(*SECOND, 1500)}
    assert network.paths.smallest_bytes() == 1400
    network.paths.locked(*FIRST, 0)
    network.run(2)
    assert {way.mtu_bytes for way in network.ways[A2]} == {1500}


def test_a_lossy_path_is_not_taken_for_a_narrow_one() -> None:
    network = Network()
    chance = Random(3)  # noqa: S311 -- no secret
    network.lost = lambda source, destination: (source, destination) not in STRAIGHT or chance.random() < 0.05
    network.run(600)
    assert {way.mtu_bytes for way in network.ways[A2]} <= {0, 1500}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("silent_s", [0.3, 0.7, 1.1, 1.5, 2.0, 3.0, 6.0, 30.0])
def test_a_peer_that_says_nothing_for_a_while_has_no_narrower_path_then(silent_s: float, several: bool) -> None:
    """Its agent is started anew, or has no processor: large packets between guests go through all the while."""
    host = HOST if several else Host("hosts/h1", (A1,), (Uplink("eth0", 1500, A, (A1,)),))
    network = Network(host, [PEER if several else Peer("rd", A2, (A2,), (A,))])
    chance = Random(11)  # noqa: S311 -- no secret
    network.run(5)
    for _ in range(40):  # in whatever it is in the midst of
        network.lose(*STRAIGHT)
        network.run(silent_s)
        network.lose()
        network.run(4 + chance.random())
        assert {way.mtu_bytes for way in network.ways[A2]} == {1500}


def test_a_path_that_became_narrow_while_its_peer_said_nothing_is_found_behind_that() -> None:
    network = Network(Host("hosts/h1", (A1,), (Uplink("eth0", 1500, A, (A1,)),)), [Peer("rd", A2, (A2,), (A,))])
    network.run(5)
    network.lose(FIRST)
    network.mtu[FIRST] = 1400
    network.run(3)
    assert {way.mtu_bytes for way in network.ways[A2]} == {1500}
    network.lose()
    assert network.run(20, lambda: {way.mtu_bytes for way in network.ways[A2]} == {1400}) < 15


def test_answers_that_nobody_asked_for_change_nothing() -> None:
    network = Network()
    network.lose(FIRST, SECOND)
    for token in range(200):
        network.run(0.05)
        network.paths.heard(*FIRST, -token, network.now_s)
        network.paths.heard(A2, A1, token, network.now_s)
    assert network.ways == {}


def test_five_hundred_peers_are_probed_at_a_bounded_rate() -> None:
    peers = [Peer("rd", f"100.64.{n}.2", (f"100.64.{n}.2", f"100.65.{n}.2"), (A, B)) for n in range(2, 252)] + [
        Peer("rd", f"100.66.{n}.2", (f"100.66.{n}.2", f"100.67.{n}.2"), (A, B)) for n in range(250)
    ]
    network = Network(peers=peers)
    network.lost = lambda source, destination: False
    network.run(3)
    before = network.sent.total()
    network.run(5)
    assert (network.sent.total() - before) / 5 < 1.4 * paths.MOST_PER_S + 1.1 * paths.MOST_LARGE_PER_S


def test_what_is_known_of_a_way_outlives_a_change_of_policy() -> None:
    network = Network()
    network.mtu[FIRST] = 1400
    network.run(20)
    other = Peer("rd", "100.64.3.2", ("100.64.3.2",), (A,))
    network.paths.follow(HOST, [PEER, other], network.now_s)
    network.paths.repeat()
    assert Way(*FIRST, 1400) in network.paths.ways()[A2]
    network.paths.follow(HOST, [other], network.now_s)
    assert {destination for _, destination, _, _ in network.paths.state()} == {"100.64.3.2"}
    assert not network.paths.knows(A2)


def test_a_host_is_no_peer_of_its_own_and_ways_are_of_the_family_of_the_peers_first_pa() -> None:
    six = ("fd64::2", "fd65::2")
    host = Host("hosts/h1", (A1, "fd64::1"), (Uplink("eth0", 1500, A, (A1, "fd64::1")),))
    me, them = Peer("rd", A1, (A1, "fd64::1"), (A, A)), Peer("rd", "fd64::2", (*six, A2), (A, B, A))
    network = Network(host, [me, them])
    assert {(source, destination) for source, destination, _, _ in network.paths.state()} == {
        ("fd64::1", "fd64::2"),
        ("fd64::1", "fd65::2"),
    }
