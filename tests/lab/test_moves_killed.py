"""Agents that are killed while a port moves, at either host and at each stage: nothing is lost, and connections go on.

The guest that moves may begin connections, and nobody may to it: so of what its peer says in one that it has begun its
new host can only have heard from the former one.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from lab.scenes import address
from lab.test_moves import streams
from polling import PATIENCE_S, eventually
from weft.kit.errors import Missing, Retry
from weft.lab import shell
from weft.lab.lab import Lab, Stage

PORT = 8000
ROAMING, RESTING = "t/roaming", "t/resting"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    name = f"moving-{os.getpid()}"
    try:
        yield Lab.up(Path(__file__).parent / "moving.yaml", name=name)
    finally:
        Lab.down(name)


@pytest.fixture(autouse=True)
def _mended(lab: Lab) -> Iterator[None]:
    yield
    for host in lab.spec.hosts:
        with suppress(Missing):
            lab.kill(f"agent:{host.name}", signal.SIGCONT)
    lab.mend(PATIENCE_S)


@dataclass
class Calls:
    """Connections that the roaming guest has begun, by both ends."""

    lab: Lab
    ends: list[tuple[socket.socket, socket.socket]] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)
    _number: int = 0

    def __enter__(self) -> Self:
        listening = self._made(RESTING)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address(self.lab.guest(RESTING)), PORT))
        listening.listen()
        self._listening = listening
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _made(self, guest: str) -> socket.socket:
        namespace = self.lab.guest(guest).namespace
        found = shell.within(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        found.settimeout(PATIENCE_S)
        return self._stack.enter_context(found)

    def begin(self) -> None:
        """One more."""
        caller = self._made(ROAMING)
        caller.connect((address(self.lab.guest(RESTING)), PORT))
        called, _ = self._listening.accept()
        called.settimeout(PATIENCE_S)
        self.ends.append((caller, self._stack.enter_context(called)))

    def _known(self) -> set[int]:
        """By their ports, to the host that the guest is on."""
        guest = self.lab.guest(ROAMING)
        try:
            found = self.lab.ask_agent(guest.host, "GET", f"/connections?port={guest.port}&state=established")
        except Retry:  # its agent is starting
            return set()
        return {each["local_port"] for each in found}

    def go_on(self) -> None:
        """In each the end that has not moved speaks first. Not before its host knows of it: what comes sooner TCP says
        again, but ever later.
        """
        eventually(lambda: {caller.getsockname()[1] for caller, _ in self.ends} <= self._known())
        for caller, called in self.ends:
            for speaks, hears in ((called, caller), (caller, called)):
                self._number += 1
                said = f"{self._number:08}".encode()
                speaks.sendall(said)
                assert hears.recv(len(said), socket.MSG_WAITALL) == said


def calls_outlast_a_move(
    lab: Lab, reached: Callable[[Calls, Stage, str, str], None], afterwards: Callable[[], None] = lambda: None
) -> None:
    """The roaming guest goes from the one of two hosts to the other: nothing that is sent meanwhile is lost, and what
    it has begun before and during that goes on. reached: with the former host and the new one; afterwards: before that.
    """
    source = lab.guest(ROAMING).host
    destination = "h3" if source == "h1" else "h1"
    with streams(lab, RESTING, ROAMING), Calls(lab) as calls:
        calls.begin()
        lab.move(ROAMING, destination, PATIENCE_S, lambda stage: reached(calls, stage, source, destination))
        afterwards()
        calls.go_on()


@pytest.mark.parametrize("stage", Stage, ids=lambda stage: stage.name.lower())
@pytest.mark.parametrize("whose", ["source", "destination"])
def test_an_agent_that_is_killed_at_any_stage_of_a_move_costs_no_packet_and_no_connection(
    lab: Lab, whose: str, stage: Stage
) -> None:
    def reached(calls: Calls, now: Stage, source: str, destination: str) -> None:
        if now is Stage.READY:
            calls.begin()  # among the last things that the guest does there
        if now is stage:
            host = source if whose == "source" else destination
            lab.kill(f"agent:{host}", signal.SIGKILL)
            lab.start_agent(host)

    calls_outlast_a_move(lab, reached)


def test_a_former_host_whose_agent_is_killed_when_the_port_has_left_tells_what_the_guest_began_last(lab: Lab) -> None:
    """Its new host has not heard of that, and the agent that is started does not find the port in its policy."""

    def reached(calls: Calls, now: Stage, source: str, destination: str) -> None:
        if now is Stage.READY:
            lab.kill(f"agent:{destination}", signal.SIGSTOP)
            calls.begin()
        elif now is Stage.FINISHED:
            eventually(lambda: lab.ask_agent(source, "GET", "/status")["usage"]["ports"]["used"] == 0)
            lab.kill(f"agent:{source}", signal.SIGKILL)
            lab.start_agent(source)
            lab.kill(f"agent:{destination}", signal.SIGCONT)

    calls_outlast_a_move(lab, reached)


def test_a_new_host_whose_agent_is_killed_when_the_port_has_arrived_asks_for_what_the_guest_began_last(
    lab: Lab,
) -> None:
    """Its former host has said nothing by then: its agent has stopped."""

    def reached(calls: Calls, now: Stage, source: str, destination: str) -> None:
        if now is Stage.READY:
            lab.kill(f"agent:{source}", signal.SIGSTOP)
            calls.begin()
        elif now is Stage.ARRIVED:
            lab.kill(f"agent:{destination}", signal.SIGKILL)
            lab.start_agent(destination)
            lab.kill(f"agent:{source}", signal.SIGCONT)

    calls_outlast_a_move(lab, reached)


def test_a_former_host_without_an_agent_until_the_port_has_long_arrived_is_still_asked(lab: Lab) -> None:
    def reached(calls: Calls, now: Stage, source: str, _destination: str) -> None:
        if now is Stage.READY:
            lab.kill(f"agent:{source}", signal.SIGKILL)
            calls.begin()

    calls_outlast_a_move(lab, reached, lambda: lab.mend(PATIENCE_S))
