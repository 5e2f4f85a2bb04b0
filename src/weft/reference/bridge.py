"""Virtual subnets that are VLANs of the physical network: datapath.md, VLAN. Reads no clock, and keeps nothing.

Policy comes first: whom it knows is where it says. Who else is in the VLAN is learned from what the uplink brings in.
"""

from __future__ import annotations

from weft.policy.drop import DropReason
from weft.reference import flood, packet
from weft.reference.local import admitted, to_local, within_limit
from weft.reference.lookups import Lookups, Port, Subnet
from weft.reference.packet import Arp, Ip
from weft.reference.verdict import Announced, Announcing, Copies, Drop, ToPort, ToWire

#: IEEE 802.1Q table 8-1: 01:80:c2:00:00:00 to 0f are for the neighbour on the wire, and go no further.
_NEIGHBOUR_MACS = bytes.fromhex("0180c20000")


def message(
    lookups: Lookups, port: Port, subnet: Subnet, parsed: Arp | Ip, announced: Announced | None, steps: list[str]
) -> ToPort | ToWire | Copies | Announcing | Drop:
    """A guest's ARP or neighbour discovery that policy does not answer. announced: what the agent hears of it."""
    verdict = _message(lookups, port, subnet, parsed.frame, steps)
    if announced is None:
        return verdict
    return Drop(verdict.reason, announced) if isinstance(verdict, Drop) else Announcing(verdict, announced)


def _message(
    lookups: Lookups, port: Port, subnet: Subnet, frame: bytes, steps: list[str]
) -> ToPort | ToWire | Copies | Drop:
    limit, l3_length = flood.limit_bytes(lookups, subnet), len(frame) - packet.ETHERNET_BYTES
    if limit is not None and l3_length > limit:
        steps.append(f"size: {l3_length} bytes, and no more than {limit} fit")
        return Drop(DropReason.TOO_BIG)
    mac = frame[:6]
    location = None if packet.is_group(mac) else lookups.mac_record(subnet.vsid, mac)
    if location is None:
        return to_unknown(lookups, port, subnet, frame, steps)
    if location.pa in lookups.host.pas:
        local = to_local(lookups, subnet.vsid, mac, frame, steps, came_from=port)
        return within_limit(lookups, local, steps)
    return to_wire(lookups, subnet, frame, steps)


def to_wire(lookups: Lookups, subnet: Subnet, frame: bytes, steps: list[str]) -> ToWire | Drop:
    """Out by the uplink, tagged."""
    wire = lookups.wire(subnet)
    if wire is None:
        steps.append("this host has no uplink to the subnet's VLAN")
        return Drop(DropReason.NO_UNDERLAY)
    steps.append(f"out by {wire.interface}, in VLAN {wire.vlan}: {len(frame)} bytes")
    return ToWire(wire.interface, packet.with_tag(frame, wire.vlan))


def to_unknown(
    lookups: Lookups, port: Port, subnet: Subnet, frame: bytes, steps: list[str], ip: Ip | None = None
) -> ToWire | Copies | Drop:
    """A frame to a group's MAC, or to one that policy does not know: out, or wherever it may be. It fits.

    ip: what security groups are asked of; None: ARP or neighbour discovery.
    """
    mac = frame[:6]
    if flood.looped(lookups, port, frame[6:12], steps):
        return Drop(DropReason.LOOP)
    if lookups.learned.is_outside(subnet.vsid, mac, lookups.now_ns):
        steps.append(f"MAC {packet.mac_text(mac)}: heard behind the uplink")
        return to_wire(lookups, subnet, frame, steps)
    copies: list[ToPort | ToWire] = list(flood.to_everybody(lookups, subnet, frame, port, steps, ip))
    wire = lookups.wire(subnet)
    if wire is not None:
        copies.append(ToWire(wire.interface, packet.with_tag(frame, wire.vlan)))
    return flood.copied(copies, f"MAC {packet.mac_text(mac)}", steps)


def from_wire(
    lookups: Lookups, subnet: Subnet, interface: str, frame: bytes, steps: list[str]
) -> ToPort | Copies | Drop:
    """What becomes of a frame of the subnet's VLAN, its tag off."""
    parsed = packet.parse(frame)
    if isinstance(parsed, DropReason):
        steps.append(f"headers: {parsed.label}")
        return Drop(parsed)
    mac, source = frame[:6], parsed.source_mac
    if packet.is_group(source):
        steps.append("its source is a group's MAC")
        return Drop(DropReason.MALFORMED)
    if mac[:5] == _NEIGHBOUR_MACS and mac[5] < 16:
        steps.append("between neighbours on a wire only")
        return Drop(DropReason.MULTICAST)
    reason = _untrue(lookups, subnet, parsed, steps)
    if reason is not None:
        return Drop(reason)
    tenant = lookups.tenant_of(subnet)
    if tenant is not None and lookups.mac_record(subnet.vsid, source) is None:
        lookups.learned.learn(subnet.vsid, source, interface, lookups.now_ns, tenant)
    spoken = isinstance(parsed, Arp) or packet.neighbour_message(parsed) is not None
    if not packet.is_group(mac):
        local = to_local(lookups, subnet.vsid, mac, frame, steps)
        return within_limit(lookups, local, steps) if spoken else admitted(lookups, local, steps)
    if isinstance(parsed, Arp) or spoken:
        here = list(flood.to_everybody(lookups, subnet, frame, None, steps))
        return flood.copied(here, f"MAC {packet.mac_text(mac)}", steps)
    if (reason := flood.why_not(subnet, parsed)) is not None:
        steps.append(f"destination MAC {packet.mac_text(mac)} is a group's: not carried")
        return Drop(reason)
    return flood.from_underlay(lookups, subnet, parsed, steps)


def _untrue(lookups: Lookups, subnet: Subnet, parsed: Arp | Ip, steps: list[str]) -> DropReason | None:
    """Why policy does not believe that a frame comes from outside; None: it may."""
    mac = parsed.source_mac
    place = lookups.mac_record(subnet.vsid, mac)
    pas = lookups.host.pas
    here = place is not None and place.pa in pas and (place.also is None or place.also in pas)
    if here or mac == subnet.router_mac:
        steps.append(f"{packet.mac_text(mac)} is this host's: it has gone round")
        return DropReason.LOOP
    said = [parsed.sender if isinstance(parsed, Arp) else parsed.source]
    macs = {mac, parsed.sender_mac} if isinstance(parsed, Arp) else {mac}
    if isinstance(parsed, Ip) and packet.neighbour_message(parsed) == packet.NEIGHBOUR_ADVERTISEMENT:
        said.append(parsed.payload[8:24])
    for address in said:
        record = lookups.record(subnet.vsid, address)
        whose = "the gateway" if subnet.is_gateway(address) else "a port" if record is not None else ""
        if whose and (record is None or macs != {record.mac}):
            steps.append(f"{packet.address_text(address)} is {whose}'s, and not {packet.mac_text(mac)}'s")
            return DropReason.FORGED_SOURCE
    return None
