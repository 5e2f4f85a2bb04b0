"""Broadcast and multicast: who gets a copy (datapath.md, Floods). Never says how often: it has no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from weft.model.features import overhead_bytes
from weft.policy.drop import DropReason
from weft.policy.rows import Rule
from weft.policy.upcall import UpcallKind
from weft.reference import guard, packet, tunnel
from weft.reference.lookups import Lookups, Port, Subnet, Wire
from weft.reference.packet import Ip
from weft.reference.qos import Direction
from weft.reference.verdict import (
    Announced,
    Announcing,
    Copies,
    Delivery,
    Drop,
    ToAgent,
    ToPort,
    ToUnderlay,
    ToWire,
    Verdict,
)

HOP_BY_HOP, IGMP, PIM = 0, 2, 103
PIM_ROUTERS = (b"\xe0\0\0\x0d", b"\xff\x02" + bytes(13) + b"\x0d")  # 224.0.0.13, ff02::d
MLD_TYPES = frozenset({130, 131, 132, 143})  # RFC 2710 section 3, RFC 3810 section 5
BROADCAST_MAC = b"\xff" * 6
LIMITED_BROADCAST = b"\xff" * 4


def why_not(subnet: Subnet, ip: Ip) -> DropReason | None:
    """Why a frame to a group's MAC is not carried at all; None: it is."""
    if not subnet.broadcast:
        return DropReason.MULTICAST
    if not is_group(ip.destination):
        return None if ip.destination_mac == BROADCAST_MAC else DropReason.MULTICAST
    # RFC 4291 section 2.7: scopes 0 and 1 never leave a machine.
    return DropReason.MULTICAST if len(ip.destination) == 16 and ip.destination[1] & 15 < 2 else None


def kept_here(subnet: Subnet, ip: Ip) -> UpcallKind | None:
    """What kind of word on who listens to what it is, which the agent keeps; None: it is none, or nobody keeps it."""
    to_a_group = packet.is_group(ip.destination_mac) and is_group(ip.destination)
    return _membership(ip) if subnet.snooping and to_a_group and why_not(subnet, ip) is None else None


def from_guest(
    lookups: Lookups,
    reachable: Callable[[str], bool],
    port: Port,
    subnet: Subnet,
    ip: Ip,
    steps: list[str],
    *,
    refused: bool = False,
) -> Verdict:
    """What becomes of a guest's frame to a group's MAC. refused: only the agent may have it."""
    mac = packet.mac_text(ip.destination_mac)
    reason = why_not(subnet, ip)
    if reason is not None:
        steps.append(f"destination MAC {mac} is a group's: not carried")
        return Drop(reason)
    if subnet.bridged and looped(lookups, port, ip.source_mac, steps):
        return Drop(DropReason.LOOP)
    wire = lookups.wire(subnet) if subnet.bridged else None
    if (kind := kept_here(subnet, ip)) is not None:
        steps.append(f"{kind.label}: to the agent, which keeps who listens to what")
        goes_out = not refused and not _is_longer(ip, limit_bytes(lookups, subnet))
        # A switch that keeps who listens to what wants to hear it, too.
        return ToAgent(kind, ip.frame, _out(wire, ip) if wire is not None and goes_out else None)
    remote = _remote(lookups, subnet, ip, steps)
    limit = _limit(lookups, subnet, remote)
    if _is_longer(ip, limit):
        steps.append(f"size: {ip.l3_length} bytes to many, and no more than {limit} fit")
        return Drop(DropReason.TOO_BIG)
    if port.qos is not None and port.qos.dscp is not None:
        steps.append(f"marked with DSCP {port.qos.dscp}")
        ip = replace(ip, frame=packet.with_dscp(ip, ip.frame, port.qos.dscp))
    here = list(_here(lookups, subnet, ip, came_from=port, steps=steps))
    there = list(_there(lookups, reachable, port, subnet, ip, remote))
    out = [] if wire is None else [_out(wire, ip)]
    copies = copied([*here, *there, *out], packet.address_text(ip.destination), steps)
    if isinstance(copies, Copies) and subnet.snooping and _speaks_pim(ip):
        steps.append("PIM: the agent hears that a multicast router is here")
        return Announcing(copies, Announced(ip.source_mac, ip.source, UpcallKind.PIM))
    return copies


