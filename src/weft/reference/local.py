"""To the ports of this host: the VSID ACL, their security groups, their limits. The last questions of all."""

from __future__ import annotations

from weft.policy.drop import DropReason
from weft.reference import guard, packet
from weft.reference.lookups import Lookups, Port
from weft.reference.packet import Ip
from weft.reference.qos import Direction
from weft.reference.verdict import Drop, ToPort


def to_local(
    lookups: Lookups, vsid: int, mac: bytes, frame: bytes, steps: list[str], came_from: Port | None = None
) -> ToPort | Drop:
    """To the bound port with the MAC in the subnet: the VSID ACL."""
    local = lookups.local_port(vsid, mac)
    if local is None:
        steps.append(f"VSID ACL: no port with MAC {packet.mac_text(mac)} in VSID {vsid} here")
        return Drop(DropReason.VSID_ACL)
    if came_from is not None and local.name == came_from.name:
        steps.append(f"{local.name} is where the packet came from")
        return Drop(DropReason.HAIRPIN)
    if not local.enabled:
        steps.append(f"{local.name} is disabled")
        return Drop(DropReason.PORT_DOWN)
    steps.append(f"to port {local.name}: {len(frame)} bytes")
    return ToPort(local.name, frame)


def admitted(lookups: Lookups, verdict: ToPort | Drop, steps: list[str]) -> ToPort | Drop:
    """What becomes of a frame for a local port, once its groups and then its limit have been asked."""
    port = lookups.port(verdict.port) if isinstance(verdict, ToPort) else None
    if port is None or not isinstance(verdict, ToPort):
        return verdict
    parsed = packet.parse(verdict.frame)
    if isinstance(parsed, Ip):
        reason = guard.check(lookups, port, Direction.TO_GUEST, parsed, steps)
        if reason is not None:
            return Drop(reason)
    return within_limit(lookups, verdict, steps)


def within_limit(lookups: Lookups, verdict: ToPort | Drop, steps: list[str]) -> ToPort | Drop:
    """What becomes of a frame for a local port, once the port's limit has been asked."""
    port = lookups.port(verdict.port) if isinstance(verdict, ToPort) else None
    if port is None or not isinstance(verdict, ToPort):
        return verdict
    if lookups.within_limit(port, Direction.TO_GUEST, len(verdict.frame)):
        return verdict
    steps.append(f"{port.name} has been sent all that it may for now")
    return Drop(DropReason.RATE_LIMIT)
