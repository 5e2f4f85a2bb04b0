"""Why the mirror of a port copies nothing to the port that it is to. Changes nothing."""

from __future__ import annotations

from weft.controller.service import Service
from weft.model.objects import Port


def why_idle(service: Service, port: Port) -> str | None:
    """None: it copies, or there is none, or it is to an address, or the port itself is on no host."""
    if port.mirror is None or (to := port.mirror.port) is None or not port.hosts:
        return None
    held = service.find(to)
    if held is None or not isinstance(held.value, Port):
        return f"nothing is copied: {to} does not exist"
    watcher = held.value
    if not watcher.hosts:
        return f"nothing is copied: {to} is on no host"
    both = [host for host in port.hosts if host in watcher.hosts]
    if not both:
        here, there = (" and ".join(each.hosts) for each in (port, watcher))
        return f"nothing is copied: {to} is on {there}, and copies stay on {here}"
    said = service.statuses.port(to, both[0])
    if said.state in ("down", "failed"):
        return f"nothing is copied: {to} is {said.state}: {said.reason}"
    return None