def _remote(lookups: Lookups, subnet: Subnet, ip: Ip, steps: list[str]) -> dict[bytes, Rule]:
    """The other hosts that are to have a copy, but for those that the wire reaches, and by which rule: all by one."""
    found = {}
    group = _asked_for(subnet, ip)
    for pa, rule in lookups.members(subnet.vsid).items():
        if pa in lookups.host.pas or rule is Rule.VLAN:
            continue
        if group is not None and not lookups.wants(subnet.vsid, pa, group):
            steps.append(f"{packet.address_text(pa)} has said that nobody there listens to this group")
            continue
        found[pa] = rule
    # While a subnet changes its rule its hosts take each of them.
    return dict.fromkeys(found, min(found.values(), key=tuple(Rule).index)) if found else {}


def from_underlay(lookups: Lookups, subnet: Subnet, ip: Ip, steps: list[str]) -> Copies | Drop:
    """What becomes of a frame to a group's MAC that came by an uplink: never back to the underlay."""
    return copied(
        list(_here(lookups, subnet, ip, came_from=None, steps=steps)), packet.address_text(ip.destination), steps
    )


def looped(lookups: Lookups, port: Port, mac: bytes, steps: list[str]) -> bool:
    """Whether a frame of a bridged subnet's port comes from one who is outside."""
    return mac != port.mac and lookups.learned.looped(port.vsid, mac, lookups.now_ns, steps)


def is_group(destination: bytes) -> bool:
    """Whether it is a multicast address; 255.255.255.255 is none."""
    return packet.is_multicast(destination) and destination != LIMITED_BROADCAST


def _membership(ip: Ip) -> UpcallKind | None:
    if ip.version == 4:
        return UpcallKind.IGMP if ip.protocol == IGMP and not ip.fragment else None
    payload = ip.payload
    if ip.protocol != HOP_BY_HOP or len(payload) < 9 or payload[:2] != bytes((packet.ICMPV6, 0)):
        return None
    return UpcallKind.MLD if payload[8] in MLD_TYPES else None


def _speaks_pim(ip: Ip) -> bool:
    """To all PIM routers: RFC 7761 section 4.9."""
    return ip.protocol == PIM and not (ip.version == 4 and ip.fragment) and ip.destination in PIM_ROUTERS


def _out(wire: Wire, ip: Ip) -> ToWire:
    return ToWire(wire.interface, packet.with_tag(ip.frame, wire.vlan))


def _is_longer(ip: Ip, limit: int | None) -> bool:
    return limit is not None and ip.l3_length > limit


def limit_bytes(lookups: Lookups, subnet: Subnet) -> int | None:
    """The largest L3 length that a bridged subnet's VLAN takes, which adds nothing."""
    limits = [subnet.mtu_bytes] if subnet.mtu_bytes else []
    if lookups.host.mtu_bytes is not None:
        limits.append(lookups.host.mtu_bytes)
    return min(limits, default=None)


def _limit(lookups: Lookups, subnet: Subnet, remote: dict[bytes, Rule]) -> int | None:
    if subnet.bridged and not remote:
        return limit_bytes(lookups, subnet)
    limits = [subnet.mtu_bytes] if subnet.mtu_bytes else []
    if remote and lookups.host.mtu_bytes is not None:
        limits.append(lookups.host.mtu_bytes - max(_overhead(rule, pa) for pa, rule in remote.items()))
    return min(limits, default=None)


def _overhead(rule: Rule, pa: bytes) -> int:
    return overhead_bytes(rule, 4 if len(pa) == 4 else 6)


