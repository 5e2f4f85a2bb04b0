"""Multicast groups: what guests report, until when it counts, and what they are asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeVar

import pytest
from scapy.layers.inet import IP, IPOption_Router_Alert
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop, RouterAlert
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from unit.test_agent_dhcp import HandClock
from weft.agent.membership import (
    LAST_MEMBER_S,
    MEMBER_S,
    MOST_GROUPS,
    QUERY_S,
    STARTUP_S,
    Joined,
    Left,
    Members,
    Routes,
    queries,
    reports,
)
from weft.agent.snooping import SETTLE_S, Snooper
from weft.contracts.dataplane import DataPlane, Handed, Routing
from weft.policy.rows import Host, MacRecord, Port, Row, Subnet, Uplink
from weft.policy.upcall import UpcallKind
from weft.reference import packet
from weft.reference.plane import ReferenceDataPlane

MAC, ROUTER = "02:00:00:00:00:0a", "02:57:45:46:54:01"
NAME = "tenants/blue/ports/web-1"
RDID = "0b1e0000-0000-4000-8000-000000000001"
HOST = Host("hosts/h1", ("192.0.2.11",), (Uplink("eth0", 1500),))
SUBNET = Subnet(5001, RDID, ("10.0.1.0/24", "fd00:1::/64"), ("10.0.1.1", "fd00:1::1"), ROUTER, 0)
PORT = Port(NAME, 5001, MAC, ("10.0.1.4", "fd00:1::4"))
GROUP4, GROUP6 = "239.1.2.3", "ff15::123"
G4, G6 = packet.address_bytes(GROUP4), packet.address_bytes(GROUP6)

_T = TypeVar("_T")


def igmp(message: bytes, damage: int = 0) -> bytes:
    check = (packet.checksum(message) + damage & 0xFFFF).to_bytes(2, "big")
    body = message[:2] + check + message[4:]
    whole = IP(src="10.0.1.4", dst="224.0.0.22", ttl=1, proto=2, options=[IPOption_Router_Alert()]) / Raw(body)
    return bytes(Ether(src=MAC, dst="01:00:5e:00:00:16") / whole)


def mld(message: bytes, hop_limit: int = 1) -> bytes:
    source, to = "fe80::ff:fe00:a", "ff02::16"
    check = packet.transport_checksum(packet.address_bytes(source), packet.address_bytes(to), 58, message)
    body = message[:2] + check.to_bytes(2, "big") + message[4:]
    head = IPv6(src=source, dst=to, hlim=hop_limit) / IPv6ExtHdrHopByHop(nh=58, options=[RouterAlert()])
    return bytes(Ether(src=MAC, dst="33:33:00:00:00:16") / head / Raw(body))


def record(kind: int, group: bytes, sources: int = 0, more: bytes = b"") -> bytes:
    head = bytes((kind, len(more) // 4)) + sources.to_bytes(2, "big")
    return head + group + bytes(len(group) * sources) + more


def version3(*records: bytes, kind: int = 0x22) -> bytes:
    return bytes((kind, 0, 0, 0, 0, 0)) + len(records).to_bytes(2, "big") + b"".join(records)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"\x12\0\0\0" + G4, [Joined(G4)]),
        (b"\x16\0\0\0" + G4, [Joined(G4)]),
        (b"\x17\0\0\0" + G4, [Left(G4)]),
        (b"\x11\0\0\0" + G4, [Routes(bytes(4))]),  # who asks is a router
        (b"\x16\0\0\0" + packet.address_bytes("224.0.0.251"), []),  # nobody need ask for it
        (b"\x16\0\0\0" + packet.address_bytes("10.0.1.4"), []),
        (b"\x16\0\0\0" + G4[:3], []),
        (version3(record(4, G4)), [Joined(G4)]),
        (version3(record(2, G4)), [Joined(G4)]),
        (version3(record(3, G4)), [Left(G4)]),
        (version3(record(1, G4, 1)), [Joined(G4)]),
        (version3(record(5, G4, 2)), [Joined(G4)]),
        (version3(record(6, G4, 2)), []),
        (version3(record(1, b"\xe9\1\1\1", 2, bytes(8)), record(4, G4)), [Joined(b"\xe9\1\1\1"), Joined(G4)]),
        (version3(record(4, G4), record(4, G4))[:-3], [Joined(G4)]),
        (bytes((0x22, 0, 0, 0, 0, 0, 0xFF, 0xFF)) + record(4, G4), [Joined(G4)]),
    ],
)
def test_what_igmp_says(message: bytes, said: list[Joined | Left | Routes]) -> None:
    assert list(reports(UpcallKind.IGMP, igmp(message))) == said
    assert list(reports(UpcallKind.IGMP, igmp(message, damage=1))) == [], "a damaged report says nothing"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"\x83" + bytes(7) + G6, [Joined(G6)]),
        (b"\x84" + bytes(7) + G6, [Left(G6)]),
        (b"\x82" + bytes(7) + G6, [Routes(bytes(16))]),
        (b"\x83" + bytes(7) + packet.address_bytes("ff02::fb"), []),
        (b"\x83" + bytes(7) + G6[:15], []),
        (version3(record(4, G6), kind=143), [Joined(G6)]),
        (version3(record(3, G6), kind=143), [Left(G6)]),
        (version3(record(5, G6, 3), record(2, G6), kind=143), [Joined(G6), Joined(G6)]),
    ],
)
def test_what_mld_says(message: bytes, said: list[Joined | Left | Routes]) -> None:
    assert list(reports(UpcallKind.MLD, mld(message))) == said
    assert list(reports(UpcallKind.MLD, mld(message, hop_limit=2))) == [], "what has come by a router is no MLD"


def test_a_report_cut_off_anywhere_says_no_more_than_the_whole() -> None:
    for kind, frame in (
        (UpcallKind.IGMP, igmp(version3(record(4, G4), record(4, G4, 3)))),
        (UpcallKind.MLD, mld(version3(record(4, G6), record(4, G6, 3), kind=143))),
    ):
        whole = list(reports(kind, frame))
        assert all(list(reports(kind, frame[:length])) in ([], whole[:1], whole) for length in range(len(frame)))


def test_a_groups_time_runs_out_and_a_report_renews_it() -> None:
    members = Members()
    assert members.hear(NAME, Joined(G4), 0.0)
    assert not members.hear(NAME, Joined(G4), 100.0), "the data plane knows it"
    assert not members.expire(MEMBER_S + 99)
    assert members.listeners() == {NAME: {GROUP4}}
    assert members.expire(MEMBER_S + 100)
    assert members.listeners() == {}


def test_a_group_that_is_left_is_over_soon_unless_somebody_else_asks_for_it() -> None:
    members = Members()
    for group in (G4, G6):
        members.hear(NAME, Joined(group), 0.0)
        members.hear(NAME, Left(group), 10.0)
    members.hear(NAME, Joined(G6), 11.0)
    assert members.next_s() == 10.0 + LAST_MEMBER_S
    assert members.expire(10.0 + LAST_MEMBER_S)
    assert members.listeners() == {NAME: {GROUP6}}


def test_a_guest_that_asks_for_everything_is_heard_up_to_a_bound() -> None:
    members = Members()
    groups = [b"\xef" + number.to_bytes(3, "big") for number in range(MOST_GROUPS + 5)]
    fresh = [members.hear(NAME, Joined(group), 0.0) for group in groups]
    assert sum(fresh) == MOST_GROUPS
    assert members.hear("another port", Joined(groups[-1]), 0.0)


def test_queries_are_sound_packets_from_the_router() -> None:
    four, six = map(packet.parse, queries(SUBNET))
    assert isinstance(four, packet.Ip)
    assert isinstance(six, packet.Ip)
    assert (packet.address_text(four.source), packet.address_text(four.destination)) == ("10.0.1.1", "224.0.0.1")
    assert (four.hop_limit, four.protocol, packet.checksum(four.payload)) == (1, 2, 0)
    assert packet.checksum(four.packet[: four.header_bytes]) == 0
    assert packet.address_text(six.source) == packet.address_text(packet.link_local(packet.mac_bytes(ROUTER)))
    assert (six.hop_limit, six.protocol, six.payload[8]) == (1, 0, 130)
    assert packet.transport_checksum(six.source, six.destination, 58, six.payload[8:]) in (0, 0xFFFF)
    (only,) = queries(SUBNET, G4)
    assert only[:6].hex(":") == "01:00:5e:01:02:03"


class World:
    """A snooper and a data plane."""

    def __init__(self) -> None:
        self.plane = ReferenceDataPlane("hosts/h1")
        self.clock = HandClock()

        async def ask(question: Callable[[DataPlane], _T]) -> _T:
            return question(self.plane)

        self.told: dict[int, frozenset[str] | None] | None = None
        self.snooper = Snooper(ask, self.clock, self._tell)

    def _tell(self, groups: Mapping[int, frozenset[str] | None]) -> None:
        self.told = dict(groups)

    def tell(self, *rows: Row) -> None:
        assert self.plane.update(rows) == []
        self.snooper.learn(rows, ())

    def bind(self, index: int = 7) -> None:
        assert self.plane.bind({NAME: "tap1"}) == []
        self.snooper.bound({NAME: index})

    async def settle(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    async def pass_by(self, seconds: float) -> list[bytes]:
        """What was sent meanwhile."""
        self.plane.sent[:] = []
        self.clock.pass_by(seconds)
        await self.settle()
        return [frame for _, frame in self.plane.sent]

    async def hear(self, kind: UpcallKind, frame: bytes) -> None:
        self.snooper.heard([Handed(NAME, kind, frame)])
        await self.settle()


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    made = World()
    task = asyncio.create_task(made.snooper.run())
    try:
        yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_guest_is_asked_as_it_comes_then_soon_again_then_now_and_then() -> None:
    async with world() as it:
        it.tell(HOST, SUBNET, PORT)
        it.bind()
        general = list(queries(SUBNET))
        assert await it.pass_by(0) == general
        assert await it.pass_by(STARTUP_S) == general
        assert await it.pass_by(STARTUP_S) == []
        assert await it.pass_by(QUERY_S) == general
        it.bind(index=8)
        assert await it.pass_by(0) == general, "another interface is another guest"


async def test_what_guests_report_is_programmed_until_it_is_over() -> None:
    async with world() as it:
        it.tell(HOST, SUBNET, PORT)
        it.bind()
        await it.hear(UpcallKind.IGMP, igmp(version3(record(4, G4))))
        await it.hear(UpcallKind.MLD, mld(version3(record(4, G6), kind=143)))
        assert it.plane.listening() == {NAME: {GROUP4, GROUP6}}
        await it.pass_by(100)
        it.plane.sent[:] = []
        await it.hear(UpcallKind.IGMP, igmp(b"\x17\0\0\0" + G4))
        assert [frame for _, frame in it.plane.sent] == list(queries(SUBNET, G4)), "is anybody else there?"
        await it.pass_by(LAST_MEMBER_S)
        assert it.plane.listening() == {NAME: {GROUP6}}
        await it.pass_by(MEMBER_S)
        assert it.plane.listening() == {}


async def test_a_group_is_asked_for_once_as_it_is_left_and_not_if_nobody_had_joined() -> None:
    async with world() as it:
        it.tell(HOST, SUBNET, PORT)
        it.bind()
        await it.hear(UpcallKind.IGMP, igmp(version3(record(4, G4))))
        it.plane.sent[:] = []
        others = [record(3, b"\xef\x09\x09" + bytes((number,))) for number in range(180)]
        await it.hear(UpcallKind.IGMP, igmp(version3(*others)))
        assert it.plane.sent == [], "of groups that it had not joined"
        once = [(NAME, frame) for frame in queries(SUBNET, G4)]
        await it.hear(UpcallKind.IGMP, igmp(version3(*[record(3, G4), record(4, G4)] * 90)))
        assert it.plane.sent == once
        await it.pass_by(LAST_MEMBER_S)
        assert it.plane.listening() == {NAME: {GROUP4}}, "somebody has come again, and was not asked"
        it.plane.sent[:] = []
        await it.hear(UpcallKind.IGMP, igmp(version3(*[record(3, G4)] * 180)))
        assert it.plane.sent == once
        await it.pass_by(LAST_MEMBER_S)
        assert it.plane.listening() == {}
        assert it.snooper.members.asked_until_s == {}


async def test_an_agent_that_starts_takes_over_what_is_programmed() -> None:
    async with world() as it:
        it.tell(HOST, SUBNET, PORT)
        it.plane.bind({NAME: "tap1"})
        it.plane.listen({NAME: [GROUP4]})
        it.bind()
        await it.hear(UpcallKind.MLD, mld(version3(record(4, G6), kind=143)))
        assert it.plane.listening() == {NAME: {GROUP4, GROUP6}}
        await it.pass_by(MEMBER_S)
        assert it.plane.listening() == {}


@pytest.mark.parametrize("setting", ["snooping", "broadcast"])
async def test_a_subnet_without_snooping_is_not_asked(setting: str) -> None:
    async with world() as it:
        rows = {"snooping": True, "broadcast": True} | {setting: False}
        it.tell(HOST, Subnet(5001, RDID, SUBNET.prefixes, SUBNET.gateways, ROUTER, 0, **rows), PORT)
        it.bind()
        assert await it.pass_by(QUERY_S) == []
        await it.hear(UpcallKind.IGMP, igmp(b"\x16\0\0\0" + G4))
        assert it.plane.listening() == {}


async def test_the_other_hosts_are_told_once_it_is_programmed_and_not_before_anything_is_known() -> None:
    async with world() as it:
        it.tell(HOST, SUBNET, PORT)
        await it.settle()
        assert it.told is None, "a former agent may have bound ports and programmed groups"
        it.bind()
        await it.settle()
        assert it.told == {}
        await it.hear(UpcallKind.IGMP, igmp(version3(record(4, G4))))
        assert it.told == {5001: {GROUP4}}
        await it.pass_by(MEMBER_S)
        assert it.told == {}


async def test_a_multicast_router_hears_every_group_while_it_says_that_it_is_one() -> None:
    async with world() as it:
        it.tell(HOST, SUBNET, PORT)
        it.bind()
        await it.hear(UpcallKind.IGMP, igmp(b"\x11\0\0\0" + bytes(4)))
        await it.hear(UpcallKind.MLD, mld(b"\x82" + bytes(7) + bytes(16)))
        await it.pass_by(MEMBER_S - 1)
        assert it.plane.listening() == {NAME: {"0.0.0.0", "::"}}
        assert it.told == {5001: None}, "and so every group comes to its host"
        it.snooper.routed([Routing(NAME, MAC, "fe80::1")])  # PIM
        await it.pass_by(1)
        assert it.plane.listening() == {NAME: {"::"}}
        await it.pass_by(MEMBER_S)
        assert it.plane.listening() == {}
        assert it.told == {}


async def test_a_port_that_moves_hears_every_group_until_its_guest_has_said_which() -> None:
    """It does not know that it has moved, and whoever sends to it sends to both hosts."""
    async with world() as it:
        moving = MacRecord(5001, MAC, "192.0.2.11", also="192.0.2.12")
        it.tell(HOST, SUBNET, PORT, moving)
        it.bind()
        await it.pass_by(MEMBER_S)
        assert it.plane.listening() == {NAME: {"0.0.0.0", "::"}}
        assert it.told == {5001: None}
        it.plane.sent[:] = []
        it.tell(MacRecord(5001, MAC, "192.0.2.12"))
        await it.settle()
        assert [frame for _, frame in it.plane.sent] == list(queries(SUBNET)), "it is asked as it arrives"
        await it.hear(UpcallKind.IGMP, igmp(version3(record(4, G4))))
        assert it.plane.listening() == {NAME: {"0.0.0.0", "::", GROUP4}}
        await it.pass_by(SETTLE_S)
        assert it.plane.listening() == {NAME: {GROUP4}}
        assert it.told == {5001: {GROUP4}}
