"""Connections for whoever asks the agent, and their sweeping. Decides of none: its data plane knows what is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import islice
from typing import Any

import msgspec

from weft.agent.exporter import Ask
from weft.agent.rule_log import RuleLog
from weft.contracts.clock import Clock
from weft.contracts.connections import Connection, ConnectionEvent, Logged
from weft.contracts.dataplane import DataPlane
from weft.kit.errors import Missing, Rejected
from weft.kit.waiting import readable
from weft.policy.connections import State
from weft.wire.listed import MOST_OF_HOST

SWEEP_S = 5.0
#: What a watcher has not read yet, at most; what comes beyond that it misses.
MOST_WAITING = 4096
#: Names that an error lists of those that there are.
_MOST_NAMED = 5

PROTOCOLS: Mapping[int, str] = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 58: "icmpv6", 132: "sctp", 136: "udplite"}
_NUMBERS = {name: number for number, name in PROTOCOLS.items()}
_STATES = {state.label: state for state in State}


@dataclass(frozen=True, slots=True)
class Missed:
    """So many events there was no place for: who listens is slower than they come."""

    count: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which connections; what is None says nothing of them."""

    tenant: str | None = None
    port: str | None = None  # tenants/blue/ports/web-1
    address: str | None = None  # at either end
    protocol: int | None = None
    state: State | None = None

    def matches(self, of: Connection) -> bool:
        return (
            (self.tenant is None or of.port.startswith(f"tenants/{self.tenant}/"))
            and (self.port is None or of.port == self.port)
            and (self.address is None or self.address in (of.local, of.remote))
            and (self.protocol is None or of.protocol == self.protocol)
            and (self.state is None or of.state is self.state)
        )


def parse(given: Mapping[str, str]) -> Filter:
    """A filter of what was asked for, by name."""
    unknown = given.keys() - {"tenant", "port", "address", "protocol", "state"}
    if unknown:
        raise Rejected(f"{min(unknown)!r} is none of tenant, port, address, protocol, state", min(unknown))
    state, protocol = (None if (text := given.get(name)) is None else text.lower() for name in ("state", "protocol"))
    address = given.get("address")
    if state is not None and state not in _STATES:
        raise Rejected(f"{state!r} is none of {', '.join(_STATES)}", "state")
    if protocol is not None and protocol not in _NUMBERS and not (protocol.isdecimal() and int(protocol) < 256):
        raise Rejected(f"{protocol!r} is none of {', '.join(_NUMBERS)}, nor a number of 0..255", "protocol")
    try:
        canonical = None if address is None else str(ip_address(address))
    except ValueError:
        raise Rejected(f"{address!r} is not an address such as 10.0.1.4", "address") from None
    number = None if protocol is None else _NUMBERS[protocol] if protocol in _NUMBERS else int(protocol)
    return Filter(given.get("tenant"), given.get("port"), canonical, number, None if state is None else _STATES[state])


def check(wanted: Filter, ports: Collection[str]) -> Filter:
    """The same, if the host has what it names. ports: the host's. Raises Missing."""
    if wanted.port is not None and wanted.port not in ports:
        raise Missing(f"this host has no {wanted.port!r}; it has {_some_of(ports)}", "port")
    tenants = {port.split("/")[1] for port in ports}
    if wanted.tenant is not None and wanted.tenant not in tenants:
        raise Missing(f"this host has no port of {wanted.tenant!r}; it has ports of {_some_of(tenants)}", "tenant")
    return wanted


def _some_of(names: Collection[str]) -> str:
    some = sorted(names)[:_MOST_NAMED]
    more = [f"{len(names) - len(some)} more"] if len(names) > len(some) else []
    return ", ".join(some + more) or "none"


class _Question(msgspec.Struct, frozen=True):
    port: str


def asked(body: bytes) -> Filter:
    """What the controller asks for: one port's."""
    try:
        return Filter(port=msgspec.json.decode(body, type=_Question).port)
    except msgspec.DecodeError as fault:
        raise Rejected(f"not asked as it should be: {fault}") from fault


def shown(of: Connection, rules: Mapping[int, str]) -> dict[str, Any]:
    """As JSON has it. rules: names by numbers; of one that is not there any more only its number is shown."""
    return {**_told(of, rules), "age_s": round(of.age_s, 3), "expires_s": round(of.expires_s, 3)}


def shown_event(event: ConnectionEvent | Missed, rules: Mapping[int, str]) -> dict[str, Any]:
    match event:
        case Missed(count):
            return {"event": "missed", "count": count}
        case ConnectionEvent(what, connection):
            return {"event": what, **_told(connection, rules)}


