"""What the agent says of its ports: to the controller, and to whoever asks on this host.

``states`` decides and is pure; ``Reporter`` carries it to the controller, as soon as it has changed, and again in full
whenever the controller may have forgotten. Never says active of a port that carries no traffic.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

import structlog

from weft.agent.bindings import Plan, tap_of
from weft.agent.links import Link
from weft.agent.reconcile import Progress
from weft.client.client import ApiError
from weft.contracts.clock import Clock
from weft.contracts.dataplane import Traffic
from weft.kit.errors import Retry
from weft.policy.drop import DropReason
from weft.policy.rows import Host, Port
from weft.wire.api import FailureReport, PortReport, StatusReport

_log = structlog.get_logger("weft.agent")

#: A full map can fail a hundred thousand rows; the first so many tell as much.
MOST_FAILURES = 100

RETRY_S = 1.0


class Controller(Protocol):
    """Whom to tell."""

    async def report(self, host: str, report: StatusReport) -> None: ...


def state_of(
    port: Port, progress: Progress, plan: Plan, explicit: Mapping[str, str], links: Mapping[str, Link]
) -> PortReport:
    """One port. The first thing that keeps it from carrying traffic is the reason."""
    trouble = progress.troubles.get(port.key)
    if trouble is not None:
        return PortReport("failed", trouble.failure.reason)
    if port.port not in progress.ports:
        return PortReport("down", "not programmed yet")
    holder = port.port if port.parent is None else port.parent
    interface = plan.bindings.get(holder)
    if interface is None and port.parent is not None:
        return PortReport("down", f"its parent, {port.parent}, has no interface")
    if interface is None:
        wanted = explicit.get(port.port)
        if wanted is not None:
            return PortReport("down", f"interface {wanted} does not exist")
        for named, ports in plan.ambiguous.items():
            if port.port in ports:
                others = ", ".join(other for other in ports if other != port.port)
                return PortReport("failed", f"interface {named} may as well be of {others}: attach one of them")
        return PortReport("down", f"no interface: none was attached, and there is no {tap_of(port.port)}")
    failure = progress.binding_failures.get(holder)
    if failure is not None:
        return PortReport("failed", failure.reason)
    if progress.bindings.get(holder) != interface:
        return PortReport("down", f"interface {interface} is not bound yet")
    link = links.get(interface)
    if link is None or not link.up:
        return PortReport("down", f"interface {interface} is not up, or has no carrier: nobody is at its other end")
    if not port.enabled:
        return PortReport("down", "the port's admin state is down")
    return PortReport("active")


def states(
    ports: Iterable[Port], progress: Progress, plan: Plan, explicit: Mapping[str, str], links: Mapping[str, Link]
) -> dict[str, PortReport]:
    return {port.port: state_of(port, progress, plan, explicit, links) for port in ports}


def failures(progress: Progress, host: str = "", missing: Mapping[str, str] | None = None) -> list[FailureReport]:
    """The first of what could not be carried out. missing: the PAs that the host lacks, as ``pas_missing``."""
    lacking = [FailureReport(["hosts", host], why) for why in (missing or {}).values()]
    # Copied in one step: the worker may add to it in the middle of a loop.
    rows = [trouble.failure for trouble in list(progress.troubles.values())]
    found = [*progress.binding_failures.values(), *rows]
    return [*lacking, *(FailureReport(list(failure.key), failure.reason) for failure in found[:MOST_FAILURES])]


def pas_missing(host: Host | None, addresses: Mapping[str, Collection[str]]) -> dict[str, str]:
    """The PAs that policy gives this host and no interface of it has; by each, why that matters, and what to do.
    addresses: by interface.
    """
    if host is None:
        return {}
    present = {address for each in addresses.values() for address in each}
    found: dict[str, str] = {}
    for uplink in host.uplinks:
        for pa in uplink.pas:
            if pa not in present:
                has = ", ".join(addresses.get(uplink.interface, ())) or "none"
                found[pa] = (
                    f"this host does not have its PA {pa}, so what other hosts send there is lost: give it to "
                    f"{uplink.interface} (ip address add {pa}/LENGTH dev {uplink.interface}), or put into the pas of "
                    f"{host.host} an address that {uplink.interface} has ({has})"
                )
    return found


def drops(counters: Mapping[str, Traffic]) -> dict[str, int]:
    """Packets by reason, of all interfaces together."""
    found: Counter[str] = Counter()
    for traffic in counters.values():
        found.update({DropReason(reason).label: count for reason, count in traffic.drops.items() if count})
    return dict(sorted(found.items()))


class Reporter:
    """Tells the controller what it does not know yet."""

    def __init__(
        self, host: str, controller: Controller, clock: Clock, read: Callable[[], StatusReport | None]
    ) -> None:
        """read: the whole present state, or None while there is none to tell."""
        self._host = host
        self._controller = controller
        self._clock = clock
        self._read = read
        self._dirty = asyncio.Event()
        self._told: StatusReport | None = None

    def changed(self) -> None:
        self._dirty.set()

    def forgotten(self) -> None:
        """The controller may know nothing: tell it all."""
        self._told = None
        self._dirty.set()

    async def run(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            current = self._read()
            if current is None:
                continue
            told = self._told
            report = _difference(told, current)
            if report is None:
                continue
            # Set before it is sent: forgotten() in the meantime must win.
            self._told = current
            try:
                await self._controller.report(self._host, report)
            except (Retry, ApiError) as fault:
                _log.info("the controller was not told", reason=str(fault))
                self._told = None
                await self._clock.sleep(RETRY_S)
                self._dirty.set()


def _difference(told: StatusReport | None, current: StatusReport) -> StatusReport | None:
    """What to say to one who knows ``told``; None when that is nothing."""
    if told is None or told.ports.keys() - current.ports.keys():
        return current
    ports = {port: state for port, state in current.ports.items() if told.ports.get(port) != state}
    same = told.revision == current.revision and told.failures == current.failures and told.drops == current.drops
    if not ports and same:
        return None
    return StatusReport(revision=current.revision, ports=ports, failures=current.failures, drops=current.drops)
