"""Whose queues an agent has looked after: those of ports that are on their way here, as long as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace

from unit.test_agent_handover import Hurried, asker
from weft.agent.queues import Queues
from weft.policy.rows import Port
from weft.reference.plane import ReferenceDataPlane

PORT = Port("tenants/blue/ports/a", 5001, "02:00:00:00:00:01", ("10.0.0.1",), arriving=True)
OTHER = replace(PORT, port="tenants/blue/ports/b")
SUB = replace(PORT, port="tenants/blue/ports/sub", parent=OTHER.port, vlan=7)


class Watched(ReferenceDataPlane):
    """rounds: what each was about; the newest of a kind only."""

    def __init__(self) -> None:
        super().__init__("hosts/h2")
        self.rounds: list[frozenset[str]] = []

    def freshen(self, arriving: Collection[str]) -> None:
        if [frozenset(arriving)] != self.rounds[-1:]:
            self.rounds.append(frozenset(arriving))


async def test_queues_of_ports_that_arrive_are_looked_after_until_they_have() -> None:
    plane = Watched()

    def ports(*some: Port) -> dict[str, Port]:
        return {port.port: port for port in some}

    queues = Queues(asker(plane), Hurried())
    running = asyncio.create_task(queues.run())
    try:
        expected: list[frozenset[str]] = []
        for now, about in (
            (ports(PORT), [PORT.port]),
            (ports(PORT, OTHER), [PORT.port, OTHER.port]),
            (ports(PORT, OTHER, SUB), [PORT.port]),  # frames at one interface differ by their tags
            (ports(replace(PORT, arriving=False), replace(OTHER, arriving=False)), []),
            (ports(OTHER), [OTHER.port]),
        ):
            queues.follow(now)
            expected.append(frozenset(about))
            async with asyncio.timeout(20):
                while plane.rounds != expected:  # noqa: ASYNC110 -- another task's doing
                    await asyncio.sleep(0)
    finally:
        running.cancel()
