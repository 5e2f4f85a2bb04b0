"""How far a port is on its way to another host, from what hosts say of themselves. Moves nothing."""

from __future__ import annotations

from weft.controller.service import Held, Service
from weft.model.names import Name, domain_of
from weft.model.objects import Port, VirtualSubnet
from weft.model.values import AdminState
from weft.wire.api import MoveStatus


def status(service: Service, held: Held, port: Port, destination: Name) -> MoveStatus:
    """Ready: every host sends to both and takes from both, and the destination would deliver to the guest now."""
    statuses = service.statuses
    behind = {host: why for host in _hosts(service, port) if (why := _why_behind(service, held, port, host))}
    there = statuses.port(port.name, destination)
    waits_for = [f"{host}: {why}" for host, why in behind.items()]
    wanted = "active" if port.admin_state is AdminState.UP else "down"
    if there.state != wanted and destination not in behind:
        waits_for.append(f"{destination}: the port is {there.state} there: {there.reason}")
    return MoveStatus(
        destination=destination,
        ready=not waits_for,
        state=there.state,
        reason=there.reason,
        waiting_for=waits_for,
        absent=[host for host in behind if not statuses.is_connected(host)],
    )


def _hosts(service: Service, port: Port) -> list[Name]:
    """Whoever may send to the port."""
    return list(service.hosts_in(domain_of(port.virtual_subnet)))


def _why_behind(service: Service, held: Held, port: Port, host: Name) -> str | None:
    subnet = service.get(port.virtual_subnet).value
    assert isinstance(subnet, VirtualSubnet)  # noqa: S101 -- a name says its kind
    return service.statuses.why_behind(host, held.revision, ("macs", subnet.vsid, port.mac))
