"""The eBPF programs against the reference: the same verdict, the same bytes, the same counters, whatever comes in."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebpf.driver import ETHERNET_BYTES, EbpfDriver, ebpf_driver
from strategies import packets
from strategies.policies import HOSTS, Policy, changed, policies
from weft.contracts.connections import Connection
from weft.contracts.dataplane import Wanted, Way
from weft.policy.rows import Member, Row, Subnet
from weft.reference.plane import ReferenceDataPlane

UPLINK = "eth0"
#: A policy has at most twelve ports on a host. Attaching takes the time, so a policy carries many frames.
INTERFACES = tuple(f"tap{number}" for number in range(12))
FRAMES = 25
LONG_S = 5e9  # beyond every time of the test, of which the reference knows none before its first frame
#: What is known of connections and fragments is a day old when the next policy comes.
times = itertools.count(10**15, 86_400 * 10**9)


@dataclass(frozen=True)
class Told:
    rows: Collection[Row]
    bindings: Mapping[str, str]
    unreachable: Collection[str] = ()
    ways: Mapping[str, Sequence[Way]] = field(default_factory=dict)
    listeners: Mapping[str, Collection[str]] = field(default_factory=dict)
    wanted: Mapping[tuple[int, str], Wanted] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Scene:
    host: str
    told: Told
    frames: tuple[tuple[str, bytes], ...]  # interface, frame

    def __repr__(self) -> str:
        # Whole it has megabytes; the assertion names the frame.
        return f"Scene({self.host}, {len(self.told.rows)} rows, {len(self.frames)} frames)"


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    guards = draw(st.sampled_from((True, True, True, False)))
    policy = draw(policies(underlay6=draw(st.booleans()), guards=guards))
    host = draw(st.sampled_from(HOSTS))
    kinds = ("any", "again", "talk", "answer") if guards else ("any", "again")
    return Scene(host, _told(draw, policy, host), tuple(_frames(draw, policy, host, kinds)))


def _frames(draw: st.DrawFn, policy: Policy, host: str, kinds: Sequence[str]) -> list[tuple[str, bytes]]:
    bindings = policy.bindings(host)
    frames: list[tuple[str, bytes]] = []
    for _ in range(FRAMES):
        ports = policy.ports(host)
        talk = None
        match draw(st.sampled_from(kinds)):
            case "talk":
                talk = draw(packets.talks(policy, host, UPLINK))
            case "again" if frames:
                talk = frames[-1]  # whatever the programs remember of it
            case "answer" if frames:
                talk = draw(packets.answers(policy, host, draw(st.sampled_from(frames[-3:]))[1], UPLINK))
            case _:
                pass
        if talk is not None:
            frames.append(talk)
            continue
        if ports and draw(st.integers(0, 2)):
            port = draw(st.sampled_from(ports))
            interface = bindings[port.port if port.parent is None else port.parent]
            frames.append((interface, draw(packets.frames_from(policy, host, port))))
        else:
            frames.append((UPLINK, draw(packets.frames_from_underlay(policy, host))))
    return frames


def _told(draw: st.DrawFn, policy: Policy, host: str) -> Told:
    every = st.sampled_from(packets.GROUPS4 + packets.GROUPS6)
    groups = st.lists(every, max_size=3, unique=True)
    asked = st.lists(every | st.sampled_from(("0.0.0.0", "::")), max_size=3, unique=True)  # and of routers'
    bindings = policy.bindings(host)
    listeners = {port: draw(asked) for port in bindings}
    # What all hosts but some have said, and of some of that the time is over.
    wanted = {
        (row.vsid, row.pa): Wanted(frozenset(draw(groups)), draw(st.sampled_from((LONG_S, LONG_S, LONG_S, 0.0))))
        for row in policy.rows[host]
        if isinstance(row, Member) and draw(st.integers(0, 3))
    }
    return Told(policy.rows[host], bindings, ways=policy.ways[host], listeners=listeners, wanted=wanted)


#: One policy after the other, what the host is told of each, the frames that come then, and how long it lasts.
Turn: TypeAlias = tuple[Told, tuple[tuple[str, bytes], ...], float]
LASTS_S = (0.0, 0.0, 1.0, 31.0, 61.0, 200.0, 5000.0)


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, tuple[Turn, ...]]:
    """A host, and what it sees while policy changes. Much of what comes after a change has come before it."""
    policy = draw(policies(underlay6=draw(st.booleans()), guards=True))
    host = draw(st.sampled_from(HOSTS))
    told = _told(draw, policy, host)
    # The reference learns by the clock of the test, the programs by the kernel's.
    lasting = not any(isinstance(row, Subnet) and row.vlan for row in policy.rows[host])
    turns: list[Turn] = []
    before: list[tuple[str, bytes]] = []
    for _ in range(3):
        frames = _frames(draw, policy, host, ("any", "again", "talk", "talk", "answer", "answer"))
        if before:
            frames = draw(st.lists(st.sampled_from(before), min_size=10, max_size=20)) + frames[:10]
        before += frames
        turns.append((told, tuple(frames), draw(st.sampled_from(LASTS_S)) if lasting else 0.0))
        policy = draw(changed(policy))
        told = replace(told, rows=policy.rows[host])
    return host, tuple(turns)


@pytest.fixture(scope="module")
def driver(weft_object: Path) -> Iterator[EbpfDriver]:
    with ebpf_driver(weft_object, INTERFACES, UPLINK) as made:
        yield made


@pytest.mark.root
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(scene=scenes())
def test_the_programs_do_what_the_reference_does(driver: EbpfDriver, scene: Scene) -> None:
    reference = ReferenceDataPlane(scene.host)
    assert reference.update(scene.told.rows) == []
    assert reference.bind(scene.told.bindings) == []
    assert reference.paths(scene.told.ways) == []
    assert reference.listen(scene.told.listeners) == []
    assert reference.heed(scene.told.wanted) == []
    now_ns = next(times)
    driver.set_clock(now_ns)
    driver.load(scene.told)
    for interface, frame in scene.frames:
        if len(frame) < ETHERNET_BYTES:
            continue  # no driver of a network card gives the kernel less
        enter = reference.from_uplink if interface == UPLINK else reference.from_port
        expected = enter(interface, frame, now_ns)
        assert driver.inject(interface, frame) == expected.verdict, (interface, frame.hex(), expected.steps)
    assert driver.counters() == reference.counters()
    assert driver.plane.hits() == reference.hits()
    assert driver.plane.denials() == reference.denials()
    assert _open(driver.plane.connections()) == _open(reference.connections())


@pytest.mark.root
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=changes())
def test_whatever_changes_the_programs_do_what_the_reference_does(
    driver: EbpfDriver, case: tuple[str, tuple[Turn, ...]]
) -> None:
    """Rules, who has which groups, who is where, while connections are open and ways are remembered."""
    host, turns = case
    reference = ReferenceDataPlane(host)
    now_ns = next(times)
    for rank, (told, frames, lasts_s) in enumerate(turns):
        if rank:
            driver.plane._guards.changed = True  # as the reference holds connections against any policy anew
            assert driver.plane.update(told.rows) == []
            assert driver.plane.prune({row.key for row in told.rows}) == []
        else:
            driver.set_clock(now_ns)
            driver.load(told)
        assert reference.update(told.rows) == []
        assert reference.prune({row.key for row in told.rows}) == []
        if not rank:
            assert reference.bind(told.bindings) == []
            assert reference.paths(told.ways) == []
            assert reference.listen(told.listeners) == []
            assert reference.heed(told.wanted) == []
        for interface, frame in frames:
            if len(frame) < ETHERNET_BYTES:
                continue
            enter = reference.from_uplink if interface == UPLINK else reference.from_port
            expected = enter(interface, frame, now_ns)
            assert driver.inject(interface, frame) == expected.verdict, (rank, interface, frame.hex(), expected.steps)
        assert _open(driver.plane.connections()) == _open(reference.connections())
        now_ns += int(lasts_s * 10**9)
        driver.plane._tracking.clock_ns = now_ns
        driver.plane._tracking.write()
    assert driver.counters() == reference.counters()


def _open(connections: Iterable[Connection]) -> Counter[tuple[object, ...]]:
    """What does not depend on the clock, or on where a table keeps it."""
    return Counter(
        (of.port, of.protocol, of.local, of.remote, of.local_port, of.remote_port, of.state, of.outward, of.rule,
         of.packets, of.bytes)
        for of in connections
    )  # fmt: skip