def _told(of: Connection, rules: Mapping[int, str]) -> dict[str, Any]:
    return {
        "port": of.port,
        "protocol": PROTOCOLS.get(of.protocol, str(of.protocol)),
        "local": of.local,
        "remote": of.remote,
        "local_port": of.local_port,
        "remote_port": of.remote_port,
        "state": of.state.label,
        "begun_by": "guest" if of.outward else "other",
        "rule": of.rule,
        "rule_name": rules.get(of.rule, ""),
        "refused": of.refused,
        "sent": {"packets": of.packets[0], "bytes": of.bytes[0]},
        "received": {"packets": of.packets[1], "bytes": of.bytes[1]},
    }


class Heard:
    """What somebody who listens has not read yet."""

    def __init__(self, wanted: Filter) -> None:
        self._wanted = wanted
        self._waiting: asyncio.Queue[ConnectionEvent | Missed] = asyncio.Queue()
        self._missed = 0

    def put(self, event: ConnectionEvent) -> None:
        if not self._wanted.matches(event.connection):
            return
        if self._waiting.qsize() >= MOST_WAITING:
            self._missed += 1
            return
        if self._missed:
            self._waiting.put_nowait(self._told())
        self._waiting.put_nowait(event)

    async def next(self) -> ConnectionEvent | Missed:
        if self._missed and self._waiting.empty():
            return self._told()
        return await self._waiting.get()

    def _told(self) -> Missed:
        missed, self._missed = Missed(self._missed), 0
        return missed


class Conntrack:
    """``run`` sweeps for ever, and reads what becomes of connections, and what rules log."""

    def __init__(self, fd: int | None, ask: Ask, clock: Clock, log: RuleLog) -> None:
        self._fd = fd
        self._ask = ask
        self._clock = clock
        self._log = log
        self._listeners: set[Heard] = set()
        self.keep: Callable[[], Collection[str]] = tuple  # ports that are gone whose connections stay for a while

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sweep())
            if self._fd is not None:
                tasks.create_task(self._read(self._fd))

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(SWEEP_S)
            await self._forget_what_is_over(self.keep())

    async def _forget_what_is_over(self, keep: Collection[str]) -> None:
        await self._ask(lambda plane: plane.sweep(keep))

    async def _read(self, fd: int) -> None:
        while True:
            await readable(fd)
            await self.take(await self._ask(lambda plane: plane.connection_events()))

    async def take(self, events: Iterable[ConnectionEvent | Logged]) -> None:
        """Events to who watches, and what rules log to the log."""
        logged = []
        for event in events:
            if isinstance(event, Logged):
                logged.append(event)
                continue
            for heard in self._listeners:
                heard.put(event)
        await self._log.write(logged)

    async def list(self, wanted: Filter) -> list[Connection]:
        """Those that have not expired; MOST_OF_HOST at most. Whoever wants others narrows it."""
        return await self._ask(lambda plane: list(islice(_living(wanted, plane.connections()), MOST_OF_HOST)))

    async def count(self, wanted: Filter, most: int) -> tuple[Sequence[Connection], int]:
        """The first of them, and how many there are, of which no more are kept meanwhile."""

        def counted(plane: DataPlane) -> tuple[list[Connection], int]:
            found = _living(wanted, plane.connections())
            some = list(islice(found, most))
            return some, len(some) + sum(1 for _ in found)

        return await self._ask(counted)

    async def flush(self, wanted: Filter) -> int:
        """Forget them; how many there were. What goes on of them is held against the rules as if it were new.

        Those that have expired and are there until the next sweep go, too, uncounted: they would take others' room.
        """

        def flushed(plane: DataPlane) -> int:
            found = [each for each in plane.connections() if wanted.matches(each)]
            plane.forget([each.key for each in found if each.expires_s <= 0])
            return plane.forget([each.key for each in found if each.expires_s > 0])

        return await self._ask(flushed)

    @asynccontextmanager
    async def listening(self, wanted: Filter) -> AsyncIterator[Heard]:
        """What becomes of them, from now on."""
        heard = Heard(wanted)
        self._listeners.add(heard)
        try:
            await self._tell()
            yield heard
        finally:
            self._listeners.discard(heard)
            # Whoever has gone away is cancelled again and again: programs are told all the same.
            await asyncio.shield(self._tell())

    async def _tell(self) -> None:
        """To the programs, whether somebody listens; of several who come and go at once, as it is by then."""
        await self._ask(lambda plane: plane.watch(on=bool(self._listeners)))

    async def watch(self, wanted: Filter) -> AsyncGenerator[ConnectionEvent, None]:
        """The same, of which nothing is said where some were missed."""
        async with self.listening(wanted) as heard:
            while True:
                event = await heard.next()
                if isinstance(event, ConnectionEvent):
                    yield event


def _living(wanted: Filter, found: Iterable[Connection]) -> Iterator[Connection]:
    return (each for each in found if wanted.matches(each) and each.expires_s > 0)
