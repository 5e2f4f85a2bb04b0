"""Where a guest's packet goes: routed, bridged, delivered (datapath.md, from a guest's port, 8 to 10). Never floods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from weft.model.features import FALLBACK
from weft.policy.drop import DropReason
from weft.policy.rows import Rule
from weft.reference import bridge, flood, icmp, moving, packet, rewrite, size, tunnel
from weft.reference.local import admitted, to_local
from weft.reference.lookups import Location, Lookups, Port, Subnet, Way
from weft.reference.packet import Ip
from weft.reference.verdict import Drop, ToPort, ToUnderlay, ToWire, Verdict

Ways: TypeAlias = tuple[tuple[Location, Way | None], ...]


@dataclass(frozen=True, slots=True)
class Forwarding:
    """One packet on its way: where it came from, what is known, and what is said about it."""

    lookups: Lookups
    reachable: Callable[[str], bool]  # has the kernel a route to the PA
    port: Port
    subnet: Subnet  # the port's
    steps: list[str]

    def forward(self, ip: Ip) -> Verdict:
        """Routed when it is for the router's MAC, else bridged."""
        if ip.destination_mac == self.subnet.router_mac:
            return self._routed(ip)
        return self._bridged(ip)

    def _refuse(self, ip: Ip, error: icmp.Error, reason: DropReason, next_hop_mtu: int = 0) -> Verdict:
        return icmp.refuse(self.subnet, ip, error, reason, self.steps, next_hop_mtu)

    def _routed(self, ip: Ip) -> Verdict:
        destination = ip.destination
        text = packet.address_text(destination)
        if packet.is_many(destination):
            self.steps.append(f"routed: {text} is multicast or broadcast, which no router carries")
            return Drop(DropReason.MULTICAST)
        if packet.is_link_local6(destination):
            if destination == self.subnet.router_link_local:
                return icmp.to_gateway(self.subnet, ip, self.steps)
            self.steps.append(f"routed: {text} is link-local, and there is no route to that")
            return Drop(DropReason.NO_ROUTE)
        route = self.lookups.route(self.subnet.rdid, destination)
        if route is None:
            self.steps.append(f"routed: no route to {text} in routing domain {self.subnet.rdid}")
            return self._refuse(ip, icmp.Error.NO_ROUTE, DropReason.NO_ROUTE)
        how = "on-link" if route.next_hop is None else f"next hop {packet.address_text(route.next_hop)}"
        self.steps.append(f"route {route.prefix}: {how} in VSID {route.vsid}")
        target = self.lookups.subnets.get(route.vsid)
        if target is None:
            self.steps.append(f"VSID {route.vsid}: no such subnet on this host")
            return Drop(DropReason.UNKNOWN_VSID)
        if route.next_hop is None and destination == target.gateway(ip.version):
            return icmp.to_gateway(self.subnet, ip, self.steps)
        if packet.is_link_local6(ip.source):
            # RFC 4291 section 2.5.6: a router forwards no packet from a link-local address.
            self.steps.append(f"routed: {packet.address_text(ip.source)} is link-local, and does not leave its subnet")
            return Drop(DropReason.NO_ROUTE)
        if ip.hop_limit <= 1:
            self.steps.append(f"hop limit {ip.hop_limit}: expires here")
            return self._refuse(ip, icmp.Error.TIME_EXCEEDED, DropReason.TTL_EXPIRED)
        return self._to_next_hop(ip, target, destination if route.next_hop is None else route.next_hop)

    def _to_next_hop(self, ip: Ip, target: Subnet, ca: bytes) -> Verdict:
        location = self.lookups.record(target.vsid, ca)
        if location is None:
            self.steps.append(f"record ({target.vsid}, {packet.address_text(ca)}): none")
            return self._refuse(ip, icmp.Error.ADDRESS_UNREACHABLE, DropReason.NO_RECORD)
        self._say_found(f"record ({target.vsid}, {packet.address_text(ca)})", location)
        location = rewrite.carried(self.lookups, self.subnet.vsid, ip, target, location)
        if location.rule is Rule.VLAN:
            location = replace(
                location, rule=FALLBACK
            )  # the router's MAC, which all hosts have, is for no switch to see
        ways = self._ways(ip, location)
        sized = self._sized(ip, target, ways)
        if not isinstance(sized, bytes):
            return sized
        frame = packet.with_hop_limit(ip, sized, ip.hop_limit - 1)
        return self._deliver(ip, target, ways, packet.with_macs(frame, location.mac, target.router_mac))

    def _bridged(self, ip: Ip) -> Verdict:
        vsid, text = self.subnet.vsid, packet.address_text(ip.destination)
        location = self.lookups.record(vsid, ip.destination)
        if location is not None:
            self._say_found(f"record ({vsid}, {text})", location)
        else:
            mac = packet.mac_text(ip.destination_mac)
            location = self.lookups.mac_record(vsid, ip.destination_mac)
            if location is None:
                self.steps.append(f"record ({vsid}, {text}): none, and none for MAC {mac}")
                if self.subnet.bridged:
                    return self._to_unknown(ip)
                return Drop(DropReason.NO_RECORD)
            self._say_found(f"no record ({vsid}, {text}), but one for MAC {mac}", location)
        location = rewrite.carried(self.lookups, vsid, ip, self.subnet, location)
        ways = self._ways(ip, location)
        sized = self._sized(ip, self.subnet, ways)
        if not isinstance(sized, bytes):
            return sized
        return self._deliver(ip, self.subnet, ways, packet.with_macs(sized, location.mac, ip.source_mac))

    def _to_unknown(self, ip: Ip) -> Verdict:
        sized = self._fitted(ip, flood.limit_bytes(self.lookups, self.subnet))
        if not isinstance(sized, bytes):
            return sized
        return bridge.to_unknown(self.lookups, self.port, self.subnet, self._marked(ip, sized), self.steps, ip)

    def _say_found(self, what: str, location: Location) -> None:
        self.steps.append(f"{what}: at PA {packet.address_text(location.pa)}, MAC {packet.mac_text(location.mac)}")

    def _ways(self, ip: Ip, location: Location) -> Ways:
        """Every place that the packet goes to, and how; more than one while its port is moving."""
        flow = packet.flow_id(ip)
        places = moving.places(self.lookups.host, location)
        return tuple((place, self.lookups.way(place.pa, flow)) for place in places)

    def _sized(self, ip: Ip, target: Subnet, ways: Ways) -> bytes | Verdict:
        """The frame, MSS clamped, or what becomes of a packet that does not fit everywhere."""
        limits = [size.limit(self.lookups.host, target, place, way) for place, way in ways]
        return self._fitted(ip, min((each for each in limits if each is not None), default=None))

    def _fitted(self, ip: Ip, limit: int | None) -> bytes | Verdict:
        if limit is not None and ip.l3_length > limit:
            self.steps.append(f"size: {ip.l3_length} bytes, and no more than {limit} fit")
            return self._refuse(ip, icmp.Error.TOO_BIG, DropReason.TOO_BIG, limit)
        frame = size.clamped(ip, limit)
        if frame is not ip.frame:
            self.steps.append(f"size: TCP's MSS is lowered, since no more than {limit} bytes fit")
        return frame

    def _marked(self, ip: Ip, frame: bytes) -> bytes:
        """The frame with the DSCP that the sender's port gives it."""
        if self.port.qos is None or self.port.qos.dscp is None:
            return frame
        self.steps.append(f"marked with DSCP {self.port.qos.dscp}")
        return packet.with_dscp(ip, frame, self.port.qos.dscp)

    def _deliver(self, ip: Ip, target: Subnet, ways: Ways, frame: bytes) -> Verdict:
        """ip: the packet as it came."""
        frame = self._marked(ip, frame)
        if len(ways) > 1:
            self.steps.append(f"it is moving to PA {packet.address_text(ways[1][0].pa)}: the same goes there")
        return moving.everywhere([self._deliver_at(target, place, way, frame) for place, way in ways])

    def _deliver_at(
        self, target: Subnet, location: Location, way: Way | None, frame: bytes
    ) -> ToPort | ToUnderlay | ToWire | Drop:
        if location.pa in self.lookups.host.pas:
            local = to_local(self.lookups, target.vsid, location.mac, frame, self.steps, came_from=self.port)
            return admitted(self.lookups, local, self.steps)
        if location.rule is Rule.VLAN:
            return bridge.to_wire(self.lookups, target, frame, self.steps)
        if location.rule is Rule.REWRITE:
            pa, rewritten = rewrite.out(self.lookups, self.subnet.vsid, target, frame)
            return self._underlay(
                packet.address_text(pa), rewritten, f"rewritten: to PA {packet.address_text(pa)}, {len(frame)} bytes"
            )
        text = packet.address_text(way.destination if way is not None else location.pa)
        if way is None:
            self.steps.append(f"underlay: this host has no PA of the family of {text}")
            return Drop(DropReason.NO_UNDERLAY)
        dscp = 0 if self.port.qos is None else self.port.qos.outer_dscp
        outer = tunnel.encapsulate(way.source, way.destination, location.rule, target.vsid, frame, dscp)
        more = len(outer) + packet.ETHERNET_BYTES - len(frame)
        how = f"encapsulated: {location.rule} to {text}, VSID {target.vsid}, {len(frame)} + {more} bytes"
        return self._underlay(text, outer, how)

    def _underlay(self, pa: str, outer: bytes, how: str) -> ToUnderlay | Drop:
        """A packet is on its way to a PA, if there is one."""
        if not self.reachable(pa):
            self.steps.append(f"underlay: the kernel has no route to {pa}")
            return Drop(DropReason.NO_UNDERLAY)
        self.steps.append(how)
        return ToUnderlay(pa, outer)
