"""The programs' connection tracker: on the conversations that every tracker runs, and against the reference."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from packets.conversations import ADMITTED, CONVERSATIONS, Conversation
from weft.dataplane.ebpf import build, conntrack, layout, libbpf, security
from weft.policy.drop import DropReason
from weft.policy.rows import Direction, SecurityGroup, SecurityRule
from weft.policy.security import compile_policy

SECOND_NS = 10**9
SOURCE = Path(__file__).with_name("conntrack.bpf.c")
LOOPBACK = 1
PORTS = ("a", "b", "c")


def groups(admitted: Collection[tuple[int, int | None]], *, open_out: bool) -> SecurityGroup:
    """The guest may open anything, and to it may come what is admitted."""
    found = [
        SecurityRule(
            rank, f"in-{rank}", Direction.INGRESS, version, protocol, *(() if number is None else (number, number))
        )
        for rank, (protocol, number) in enumerate(sorted(admitted, key=str), 10)
        for version in (4, 6)
    ]
    out = [SecurityRule(version, f"out-{version}", Direction.EGRESS, version) for version in (4, 6)] if open_out else []
    return SecurityGroup(1, "group", rules=(*found, *out))


class Asking:
    """The compiled tracker, with ports a, b and c that have one security group."""

    def __init__(self, source: Path) -> None:
        with libbpf.Object(source) as opened:
            self.maps, self.programs = opened.load()
        self._run = libbpf.TestRun(self.programs["ask"])
        self.connections = conntrack.Connections(self.maps["connections"], self.programs["asked"])
        self._next = 2
        self.settings = conntrack.Settings()
        self.epoch = 0
        self.start_ns = 0

    def begin(self, settings: conntrack.Settings, *, keep: bool) -> None:
        for name in ("connections", "quotas"):
            for key, _ in list(self.maps[name].items()):
                self.maps[name].delete(key)
        self.maps["tracked"].update(layout.NUMBER.pack(0), layout.TRACKED.pack(0, 0))
        self.settings, self._keep = settings, keep
        self.start_ns += 10**6 * SECOND_NS  # datagrams under way are forgotten

    def admit(self, group: SecurityGroup) -> None:
        policies = {}
        for direction, version in security.LOOKS:
            policy = compile_policy([group], {}, direction, version)
            policies[direction, version] = self._next
            for name, entries in (
                ("classes", security.classes(self._next, policy)),
                ("rules", security.rules(self._next, policy.rules)),
            ):
                for key, value in entries.items():
                    self.maps[name].update(key, value)
            self._next += 1
        for rank, port in enumerate(PORTS):
            flags = security.Flag.KEEP if self._keep else security.Flag(0)
            self.maps["guards"].update(layout.Seat(rank).key, security.guard(port, policies, flags))
        self.epoch += 1

    def at(self, now_ns: int) -> None:
        value = conntrack.tracking(self.settings, self.epoch, clock_ns=now_ns)
        self.maps["tracking"].update(layout.NUMBER.pack(0), value)

    def ask(self, port: str, side: int, frame: bytes) -> DropReason | None:
        answer = self._run(frame, LOOPBACK, mark=PORTS.index(port) << 1 | side).retval
        assert answer >= 0
        return DropReason(answer) if answer else None


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    made = Asking(build.compile_programs(tmp_path_factory.mktemp("conntrack") / "conntrack.bpf.o", SOURCE))
    yield made
    libbpf.close_all(made.maps, made.programs)


@pytest.mark.root
@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda conversation: conversation.name)
def test_a_conversation(asking: Asking, conversation: Conversation) -> None:
    asking.begin(conntrack.Settings(**conversation.limits), keep=conversation.keep)  # type: ignore[arg-type]
    asking.admit(groups(ADMITTED, open_out=True))
    now_ns = asking.start_ns
    for rank, turn in enumerate(conversation.turns):
        now_ns += turn.after_s * SECOND_NS
        if turn.admitted is not None:
            asking.admit(groups(turn.admitted, open_out=turn.open))
        asking.at(now_ns)
        assert asking.ask(turn.port, turn.side, turn.frame) == turn.dropped, rank
