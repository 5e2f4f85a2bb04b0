"""What hosts say of themselves. Lives in memory only: a host that comes back says it all again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from weft.kit.errors import Rejected
from weft.model.names import Kind, Name, find_kind
from weft.policy.rows import Key
from weft.wire.api import FailureReport, HostStatus, PortReport, PortStatus, StatusReport

#: Of one host. A hostile one must not fill the controller's memory with ports that there are not.
MOST_PORTS = 20_000


@dataclass(slots=True)
class _Said:
    """By one host, so far."""

    revision: int = 0
    ports: dict[str, PortReport] = field(default_factory=dict)
    failures: tuple[FailureReport, ...] = ()


class Statuses:
    """A port is what its own host says it is, for as long as that host is there to say it."""

    def __init__(self, connected: Callable[[str], bool]) -> None:
        self._connected = connected
        self._said: dict[str, _Said] = {}

    def report(self, host: Name, report: StatusReport) -> None:
        for port in report.ports:
            if find_kind(port) is not Kind.PORT:
                raise Rejected(f"{port!r} is not a port's name such as tenants/T/ports/P", "ports")
        said = self._said.setdefault(host, _Said())
        known = {} if report.complete else said.ports
        if len(known.keys() | report.ports.keys()) > MOST_PORTS:
            raise Rejected(f"no host runs more than {MOST_PORTS} ports", "ports")
        said.revision = report.revision
        if report.complete:
            said.ports = dict(report.ports)
            said.failures = tuple(report.failures)
            return
        said.ports.update(report.ports)
        # Failures have no "all is well" of their own: the last report's are those there are.
        said.failures = tuple(report.failures)

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
        if not self._connected(host):
            last = f"; it last said {report.state}" if report else ""
            return PortStatus(state="unknown", reason=f"{host} is not connected{last}", host=host)
        if report is None:
            return PortStatus(state="unknown", reason=f"{host} has not said yet", host=host)
        return PortStatus(state=report.state, reason=report.reason, host=host)

    def host(self, name: str) -> HostStatus:
        said = self._said.get(name)
        return HostStatus(
            state="connected" if self._connected(name) else "absent",
            applied_revision=said.revision if said else None,
            failures=list(said.failures) if said else [],
        )

    def is_connected(self, host: str) -> bool:
        return self._connected(host)

    def why_behind(self, host: str, revision: int, key: Key) -> str | None:
        """Why a host does not do yet what a row of a revision says; None: it does."""
        said = self._said.get(host)
        if said is None or said.revision < revision:
            return "applies it" if self._connected(host) else "is not connected"
        wanted = list(key)
        return next((failure.reason for failure in said.failures if failure.key == wanted), None)

    def applied(self) -> Iterator[tuple[str, int]]:
        """(host, the revision it has applied) of those that have said so."""
        return ((host, said.revision) for host, said in self._said.items())

    def ports_active(self) -> int:
        return sum(
            report.state == "active"
            for host, said in self._said.items()
            if self._connected(host)
            for report in said.ports.values()
        )
