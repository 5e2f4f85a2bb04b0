"""What hosts say of themselves. Lives in memory only: a host that comes back says it all again.

A host speaks to one controller, and that one tells the others: what is known here is what any of them was told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from dataclasses import dataclass, field

from weft.kit.errors import Rejected
from weft.model.names import Kind, Name, find_kind
from weft.policy.rows import Key
from weft.wire.api import FailureReport, HostStatus, PortReport, PortStatus, StatusReport, Told

# Lines that another controller may be behind before it is cut off, and starts over.
_BEHIND = 50_000

#: Of one host. A hostile one must not fill the controller's memory with ports that there are not.
MOST_PORTS = 20_000

#: Reasons for drops, and letters of one: an agent may be newer than its controller, and know others.
MOST_REASONS, MOST_REASON = 256, 64


@dataclass(slots=True)
class _Said:
    """By one host, so far."""

    revision: int = 0
    ports: dict[str, PortReport] = field(default_factory=dict)
    failures: tuple[FailureReport, ...] = ()
    drops: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Listener:
    """Another controller that is told."""

    lines: deque[Told] = field(default_factory=deque)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    cut_off: bool = False


class Statuses:
    """A port is what its own host says it is, for as long as that host is there to say it."""

    def __init__(self, here: Callable[[], Collection[str]]) -> None:
        """here: the hosts whose feeds are open at this controller."""
        self._here = here
        self._there: dict[str, set[str]] = {}  # the hosts that are connected to each of the others
        self._said: dict[str, _Said] = {}
        self._listeners: set[_Listener] = set()

    def report(self, host: Name, report: StatusReport) -> None:
        """By a host, to this controller."""
        self._take(host, report)
        self._tell(Told(host=host, report=report))

    def connection(self, host: str, open_: bool) -> None:
        """A host's feed was opened or closed here."""
        self._tell(Told(host=host, connected=open_))

    def _take(self, host: str, report: StatusReport) -> None:
        for port in report.ports:
            if find_kind(port) is not Kind.PORT:
                raise Rejected(f"{port!r} is not a port's name such as tenants/T/ports/P", "ports")
        said = self._said.setdefault(host, _Said())
        known = {} if report.complete else said.ports
        if len(known.keys() | report.ports.keys()) > MOST_PORTS:
            raise Rejected(f"no host runs more than {MOST_PORTS} ports", "ports")
        if len(report.drops) > MOST_REASONS or any(len(reason) > MOST_REASON for reason in report.drops):
            raise Rejected("these are more than the reasons that there are", "drops")
        said.revision = report.revision
        said.drops = report.drops
        if report.complete:
            said.ports = dict(report.ports)
            said.failures = tuple(report.failures)
            return
        said.ports.update(report.ports)
        # Failures have no "all is well" of their own: the last report's are those there are.
        said.failures = tuple(report.failures)

    # -- between controllers --

    def hear(self, controller: str, line: Told) -> None:
        """What another controller was told. Never passed on: each tells all."""
        connected = self._there.setdefault(controller, set())
        if line.connected is True:
            connected.add(line.host)
        elif line.connected is False:
            connected.discard(line.host)
        if line.report is not None:
            said = self._said.get(line.host)
            # A host that has moved may have said more already, here, than what comes by the way it has left.
            if said is None or line.report.revision >= said.revision:
                self._take(line.host, line.report)

    def hear_anew(self, controller: str) -> None:
        """All that it has heard is told again."""
        self._there[controller] = set()

    def hear_no_more(self, controller: str) -> None:
        """It is gone: nobody is connected to it."""
        self._there.pop(controller, None)

    async def tell(self) -> AsyncGenerator[Told, None]:
        """All that is known here, then what comes. Ends for whoever is too far behind."""
        listener = _Listener()
        self._listeners.add(listener)
        try:
            # A host may be connected and have said nothing yet: its reports to come would not say that it is there.
            for host in dict.fromkeys((*self._said, *self._here())):
                said = self._said.get(host)
                report = (
                    None
                    if said is None
                    else StatusReport(
                        revision=said.revision,
                        ports=dict(said.ports),
                        failures=list(said.failures),
                        drops=said.drops,
                        complete=True,
                    )
                )
                yield Told(host=host, report=report, connected=host in self._here())
            yield Told(synced=True)
            while not listener.cut_off:
                while listener.lines:
                    yield listener.lines.popleft()
                listener.woken.clear()
                await listener.woken.wait()
        finally:
            self._listeners.discard(listener)

    def _tell(self, line: Told) -> None:
        for listener in self._listeners:
            listener.lines.append(line)
            listener.cut_off = listener.cut_off or len(listener.lines) > _BEHIND
            listener.woken.set()

    # -- what is known --

    def forget_host(self, host: str) -> None:
        self._said.pop(host, None)

    def forget_port(self, port: str, host: str) -> None:
        """What a host said of a port that it runs no longer; otherwise a port that returns would be what it was."""
        if said := self._said.get(host):
            said.ports.pop(port, None)

    def port(self, name: str, host: str | None) -> PortStatus:
        """What a host says of a port that it runs, or that is moving there."""
        if host is None:
            return PortStatus(state="down", reason="it is on no host")
        said = self._said.get(host)
        report = said.ports.get(name) if said else None
        if not self.is_connected(host):
            last = f"; it last said {report.state}" if report else ""
            return PortStatus(state="unknown", reason=f"{host} is not connected{last}", host=host)
        if report is None:
            return PortStatus(state="unknown", reason=f"{host} has not said yet", host=host)
        return PortStatus(state=report.state, reason=report.reason, host=host)

    def host(self, name: str) -> HostStatus:
        said = self._said.get(name)
        return HostStatus(
            state="connected" if self.is_connected(name) else "absent",
            applied_revision=said.revision if said else None,
            failures=list(said.failures) if said else [],
            drops=said.drops if said else {},
        )

    def is_connected(self, host: str) -> bool:
        return host in self._here() or any(host in hosts for hosts in self._there.values())

    def controller_of(self, host: str) -> str | None:
        """Which of the other controllers a host is connected to."""
        return next((controller for controller, hosts in self._there.items() if host in hosts), None)

    def has_applied(self, host: str, revision: int) -> bool:
        """Whether a host has said that it has done with a revision, whatever came of it."""
        said = self._said.get(host)
        return said is not None and said.revision >= revision

    def why_behind(self, host: str, revision: int, key: Key) -> str | None:
        """Why a host does not do yet what a row of a revision says; None: it does."""
        said = self._said.get(host)
        if said is None or not self.has_applied(host, revision):
            return "applies it" if self.is_connected(host) else "is not connected"
        wanted = list(key)
        return next((failure.reason for failure in said.failures if failure.key == wanted), None)

    def applied(self) -> Iterator[tuple[str, int]]:
        """(host, the revision it has applied) of those that have said so."""
        return ((host, said.revision) for host, said in self._said.items())

    def ports_active(self) -> int:
        return sum(
            report.state == "active"
            for host, said in self._said.items()
            if self.is_connected(host)
            for report in said.ports.values()
        )
