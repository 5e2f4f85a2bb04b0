"""Probes over real sockets, between addresses of the loopback that nobody else has."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from itertools import count
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from polling import PATIENCE_S
from weft.agent import probes
from weft.agent.paths import Paths
from weft.agent.probes import Prober
from weft.contracts.dataplane import Way
from weft.kit.clock import MonotonicClock
from weft.policy.rows import Host, Peer, Uplink

_BASE = os.getpid() % 60_000
_NETWORKS = count(1)


def addresses(number: int) -> list[str]:
    """Of 127.0.0.0/8, no two alike, and none of another process's."""
    network = _BASE + next(_NETWORKS) % 5000
    return [f"127.{network >> 8 & 255}.{network & 255}.{n + 1}" for n in range(number)]


class Machine:
    """A host with one or two addresses, and what its data plane would be told."""

    def __init__(self, name: str, *pas: str) -> None:
        self.peer = Peer("rd", pas[0], pas, ("net",) * len(pas))
        self.host = Host(f"hosts/{name}", pas, (Uplink("lo", 1500, "net", pas),))
        self.told: dict[str, tuple[Way, ...]] = {}
        tokens = Random(name)  # noqa: S311 -- a test's
        self.prober = Prober(Paths(tokens.random, lambda: tokens.getrandbits(64)), MonotonicClock(), self._tell)

    def _tell(self, ways: Mapping[str, tuple[Way, ...]]) -> None:
        self.told |= ways


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 -- what is waited for rings no bell of ours
            await asyncio.sleep(0.005)


async def test_two_hosts_find_every_way_between_them_and_none_that_is_gone() -> None:
    a1, a2, b1, b2 = addresses(4)
    one, two = Machine("one", a1, a2), Machine("two", b1, b2)
    one.prober.follow(one.host, [one.peer, two.peer])
    two.prober.follow(two.host, [one.peer, two.peer])
    running = [asyncio.create_task(each.prober.run()) for each in (one, two)]
    try:
        await until(lambda: {way.destination for way in one.told.get(b1, ())} == {b1, b2})
        await until(lambda: {(way.source, way.destination) for way in two.told.get(a1, ())} >= {(b1, a1), (b2, a2)})
        fewer = Machine("two", b1)
        two.prober.follow(fewer.host, [one.peer, fewer.peer])
        await until(lambda: {way.destination for way in one.told.get(b1, ())} == {b1})
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_a_stranger_gets_no_answer_and_a_peer_a_small_one() -> None:
    mine, theirs, strange = addresses(3)
    me = Machine("me", mine)
    me.prober.follow(me.host, [Peer("rd", theirs, (theirs,), ("net",))])
    running = asyncio.create_task(me.prober.run())
    loop = asyncio.get_running_loop()
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
            socket.socket(type=socket.SOCK_DGRAM) as stranger,
        ):
            for end, address in ((peer, theirs), (stranger, strange)):
                end.setblocking(False)
                end.bind((address, probes.PORT))
            for garbage in (b"", b"Weft", b"Weft\x02\x01" + bytes(10), b"Weft\x01\x07" + bytes(10), bytes(1000)):
                await loop.sock_sendto(peer, garbage, (mine, probes.PORT))
            await loop.sock_sendto(stranger, probes.question(8, 100), (mine, probes.PORT))
            await loop.sock_sendto(peer, probes.question(9, 1400), (mine, probes.PORT))
            answers = []
            async with asyncio.timeout(PATIENCE_S):
                while not answers:
                    data = await loop.sock_recv(peer, 2048)
                    asked, token = probes.read(data) or (True, 0)
                    if not asked:
                        answers.append((token, len(data)))
            assert answers == [(9, 16)]
            # What came before it would have been answered before it.
            try:
                heard = stranger.recv(2048)
            except BlockingIOError:
                heard = b""
            assert heard == b""
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@given(st.binary(max_size=40))
def test_what_is_read_is_a_message_or_nothing(data: bytes) -> None:
    found = probes.read(data)
    if found is not None:
        asked, token = found
        assert data[:16] == (probes.question(token, 16) if asked else probes.answer(token))[:6] + data[6:16]
