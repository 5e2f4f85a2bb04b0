"""Which of this host's connections rules as they would be would cut: by the reference's rules. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from weft.agent.conntrack import PROTOCOLS
from weft.agent.exporter import Ask
from weft.contracts.clock import Clock
from weft.contracts.connections import Carried
from weft.contracts.dataplane import DataPlane
from weft.feed.reflector import Tables
from weft.kit.errors import Rejected
from weft.policy import rows
from weft.policy.connections import State
from weft.policy.rows import Direction, Key, Row
from weft.reference import packet, security
from weft.reference.lookups import Lookups, Port
from weft.wire import cuts as wire
from weft.wire import feed

#: What was not judged by then is counted, and said.
PATIENCE_S = 4.0
_LOOK_AT_CLOCK = 256

_BASE = frozenset({"subnets", "routes", "security_groups"})
#: What is over cannot be cut.
_OVER = frozenset({State.TIME_WAIT, State.CLOSED})
_BY_ADDRESSES = frozenset({State.OTHER_UNREPLIED, State.OTHER_REPLIED})
_QUERIES = frozenset({State.ICMP_UNREPLIED, State.ICMP_REPLIED})
_REFUSED, _RELATED, _CONTROL_SIDE = 128, 2048, 4096


class Cuts:
    """Answers the question. tables: what this host has been told."""

    def __init__(self, host: str, ask: Ask, tables: Callable[[], Tables], clock: Clock) -> None:
        self._host = host
        self._ask = ask
        self._tables = tables
        self._clock = clock

    async def answer(self, body: bytes) -> bytes:
        """Raises Rejected."""
        try:
            question = msgspec.json.decode(body, type=wire.Question)
        except msgspec.DecodeError as fault:
            raise Rejected(f"not asked as it should be: {fault}") from fault
        wanted = {*question.ports, *question.gone}
        found = await self._ask(lambda plane: _connections(plane, wanted))
        lookups, names = self._as_it_would_be(question, found)
        until_s = self._clock.now_s() + PATIENCE_S
        said = await asyncio.to_thread(self._judge, question, found, lookups, names, until_s)
        return msgspec.json.encode(said)

    def _as_it_would_be(
        self, question: wire.Question, found: Mapping[str, Sequence[Carried]]
    ) -> tuple[Lookups, Mapping[int, str]]:
        """What rules of the ports rest on, and no more of what this host knows; and rules' names by number."""
        tables = self._tables()
        decoder = feed.Decoder()
        puts: dict[Key, Row] = {}
        gone: set[Key] = set()
        for line in question.frames:
            frame = decoder.decode(line.encode())
            if isinstance(frame, feed.Rows):
                puts.update((row.key, row) for row in frame.puts)
                gone.update(frame.deletes)
        lookups = Lookups(self._host)
        names: dict[int, str] = {}
        subnets: list[rows.Subnet] = []
        routes: list[Row] = []
        for table in tables.scopes.values():
            for key, row in table.items():
                if key[0] not in _BASE:
                    continue  # of records there are many: they are looked up
                match row:
                    case rows.Subnet():
                        subnets.append(row)
                    case rows.SecurityGroup():
                        names.update((rule.number, rule.name) for rule in row.rules)
                    case _:
                        routes.append(row)
        for each in (*subnets, *routes):
            lookups.put(each)
        remotes = {of.remote for each in found.values() for of in each}
        for row in self._records(tables, subnets, remotes, puts, gone):
            lookups.put(row)
        for row in puts.values():
            if not isinstance(row, rows.Record):
                lookups.put(row)
        return lookups, names

    def _records(
        self,
        tables: Tables,
        subnets: Sequence[rows.Subnet],
        remotes: Iterable[bytes],
        puts: Mapping[Key, Row],
        gone: set[Key],
    ) -> Iterable[Row]:
        texts = [packet.address_text(remote) for remote in remotes]
        for subnet in subnets:
            for text in texts:
                key: Key = ("records", subnet.vsid, text)
                row = puts.get(key) or (None if key in gone else tables.get(key))
                if row is not None:
                    yield row

    def _judge(
        self,
        question: wire.Question,
        found: Mapping[str, Sequence[Carried]],
        lookups: Lookups,
        names: Mapping[int, str],
        until_s: float,
    ) -> wire.Answer:
        cut: list[wire.Cut] = []
        total = looked_at = unjudged = 0
        late, gone = False, set(question.gone)
        for name, connections in found.items():
            port = lookups.port(name)
            for of in connections:
                if looked_at % _LOOK_AT_CLOCK == 0:
                    late = late or self._clock.now_s() > until_s
                looked_at += 1
                if name in gone:
                    why = _Refusal(None, "its port would not be there")
                elif port is None or port.vsid not in lookups.subnets or late:
                    unjudged += 1
                    continue
                elif (refused := refusal(lookups, port, of)) is not None:
                    why = refused
                else:
                    continue
                total += 1
                if len(cut) < wire.MOST_TOLD:
                    cut.append(_shown(name, of, names, why))
        return wire.Answer(cut=cut, total=total, looked_at=looked_at, unjudged=unjudged)


class _Refusal(msgspec.Struct, frozen=True):
    by: str | None
    why: str


def refusal(lookups: Lookups, port: Port, of: Carried) -> _Refusal | None:
    """Why a connection would be cut; None: it goes on."""
    if not security.is_checked(port) or security.keeps(lookups, port):
        return None
    subnet = lookups.subnets[port.vsid]

    def ask(direction: Direction, number: int | None) -> security.Judgement:
        return security.evaluate(lookups, port, subnet, security.Asked(direction, of.remote, of.protocol, number))

    sides = (Direction.EGRESS, Direction.INGRESS)
    state = State(of.state)
    numbers: tuple[int | None, int | None] = (of.remote_port, of.local_port)
    if state in _BY_ADDRESSES:
        numbers = (None, None)
    elif state in _QUERIES:
        numbers = (of.remote_port << 8 | of.code, of.remote_port << 8 | of.code)
    said = ask(sides[of.opener], numbers[of.opener])
    if not said.allowed and said.rule is None and of.flags & _RELATED:
        said = ask(sides[bool(of.flags & _CONTROL_SIDE)], of.control)
    if said.allowed and not said.stateful and state not in _QUERIES:
        # Of what is not tracked any more both ways are asked of, packet by packet.
        said = ask(sides[1 - of.opener], numbers[1 - of.opener])
    if said.allowed:
        return None
    by = None if said.rule is None else said.rule.name
    return _Refusal(by, f"{by} would deny it" if by else "no rule would allow it")


def _connections(plane: DataPlane, ports: set[str]) -> dict[str, list[Carried]]:
    keys: dict[str, list[bytes]] = {}
    for each in plane.connections():
        if each.port in ports and each.expires_s > 0 and not each.refused and each.state not in _OVER:
            keys.setdefault(each.port, []).append(each.key)
    return {port: [of for _, of in plane.carried(port, some)] for port, some in keys.items()}


def _shown(port: str, of: Carried, names: Mapping[int, str], why: _Refusal) -> wire.Cut:
    fields: dict[str, Any] = {"by": why.by, "why": why.why, "rule": names.get(of.rule)}
    return wire.Cut(
        port=port,
        protocol=PROTOCOLS.get(of.protocol, str(of.protocol)),
        local=packet.address_text(of.local),
        local_port=of.local_port,
        remote=packet.address_text(of.remote),
        remote_port=of.remote_port,
        state=State(of.state).label,
        begun_by="other" if of.opener else "guest",
        **fields,
    )
