"""How far a port is on its way to another host, from what hosts say of themselves. Moves nothing but its connections.

These go from host to host through here, a piece at a time, unread: the host that a port is moving to asks for them, and
the one that it leaves is asked. Neither is told of any other port.
"""

from __future__ import annotations

from weft.controller.questions import Unanswered
from weft.controller.service import Held, Service
from weft.kit.errors import Missing
from weft.model.names import Name, domain_of
from weft.model.objects import Port, VirtualSubnet
from weft.model.values import AdminState
from weft.wire.api import MoveStatus, PortStatus


def status(service: Service, held: Held, port: Port, destination: Name) -> MoveStatus:
    """Ready: every host sends to both and takes from both, and the destination would deliver to the guest now.

    So for the port's sub-ports, too: they are at the same guest, and go when it goes.
    """
    statuses = service.statuses
    behind: dict[Name, str] = {}
    away: list[str] = []
    refused: list[str] = []  # by the destination
    there = statuses.port(port.name, destination)
    if not statuses.has_applied(destination, held.revision):
        # What it said of an earlier attempt is no word on this one.
        there = PortStatus(state="unknown", reason=f"{destination} has not said yet")
    for one, each in ((held, port), *_subports(service, port)):
        for host in _hosts(service, each):
            why = _why_behind(service, one, each, host) if host == destination or host not in behind else None
            if why:
                behind.setdefault(host, why)
                # What the destination has not applied yet has not failed there: each is asked by its own revision.
                if host == destination and statuses.has_applied(destination, one.revision):
                    refused.append(why)
        here = statuses.port(each.name, destination)
        wanted = "active" if each.admin_state is AdminState.UP else "down"
        if here.state != wanted:
            what = "the port" if each is port else f"its sub-port {each.name}"
            away.append(f"{destination}: {what} is {here.state} there: {here.reason}")
            if each is not port and here.state == "failed" and statuses.has_applied(destination, one.revision):
                there = PortStatus(state="failed", reason=f"{what}: {here.reason}")
    if refused:
        there = PortStatus(state="failed", reason=refused[0])
    waits_for = [f"{host}: {why}" for host, why in behind.items()]
    if destination not in behind:
        waits_for += away
    return MoveStatus(
        destination=destination,
        ready=not waits_for,
        state=there.state,
        reason=there.reason,
        waiting_for=waits_for,
        absent=[host for host in behind if not statuses.is_connected(host)],
    )


#: Of a host that has nothing to tell yet: it waits so long for something (agent/handover.py, HOLD_S), and then says so.
ANSWER_S = 8.0


async def connections(service: Service, to: Name, port: str, after: int, former: str | None = None) -> bytes:
    """A piece of a port's connections (wire/carried.py), for the host that it is moving to; or the last, when it has
    arrived there, from a former host, which knows itself whether the port has just left it. Raises Missing when it is
    not moving there and not there, Unanswered when the host that it leaves does not say.
    """
    held = service.find(port)
    value = None if held is None else held.value
    arrived = former is not None and isinstance(value, Port) and value.host == to
    if not isinstance(value, Port) or not (arrived or value.destination == to):
        raise Missing(f"no port {port[:200]} is moving to {to}", "port")
    question: dict[str, object] = {"port": port, "after": after}
    source: str | None = value.host
    if former is not None:
        question["last"] = True
        source = former if arrived else source
    if source is None:
        raise Unanswered(f"{port} was on no host")
    return await service.questions.ask(source, "connections", question, timeout_s=ANSWER_S)


def _subports(service: Service, port: Port) -> list[tuple[Held, Port]]:
    found = []
    for name in service.subports_of(port.name):
        held = service.find(name)
        if held is not None and isinstance(held.value, Port):
            found.append((held, held.value))
    return found


def _hosts(service: Service, port: Port) -> list[Name]:
    """Whoever may send to the port."""
    return list(service.hosts_in(domain_of(port.virtual_subnet)))


def _why_behind(service: Service, held: Held, port: Port, host: Name) -> str | None:
    subnet = service.get(port.virtual_subnet).value
    assert isinstance(subnet, VirtualSubnet)  # noqa: S101 -- a name says its kind
    return service.statuses.why_behind(host, held.revision, ("macs", subnet.vsid, port.mac))
