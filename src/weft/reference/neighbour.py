"""ARP and neighbour discovery, answered from records: datapath.md, from a guest's port, 5 and 6. Never floods."""

from __future__ import annotations

from weft.policy.drop import DropReason
from weft.reference import antispoof, bridge, packet
from weft.reference.lookups import Lookups, Port, Subnet
from weft.reference.packet import Arp, Ip
from weft.reference.verdict import Announced, Answer, Drop, Verdict

MAX_OPTIONS = 4
SOURCE_LINK_LAYER, TARGET_LINK_LAYER = 1, 2
OPTIONS_AT = 24


def arp(lookups: Lookups, port: Port, subnet: Subnet, ask: Arp, steps: list[str]) -> Verdict:
    """The answer to an ARP request that has passed anti-spoofing."""
    if ask.opcode == packet.ARP_REPLY or ask.sender == ask.target:
        if packet.is_unspecified(ask.sender):
            steps.append("ARP: an answer to nobody, from nobody")
            return Drop(DropReason.ANNOUNCEMENT)
        steps.append(f"ARP: announces {packet.address_text(ask.sender)}: a hint, for the agent")
        announced = Announced(ask.sender_mac, ask.sender)
        if _goes_on(subnet, ask):
            return bridge.message(lookups, port, subnet, ask, announced, steps)
        return Drop(DropReason.ANNOUNCEMENT, announced)
    if ask.opcode != packet.ARP_REQUEST:
        steps.append(f"ARP: operation {ask.opcode} is neither request nor reply")
        return Drop(DropReason.MALFORMED)
    probe = ask.source_mac if packet.is_unspecified(ask.sender) else None
    found = _who_has(lookups, port, subnet, ask.target, probe, steps)
    if isinstance(found, Drop):
        return _unanswered(lookups, port, subnet, ask, found, steps)
    return Answer(packet.arp_reply(ask, found[0]))


def discovery(lookups: Lookups, port: Port, subnet: Subnet, ip: Ip, kind: int, steps: list[str]) -> Verdict:
    """What becomes of a solicitation or advertisement that has passed anti-spoofing."""
    target = ip.payload[8:24]
    solicited = kind == packet.NEIGHBOUR_SOLICITATION
    fault = _fault(ip, target, SOURCE_LINK_LAYER if solicited else TARGET_LINK_LAYER)
    if fault is None and not solicited:
        allowed = antispoof.address(port, ip.source_mac, target)
        fault = allowed if isinstance(allowed, DropReason) else None
    if fault is not None:
        steps.append(f"neighbour discovery: target {packet.address_text(target)}: {fault.label}")
        return Drop(fault)
    if not solicited:
        steps.append(f"neighbour discovery: announces {packet.address_text(target)}: a hint, for the agent")
        announced = Announced(ip.source_mac, target)
        if _goes_on(subnet, ip):
            return bridge.message(lookups, port, subnet, ip, announced, steps)
        return Drop(DropReason.ANNOUNCEMENT, announced)
    probe = ip.source_mac if packet.is_unspecified(ip.source) else None
    found = _who_has(lookups, port, subnet, target, probe, steps)
    if isinstance(found, Drop):
        return _unanswered(lookups, port, subnet, ip, found, steps)
    mac, router = found
    return Answer(packet.neighbour_advertisement(ip.source_mac, ip.source, target, mac, router=router))


def _goes_on(subnet: Subnet, parsed: Arp | Ip) -> bool:
    """Whether others in the subnet's VLAN may be concerned."""
    return subnet.bridged and parsed.frame[:6] != subnet.router_mac


def _unanswered(
    lookups: Lookups, port: Port, subnet: Subnet, parsed: Arp | Ip, verdict: Drop, steps: list[str]
) -> Verdict:
    if verdict.reason is DropReason.NO_RECORD and _goes_on(subnet, parsed):
        return bridge.message(lookups, port, subnet, parsed, None, steps)
    return verdict


def _fault(ip: Ip, target: bytes, link_layer: int) -> DropReason | None:
    """What is wrong with the message: a target that cannot be, broken options, or another's link-layer address."""
    if packet.is_mapped(target):
        return DropReason.MALFORMED
    options = ip.payload[OPTIONS_AT:]
    for _ in range(MAX_OPTIONS):
        if not options:
            return None
        length = options[1] * 8 if len(options) > 1 else 0
        if length == 0 or length > len(options):
            return DropReason.MALFORMED
        if options[0] == link_layer and length == 8 and options[2:8] != ip.source_mac:
            return DropReason.SPOOFED_MAC
        options = options[length:]
    return DropReason.MALFORMED if options else None


def _who_has(
    lookups: Lookups, port: Port, subnet: Subnet, target: bytes, probe: bytes | None, steps: list[str]
) -> tuple[bytes, bool] | Drop:
    """The MAC that has the target, and whether it is the router's. probe: the MAC of an asker without an address."""
    text = packet.address_text(target)
    router = len(target) == 16 and target == subnet.router_link_local
    if router or target == subnet.gateway(4 if len(target) == 4 else 6):
        steps.append(f"who has {text}: the gateway, {packet.mac_text(subnet.router_mac)}")
        return subnet.router_mac, True
    location = lookups.record(subnet.vsid, target)
    if location is None and len(target) == 16:
        made_of = packet.mac_of_link_local(target)
        location = None if made_of is None else lookups.mac_record(subnet.vsid, made_of)
    if location is None:
        steps.append(f"who has {text}: nobody in VSID {subnet.vsid}")
        return Drop(DropReason.NO_RECORD)
    if probe is not None and not isinstance(antispoof.address(port, probe, target), DropReason):
        steps.append(f"who has {text}: the asker may, and is about to take it over; silence is right")
        return Drop(DropReason.OWN_ADDRESS)
    if location.mac == port.mac or lookups.local_port(subnet.vsid, location.mac) is port:
        steps.append(f"who has {text}: the asker itself; silence is right")
        return Drop(DropReason.OWN_ADDRESS)
    steps.append(f"who has {text}: {packet.mac_text(location.mac)}, by record ({subnet.vsid}, {text})")
    return location.mac, False