def _here(lookups: Lookups, subnet: Subnet, ip: Ip, came_from: Port | None, steps: list[str]) -> Iterator[ToPort]:
    return to_everybody(lookups, subnet, ip.frame, came_from, steps, ip, _asked_for(subnet, ip))


def _asked_for(subnet: Subnet, ip: Ip) -> bytes | None:
    """The group that one must have asked for to be sent the packet; None: it is for everybody."""
    asked = subnet.snooping and is_group(ip.destination) and not _for_everybody(ip.destination)
    return ip.destination if asked else None


def to_everybody(
    lookups: Lookups,
    subnet: Subnet,
    frame: bytes,
    came_from: Port | None,
    steps: list[str],
    ip: Ip | None = None,
    listening: bytes | None = None,
) -> Iterator[ToPort]:
    """A copy for each local port but the one that it came from.

    ip: what security groups are asked of; None: ARP or neighbour discovery. listening: the group that one must have
    asked for.
    """
    for port in lookups.local_ports(subnet.vsid):
        elsewhere = came_from is None or port.name != came_from.name
        if not (port.enabled and elsewhere and (listening is None or lookups.listens(port.name, listening))):
            continue
        if ip is not None and guard.check(lookups, port, Direction.TO_GUEST, ip, steps) is not None:
            continue
        if lookups.within_limit(port, Direction.TO_GUEST, len(frame)):
            yield ToPort(port.name, frame)


def _for_everybody(group: bytes) -> bool:
    """224.0.0.0/24 and ff02::/16: nobody need ask for them (RFC 4541 section 2.1.2)."""
    return group[:3] == b"\xe0\0\0" if len(group) == 4 else group[1] & 15 == 2


def _there(
    lookups: Lookups,
    reachable: Callable[[str], bool],
    port: Port,
    subnet: Subnet,
    ip: Ip,
    remote: dict[bytes, Rule],
) -> Iterator[ToUnderlay]:
    flow = packet.flow_id(ip)
    dscp = 0 if port.qos is None else port.qos.outer_dscp
    if (together := _by_group(lookups, subnet, remote)) is not None:
        source, group, rule = together
        yield ToUnderlay(
            packet.address_text(group), tunnel.encapsulate(source, group, rule, subnet.vsid, ip.frame, dscp)
        )
        return
    for pa, rule in remote.items():
        way = lookups.way(pa, flow)
        if way is None:
            continue
        text = packet.address_text(way.destination)
        too_long = way.mtu_bytes and ip.l3_length + _overhead(rule, pa) > way.mtu_bytes
        if not too_long and reachable(text):
            yield ToUnderlay(text, tunnel.encapsulate(way.source, way.destination, rule, subnet.vsid, ip.frame, dscp))


def _by_group(lookups: Lookups, subnet: Subnet, remote: dict[bytes, Rule]) -> tuple[bytes, bytes, Rule] | None:
    """From where, to which group of the underlay and by which rule one copy goes to all other hosts; None: each has its
    own.
    """
    group = subnet.provider_group
    pa, rule = next(iter(remote.items()), (b"", Rule.STT))
    # What looks like TCP goes to no group.
    if group is None or rule is Rule.STT or len(pa) != len(group):
        return None
    source = lookups.host.source(group)
    return None if source is None else (source, group, rule)


def copied(copies: Iterable[Delivery], many: str, steps: list[str]) -> Copies | Drop:
    """many: whom they are for."""
    found = Copies.of(copies)
    if not found.deliveries:
        steps.append(f"to many ({many}): there is nobody to have it")
        return Drop(DropReason.NO_MEMBER)
    for copy in found.deliveries:
        match copy:
            case ToPort(port, frame):
                steps.append(f"to many ({many}): a copy to port {port}: {len(frame)} bytes")
            case ToUnderlay(pa, _):
                steps.append(f"to many ({many}): a copy to {pa}")
            case ToWire(interface, _):
                steps.append(
                    f"to many ({many}): a copy out by {interface}, in VLAN {int.from_bytes(copy.frame[14:16])}"
                )
    return found
