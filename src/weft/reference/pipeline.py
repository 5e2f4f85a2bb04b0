"""The two ways into a host, in datapath.md's order of checks. Pure: counts nothing and keeps nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from weft.policy.drop import DropReason
from weft.reference import antispoof, dhcp, flood, guard, neighbour, packet, rewrite, tunnel
from weft.reference.forwarding import Forwarding
from weft.reference.local import admitted, to_local
from weft.reference.lookups import Location, Lookups, Port, Subnet
from weft.reference.packet import Arp, Ip
from weft.reference.qos import Direction
from weft.reference.verdict import Drop, ToPort, ToStack, Verdict


def from_guest(
    lookups: Lookups, reachable: Callable[[str], bool], port: Port, frame: bytes, steps: list[str]
) -> Verdict:
    """What becomes of a frame from a port's guest."""
    steps.append(f"from port {port.name}: {len(frame)} bytes")
    if not port.enabled:
        steps.append(f"{port.name} is disabled")
        return Drop(DropReason.PORT_DOWN)
    subnet = lookups.subnets.get(port.vsid)
    if subnet is None:
        steps.append(f"VSID {port.vsid}: no such subnet on this host")
        return Drop(DropReason.UNKNOWN_VSID)
    parsed = packet.parse(frame)
    if isinstance(parsed, DropReason):
        steps.append(f"headers: {parsed.label}")
        return Drop(parsed)
    allowed = antispoof.check(port, parsed)
    _say_spoofing(parsed, allowed, steps)
    if isinstance(allowed, DropReason):
        return Drop(allowed)
    match parsed:
        case Arp():
            return neighbour.arp(lookups, port, subnet, parsed, steps)
        case Ip():
            return _ip_from_guest(lookups, reachable, port, subnet, parsed, steps)
        case _:
            assert_never(parsed)


def _ip_from_guest(
    lookups: Lookups, reachable: Callable[[str], bool], port: Port, subnet: Subnet, ip: Ip, steps: list[str]
) -> Verdict:
    message = packet.neighbour_message(ip)
    if message is not None:
        return neighbour.discovery(lookups, port, subnet, ip, message, steps)
    if packet.redirects(ip):
        steps.append("neighbour discovery: a redirect: a hint, consumed here")
        return Drop(DropReason.ANNOUNCEMENT)
    if packet.may_hide_discovery(ip):
        steps.append("hop limit 255 and an extension header: neighbour discovery may hide behind it")
        return Drop(DropReason.MALFORMED)
    if (verdict := dhcp.check(port, subnet, ip, steps)) is not None:
        return verdict
    if not lookups.within_limit(port, Direction.FROM_GUEST, len(ip.frame)):
        steps.append(f"{port.name} has sent all that it may for now")
        return Drop(DropReason.RATE_LIMIT)
    kept = flood.kept_here(subnet, ip) is not None
    # What the host itself keeps is asked of no group: only whether it may go out into a VLAN as well.
    reason = None if kept and not subnet.bridged else guard.check(lookups, port, Direction.FROM_GUEST, ip, steps)
    if reason is not None and not kept:
        return Drop(reason)
    if packet.is_group(ip.destination_mac):
        return flood.from_guest(lookups, reachable, port, subnet, ip, steps, refused=reason is not None)
    return Forwarding(lookups, reachable, port, subnet, steps).forward(ip)


def _say_spoofing(parsed: Ip | Arp, allowed: antispoof.Allowed | DropReason, steps: list[str]) -> None:
    source = parsed.sender if isinstance(parsed, Arp) else parsed.source
    why = f"is not the port's ({allowed.label})" if isinstance(allowed, DropReason) else allowed.because
    steps.append(f"anti-spoofing: {packet.mac_text(parsed.source_mac)} with {packet.address_text(source)} {why}")


def from_underlay(lookups: Lookups, frame: bytes, steps: list[str]) -> Verdict:
    """What becomes of a frame from an uplink."""
    outer = tunnel.take(lookups.host, lookups.subnets, lookups.accepts, lookups.groups, frame)
    match outer:
        case tunnel.NotOurs():
            return _rewritten(lookups, frame, steps)
        case tunnel.Bad(reason):
            steps.append(f"from the uplink: outer headers: {reason.label}")
            return Drop(reason)
        case tunnel.Tunnelled():
            steps.append(
                f"from the uplink: {outer.rule} from {packet.address_text(outer.source)}, VSID {outer.vsid}, "
                f"{len(outer.inner)} bytes inside"
            )
            return _inner(lookups, outer, steps)
        case _:
            assert_never(outer)


def _rewritten(lookups: Lookups, frame: bytes, steps: list[str]) -> Verdict:
    taken = rewrite.take(lookups, frame, steps)
    match taken:
        case rewrite.NotOurs():
            steps.append("from the uplink: nothing of ours for a PA of this host: to the host's own stack")
            return ToStack()
        case rewrite.Bad(reason):
            return Drop(reason)
        case rewrite.Arrived(port, arrived):
            return admitted(lookups, ToPort(port.name, arrived), steps)
        case _:
            assert_never(taken)


def _inner(lookups: Lookups, outer: tunnel.Tunnelled, steps: list[str]) -> Verdict:
    subnet = lookups.subnets.get(outer.vsid)
    if subnet is None:
        steps.append(f"VSID {outer.vsid}: no such subnet on this host")
        return Drop(DropReason.UNKNOWN_VSID)
    if outer.rule not in subnet.accepts:
        steps.append(f"VSID {outer.vsid}: does not travel by {outer.rule}, but by {', '.join(sorted(subnet.accepts))}")
        return Drop(DropReason.RULE_NOT_ACCEPTED)
    if outer.group is not None and outer.group != subnet.provider_group:
        steps.append(f"VSID {outer.vsid}: {packet.address_text(outer.group)} is not its group")
        return Drop(DropReason.RULE_NOT_ACCEPTED)
    parsed = _parse_inner(outer.inner)
    if isinstance(parsed, DropReason):
        steps.append(f"inner headers: {parsed.label}")
        return Drop(parsed)
    many = packet.is_group(parsed.destination_mac)
    if many and (reason := flood.why_not(subnet, parsed)) is not None:
        steps.append(f"destination MAC {packet.mac_text(parsed.destination_mac)} is a group's: not carried")
        return Drop(reason)
    if not many and outer.group is not None:
        steps.append("to one, and it came to a group of the underlay")
        return Drop(DropReason.MULTICAST)
    place = _placed(lookups, subnet, parsed)
    steps.append(f"source {packet.address_text(parsed.source)}: policy places it {_where(place)}")
    if place is None or not place.is_at(lookups.identity(outer.source)):
        return Drop(DropReason.FORGED_SOURCE)
    if outer.source in lookups.host.pas:
        steps.append("which is this host's own: it does not come by the wire")
        return Drop(DropReason.FORGED_SOURCE)
    local = None if many else to_local(lookups, subnet.vsid, parsed.destination_mac, parsed.frame, steps)
    if isinstance(local, Drop):
        return local
    if outer.ecn == packet.CE:
        if parsed.ecn == 0:
            steps.append("ECN: congestion was marked outside, and the inner transport cannot be told")
            return Drop(DropReason.ECN)
        steps.append("ECN: congestion was marked outside, and is now marked inside")
        parsed = replace(parsed, frame=packet.with_ce(parsed))
    if local is None:
        return flood.from_underlay(lookups, subnet, parsed, steps)
    return admitted(lookups, ToPort(local.port, parsed.frame), steps)


def _where(place: Location | None) -> str:
    if place is None:
        return "nowhere"
    text = f"at PA {packet.address_text(place.pa)}"
    return text if place.also is None else f"{text}, and moving to {packet.address_text(place.also)}"


def _parse_inner(frame: bytes) -> Ip | DropReason:
    parsed = packet.parse(frame)
    # ARP is answered on its own host: an inner one is no Ethertype of ours, however long it is.
    if frame[12:14] == b"\x08\x06" or isinstance(parsed, Arp):
        return DropReason.ETHERTYPE
    return parsed


def _placed(lookups: Lookups, subnet: Subnet, ip: Ip) -> Location | None:
    """Where policy places the inner source: the first record found."""
    found = lookups.record(subnet.vsid, ip.source)
    if found is None and not packet.is_link_local6(ip.source):
        route = lookups.route(subnet.rdid, ip.source)
        if route is not None:
            found = lookups.record(route.vsid, ip.source if route.next_hop is None else route.next_hop)
    return found or lookups.mac_record(subnet.vsid, ip.source_mac)
