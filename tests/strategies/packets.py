"""Random packets for a policy: mostly what guests and hosts send, some of it wrong, some of it only bytes."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import strategies as st

from strategies.policies import BEHIND, GROUPS, HOSTS, MORE4, PAS4, PAS6, ROUTER_MAC, RULES, VRRP_MAC, Policy
from weft.policy.rows import Host, Port, Rewrite, Rule, Subnet
from weft.reference import packet, rewrite, trunk

ELSEWHERE4 = (
    "172.16.5.9",
    "172.16.9.9",
    "10.0.2.200",
    "10.0.9.9",
    "203.0.113.5",
    "224.0.0.5",
    "255.255.255.255",
    "0.0.0.0",
)
ELSEWHERE6 = ("2001:db8:99::5", "2001:db8:9::9", "ff02::1", "ff02::1:ff00:4", "::", "::1", "fe80::1", "::ffff:10.0.1.4")
GROUPS4 = ("224.0.0.5", "239.1.2.3", "239.9.9.9")
GROUPS6 = ("ff02::5", "ff15::123", "ff0e::9", "ff01::1")
MACS = (
    "ff:ff:ff:ff:ff:ff",
    "33:33:00:00:00:01",
    "01:00:5e:00:00:05",
    "02:00:00:00:00:77",
    "00:00:00:00:00:00",
    VRRP_MAC,
    BEHIND,
    BEHIND,
)
#: Ports: of clients that ask about addresses, and of servers that answer.
DHCP_ENDS = (
    b"\x00\x44\x00\x43", b"\x00\x43\x00\x44", b"\x02\x22\x02\x23", b"\x02\x23\x02\x22", b"\x00\x43\x00\x43",
)  # fmt: skip
BOUNDARIES = (0, 1, 7, 8, 20, 40, 500, 1228, 1229, 1260, 1261, 1430, 1431, 1480, 1481, 1495)


def frames_from(policy: Policy, host: str, port: Port) -> st.SearchStrategy[bytes]:
    """What the port's guest may send."""
    return _spoilt(_tagged_frames(policy, host, port) if port.vlan else _guest_frames(policy, host, port))


def frames_from_underlay(policy: Policy, host: str) -> st.SearchStrategy[bytes]:
    """What may come in by the host's uplink."""
    good = _in_vlan(policy, host, _outer_frames(policy, host))
    if bridged := [row for row in policy.of(host, Subnet) if isinstance(row, Subnet) and row.vlan]:
        good = st.one_of(good, _wire_frames(policy, host, bridged))
    (uplink,) = next(row for row in policy.rows[host] if isinstance(row, Host)).uplinks
    if not uplink.vlan and any(isinstance(row, Rewrite) for row in policy.rows[host]):
        return _spoilt(st.one_of(good, _rewritten_frames(policy, host)))
    return _spoilt(good)


@st.composite
def talks(draw: st.DrawFn, policy: Policy, host: str, uplink: str) -> tuple[str, bytes] | None:
    """What one port's guest says to another's, one of them here, and by which interface it comes in; None: nobody can.

    Rules may speak of it: protocols and ports are those of strategies.security.
    """
    ports = [(each, port) for each in HOSTS for port in policy.ports(each)]
    pairs = [
        (one, other, source, destination)
        for one in ports
        for other in ports
        if host in (one[0], other[0]) and one[1].port != other[1].port
        for source in one[1].cas
        for destination in other[1].cas
        if (":" in source) == (":" in destination)
    ]
    if not pairs:
        return None
    guarded = [pair for pair in pairs if any(end.port_security for at, end in pair[:2] if at == host)]
    one, other, source, destination = draw(st.sampled_from(guarded or pairs))
    version = 6 if ":" in source else 4
    number = draw(st.sampled_from((53, 80, 22, 443)))
    ends = struct.pack("!HH", draw(st.sampled_from((40_000, 40_001))), number)
    protocol, payload = draw(
        st.sampled_from(
            (
                (6, ends + struct.pack("!IIBBHHH", 100, 0, 0x50, 0x02, 0xFFFF, 0, 0)),
                (6, ends + struct.pack("!IIBBHHH", 101, 7001, 0x50, 0x10, 0xFFFF, 0, 0)),
                (17, ends + struct.pack("!HH", 12, 0) + b"said"),
                (58 if version == 6 else 1, bytes((128 if version == 6 else 8, 0)) + b"\0\0\0\1\0\2"),
                (132, ends + bytes(8) + struct.pack("!BBHI", 1, 0, 20, 77) + bytes(12)),
                (47, b"\0\0\x08\0"),
            )
        )
    )
    return _between(draw, policy, host, uplink, one, other, _whole(source, destination, protocol, payload))


@st.composite
def answers(draw: st.DrawFn, policy: Policy, host: str, frame: bytes, uplink: str) -> tuple[str, bytes] | None:
    """What whoever a frame is for may answer it, and by which interface that comes in; None: nobody would."""
    if trunk.vlan_of(frame):
        frame = trunk.untagged(frame)
    ip = packet.parse(frame)
    if not isinstance(ip, packet.Ip):
        return None
    source, destination = packet.address_text(ip.source), packet.address_text(ip.destination)
    asked = [(each, port) for each in HOSTS for port in policy.ports(each) if destination in port.cas]
    asking = [(each, port) for each in HOSTS for port in policy.ports(each) if source in port.cas]
    payload = _turned(draw, ip.protocol, frame[packet.ETHERNET_BYTES + ip.header_bytes :][: ip.ip_length])
    if not asked or not asking or payload is None:
        return None
    whole = _whole(destination, source, ip.protocol, payload)
    return _between(draw, policy, host, uplink, draw(st.sampled_from(asked)), draw(st.sampled_from(asking)), whole)


def _whole(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    make = packet.ipv6 if ":" in source else packet.ipv4
    return make(_bytes(source), _bytes(destination), protocol, payload)


def _between(
    draw: st.DrawFn,
    policy: Policy,
    host: str,
    uplink: str,
    one: tuple[str, Port],
    other: tuple[str, Port],
    whole: bytes,
) -> tuple[str, bytes] | None:
    """An IP packet of one port's for another: as its guest sends it here, or as it comes from its host."""
    (where, sender), (_, receiver) = one, other
    kind = 0x0800 if whole[0] >> 4 == 4 else 0x86DD
    if where == host:
        router = next(
            row.router_mac for row in policy.of(host, Subnet) if isinstance(row, Subnet) and row.vsid == sender.vsid
        )
        to = receiver.mac if sender.vsid == receiver.vsid else router
        frame = packet.ethernet(packet.mac_bytes(to), packet.mac_bytes(sender.mac), kind, whole)
        return policy.interface(host, sender), trunk.tagged(frame, sender.vlan) if sender.vlan else frame
    accepts = [row.accepts for row in policy.of(host, Subnet) if isinstance(row, Subnet) and row.vsid == receiver.vsid]
    rules = [rule for rule in (accepts[0] if accepts else ()) if rule in _TUNNELLED]
    if not rules:
        return None
    inner = packet.ethernet(packet.mac_bytes(receiver.mac), packet.mac_bytes(sender.mac), kind, whole)
    protocol, carried = draw(_tunnels(draw(st.sampled_from(rules)), receiver.vsid, inner))
    source, to = (next(row for row in policy.rows[at] if isinstance(row, Host)).pas[0] for at in (where, host))
    outer = _whole(source, to, protocol, carried)
    frame = packet.ethernet(b"\x02" * 6, b"\x04" * 6, 0x86DD if ":" in source else 0x0800, outer)
    (up,) = next(row for row in policy.rows[host] if isinstance(row, Host)).uplinks
    return uplink, trunk.tagged(frame, up.vlan) if up.vlan else frame


_TUNNELLED = (Rule.NVGRE, Rule.VXLAN, Rule.GENEVE, Rule.GRE)


def _turned(draw: st.DrawFn, protocol: int, asked: bytes) -> bytes | None:
    """The transport's answer: right, but for its checksum, which nobody here looks at."""
    if protocol in (6, 17) and len(asked) >= 8:
        ends = asked[2:4] + asked[:2]
        if protocol == 17:
            return ends + struct.pack("!HH", 12, 0) + b"said"
        if len(asked) < 20:
            return None
        begun = int.from_bytes(asked[4:8], "big") + bool(asked[13] & 2)
        acknowledged = (begun + draw(st.sampled_from((0, 0, 0, 0, 1, -1, 70_000)))) % 2**32
        flags = draw(st.sampled_from((0x12, 0x12, 0x12, 0x10, 0x14, 0x04, 0x02, 0x00)))
        return ends + struct.pack("!IIBBHHH", 7000, acknowledged, 0x50, flags, 0xFFFF, 0, 0)
    if protocol in (1, 58) and len(asked) >= 8 and asked[0] in (8, 13, 128):
        kind = {8: 0, 13: 14, 128: 129}[asked[0]]
        return bytes((kind, 0)) + bytes(2) + asked[4:]
    return None if protocol in (1, 58) else asked


@st.composite
def _in_vlan(draw: st.DrawFn, policy: Policy, host: str, frames: st.SearchStrategy[bytes]) -> bytes:
    """Where the host's PAs are in a VLAN: with its tag, or another's, or none, or two."""
    frame = draw(frames)
    (uplink,) = next(row for row in policy.rows[host] if isinstance(row, Host)).uplinks
    if not uplink.vlan:
        return frame
    for _ in range(draw(st.sampled_from((0, *[1] * 12, 2)))):
        kind = draw(st.sampled_from((b"\x81\x00",) * 15 + (b"\x88\xa8",)))
        tag = draw(st.sampled_from((uplink.vlan,) * 9 + (uplink.vlan | 0xA000, uplink.vlan ^ 1, 0)))
        frame = frame[:12] + kind + tag.to_bytes(2, "big") + frame[12:]
    return frame


@st.composite
def _wire_frames(draw: st.DrawFn, policy: Policy, host: str, bridged: list[Subnet]) -> bytes:
    """In a VLAN that a subnet is: from machines behind the switch, and from ports, wherever they are."""
    subnet = draw(st.sampled_from(bridged))
    index = subnet.vsid % 10
    behind = Port("behind", subnet.vsid, BEHIND, (f"10.0.{index}.200", f"2001:db8:{index}::200"))
    ports = [port for each in HOSTS for port in policy.ports(each) if port.vsid == subnet.vsid]
    frame = draw(_guest_frames(policy, host, draw(st.sampled_from([behind, behind, *ports]))))
    if ports and not frame[0] & 1 and draw(st.booleans()):
        frame = packet.mac_bytes(draw(st.sampled_from(ports)).mac) + frame[6:]
    if draw(st.integers(0, 15)) == 0:
        frame = frame[:6] + packet.mac_bytes(draw(st.sampled_from(_macs(policy, host)))) + frame[12:]
    tagged = trunk.tagged(frame, draw(st.sampled_from((subnet.vlan,) * 9 + (7,))))
    return trunk.tagged(tagged, subnet.vlan) if draw(st.integers(0, 30)) == 0 else tagged


@st.composite
def _rewritten_frames(draw: st.DrawFn, policy: Policy, host: str) -> bytes:
    """From a PA that stands for an address to another, or nearly so."""
    stands = [row.pa for row in policy.rows[host] if isinstance(row, Rewrite)]
    senders = [port for each in HOSTS for port in policy.ports(each)]
    sender = draw(st.sampled_from(senders))
    frame = draw(_ip_frames(policy, host, sender, packet.mac_bytes(sender.mac)))
    parsed = packet.parse(frame)
    if not isinstance(parsed, packet.Ip):
        return frame
    family = [pa for pa in stands if (":" in pa) == (parsed.version == 6)]
    if not family:
        return frame
    source, destination = _bytes(draw(st.sampled_from(family))), _bytes(draw(st.sampled_from(family)))
    if draw(st.integers(0, 2)) == 0:
        return _router_error(draw, rewrite.with_addresses(parsed, source, destination)[14:], source)
    return (
        draw(st.sampled_from((b"\x02" * 6,) * 9 + (b"\xff" * 6,)))
        + rewrite.with_addresses(parsed, source, destination)[6:]
    )


def _router_error(draw: st.DrawFn, about: bytes, to: bytes) -> bytes:
    """What a router says of a packet, to whom it is from."""
    quote = about[: draw(st.sampled_from((28, 40, 48, 60, 2000)))]
    if len(to) == 4:
        kind = draw(st.sampled_from((3, 11, 12, 5, 0)))
        message = packet.icmp(kind, draw(st.integers(0, 4)), b"\0\0\x05\x78", quote)
        whole = packet.ipv4(b"\xc6\x33\x64\x63", to, packet.ICMP, message)
        return packet.ethernet(b"\x02" * 6, b"\x06" * 6, packet.ETH_IPV4, whole)
    router = ipaddress.ip_address("2001:db8:f::99").packed
    kind = draw(st.sampled_from((1, 2, 3, 4, 5, 0)))
    message = packet.icmpv6(router, to, kind, draw(st.integers(0, 4)), b"\0\0\x05\x78", quote)
    return packet.ethernet(b"\x02" * 6, b"\x06" * 6, packet.ETH_IPV6, packet.ipv6(router, to, packet.ICMPV6, message))


def _spoilt(good: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.one_of(good, good, good, good, mutated(good), st.binary(max_size=120))


@st.composite
def mutated(draw: st.DrawFn, good: st.SearchStrategy[bytes]) -> bytes:
    """A good frame with bytes changed, cut off or added."""
    frame = bytearray(draw(good))
    for _ in range(draw(st.integers(0, 3))):
        if frame:
            # Headers are where it matters.
            at = draw(st.integers(0, min(len(frame), 110) - 1))
            frame[at] = draw(
                st.one_of(st.sampled_from((0, 1, 0xFF, frame[at] ^ 1, frame[at] ^ 0x80)), st.integers(0, 255))
            )
    cut = draw(st.integers(0, 5))
    if cut == 0:
        return bytes(frame[: draw(st.integers(0, len(frame)))])
    if cut == 1:
        return bytes(frame) + draw(st.binary(min_size=1, max_size=40))
    return bytes(frame)


def _macs(policy: Policy, host: str) -> list[str]:
    ports = [port.mac for each in HOSTS for port in policy.ports(each)]
    return [*ports, ROUTER_MAC, ROUTER_MAC, *MACS]


def _addresses(policy: Policy, version: int) -> list[str]:
    ports = [ca for each in HOSTS for port in policy.ports(each) for ca in port.cas]
    gateways = [
        gateway for each in HOSTS for row in policy.rows[each] if isinstance(row, Subnet) for gateway in row.gateways
    ]
    here = [text for text in (*ports, *ports, *gateways) if (":" in text) == (version == 6)]
    if version == 4:
        return [*here, *ELSEWHERE4]
    macs = {port.mac for each in HOSTS for port in policy.ports(each)} | {ROUTER_MAC}
    made = [packet.address_text(packet.link_local(packet.mac_bytes(mac))) for mac in sorted(macs)]
    return [*here, *made, *ELSEWHERE6]


def _bytes(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


@st.composite
def _tagged_frames(draw: st.DrawFn, policy: Policy, host: str, port: Port) -> bytes:
    return trunk.tagged(draw(_guest_frames(policy, host, port)), port.vlan)


@st.composite
def _guest_frames(draw: st.DrawFn, policy: Policy, host: str, port: Port) -> bytes:
    kind = draw(st.sampled_from(("ip", "ip", "ip", "ip", "arp", "nd", "dhcp", "other")))
    mac = packet.mac_bytes(draw(st.sampled_from([port.mac] * 20 + _macs(policy, host))))
    if kind == "other":
        ethertype = draw(st.sampled_from((0x8100, 0x88A8, 0x88CC, 0x86DD, 0x0800, 0x0806)))
        return packet.ethernet(b"\x02" * 6, mac, ethertype, draw(st.binary(max_size=60)))
    if kind == "arp":
        return _arp(draw, policy, port, mac)
    if kind == "nd":
        return _nd(draw, policy, port, mac)
    if kind == "dhcp":
        if draw(st.booleans()):
            return _asks6(draw, mac)
        datagram = draw(st.sampled_from(DHCP_ENDS)) + struct.pack("!HH", 12, 0) + b"dhcp"
        to = draw(st.sampled_from(("255.255.255.255", "10.0.1.1")))
        to_mac = draw(st.sampled_from(("ff:ff:ff:ff:ff:ff", ROUTER_MAC)))
        whole = packet.ipv4(bytes(4), _bytes(to), 17, datagram)
        return packet.ethernet(packet.mac_bytes(to_mac), mac, 0x0800, whole)
    return draw(_ip_frames(policy, host, port, mac))


def _asks6(draw: st.DrawFn, mac: bytes) -> bytes:
    """DHCPv6 and router discovery, as clients and servers send it, or nearly so."""
    source = draw(st.sampled_from((packet.link_local(mac),) * 5 + (bytes(16),)))
    to = draw(
        st.sampled_from((_bytes("ff02::2"), _bytes("ff02::1:2"), packet.link_local(packet.mac_bytes(ROUTER_MAC))))
    )
    protocol, payload = 17, draw(st.sampled_from(DHCP_ENDS)) + struct.pack("!HH", 12, 0) + b"dhcp"
    if draw(st.booleans()):
        kind = draw(st.sampled_from((133, 133, 133, 134, 137)))
        protocol, payload = 58, packet.icmpv6(source, to, kind, 0, bytes(4), draw(st.sampled_from((b"", bytes(8)))))
    hop_limit = draw(st.sampled_from((255, 255, 255, 64)))
    whole = packet.ipv6(source, to, protocol, payload, hop_limit=hop_limit)
    to_mac = draw(st.sampled_from((b"\x33\x33" + to[12:], packet.mac_bytes(ROUTER_MAC))))
    return packet.ethernet(to_mac, mac, 0x86DD, whole)


@st.composite
def _ip_frames(draw: st.DrawFn, policy: Policy, host: str, port: Port, mac: bytes) -> bytes:
    version = 6 if draw(st.booleans()) else 4
    own = [ca for ca in port.cas if (":" in ca) == (version == 6)]
    if not own and draw(st.integers(0, 3)):
        version = 10 - version
        own = list(port.cas)
    sources = own * 30 + _addresses(policy, version)
    source = _bytes(draw(st.sampled_from(sources)))
    destination = _bytes(draw(st.sampled_from(_addresses(policy, version))))
    to = packet.mac_bytes(draw(st.sampled_from([ROUTER_MAC] * 8 + _macs(policy, host))))
    if draw(st.integers(0, 7)) == 0:
        destination = _bytes(draw(st.sampled_from(GROUPS4 if version == 4 else GROUPS6)))
        to = draw(st.sampled_from((_group_mac(destination), _group_mac(destination), b"\xff" * 6)))
    protocol, payload = draw(transports(version, source, destination))
    if packet.is_multicast(destination) and draw(st.booleans()):
        protocol, payload = draw(_memberships(version))
    ethertype = 0x0800 if version == 4 else 0x86DD
    frame = packet.ethernet(to, mac, ethertype, draw(_networks(source, destination, protocol, payload)))
    return frame + bytes(draw(st.sampled_from((0, 0, 0, 1, 18))))


def _memberships(version: int) -> st.SearchStrategy[tuple[int, bytes]]:
    """IGMP and MLD, or something like it."""
    if version == 4:
        return st.sampled_from(((2, b"\x16" + bytes(7)), (2, b"\x11" + bytes(7)), (2, b""), (103, bytes(4))))
    alerts = st.sampled_from((b"\x3a\x00\x05\x02\x00\x00\x01\x00", b"\x11\x00\x05\x02\x00\x00\x01\x00"))
    words = st.sampled_from((b"\x83" + bytes(23), b"\x8f" + bytes(7), b"\x80" + bytes(7), b""))
    return st.tuples(alerts, words).map(lambda said: (0, b"".join(said)))


def _group_mac(group: bytes) -> bytes:
    return b"\x33\x33" + group[12:] if len(group) == 16 else b"\x01\x00\x5e" + group[1:]


@st.composite
def _networks(draw: st.DrawFn, source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
    """The IP packet, with what few packets have."""
    hop_limit = draw(st.sampled_from((64, 64, 64, 0, 1, 2, 255)))
    tos = draw(st.sampled_from((0, 0, 1, 2, 3, 0xB8)))
    if len(source) == 16:
        if draw(st.integers(0, 9)) == 0:
            offset = draw(st.sampled_from((0, 1, 8, 9)))
            payload = struct.pack("!BBHI", protocol, 0, offset, 7) + payload
            protocol = 44
        return packet.ipv6(source, destination, protocol, payload, tclass=tos, hop_limit=hop_limit)
    options = draw(st.sampled_from((b"", b"", b"", b"", b"\x01\x01\x01\x00", b"\x94\x04\x00\x00" * 10)))
    fragment = draw(st.sampled_from((0, 0, 0, 0x4000, 0x4000, 0x2000, 0x0001, 0x2005, 0x8000)))
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45 + len(options) // 4, tos, 20 + len(options) + len(payload),
        draw(st.sampled_from((0, 0x1234))), fragment, hop_limit, protocol, 0, source, destination,
    ) + options  # fmt: skip
    check = packet.checksum(head) if draw(st.integers(0, 9)) else draw(st.sampled_from((0, 0xFFFF, 0x1234)))
    return head[:10] + check.to_bytes(2, "big") + head[12:] + payload


@st.composite
def transports(draw: st.DrawFn, version: int, source: bytes, destination: bytes) -> tuple[int, bytes]:
    """A protocol and what is behind the IP header."""
    body = bytes(draw(st.sampled_from(BOUNDARIES)))
    kind = draw(st.sampled_from(("echo", "echo", "udp", "tcp", "syn", "syn", "error", "other")))
    if kind == "udp":
        ends = draw(st.sampled_from((b"\xc0\x00\x00\x35", *DHCP_ENDS)))
        return 17, ends + struct.pack("!HH", 8 + len(body), 0) + body
    if kind == "tcp":
        return 6, b"\xc0\x00\x00\x50" + bytes(8) + b"\x50\x10\xff\xff" + b"\x12\x34\x00\x00" + body
    if kind == "syn":
        return 6, draw(syns())
    if kind == "other":
        return draw(st.sampled_from((1, 6, 17, 47, 58, 132, 0, 44, 255))), draw(st.binary(max_size=30))
    if version == 4:
        number = 8 if kind == "echo" else draw(st.sampled_from((0, 3, 4, 5, 8, 11, 12, 13)))
        return 1, packet.icmp(number, draw(st.sampled_from((0, 0, 0, 1))), b"\x00\x01\x00\x02", body)
    number = 128 if kind == "echo" else draw(st.sampled_from((1, 2, 3, 4, 127, 128, 129, 133, 135, 136, 137)))
    return 58, packet.icmpv6(
        source, destination, number, draw(st.sampled_from((0, 0, 0, 1))), b"\x00\x01\x00\x02", body
    )


@st.composite
def syns(draw: st.DrawFn) -> bytes:
    """A TCP segment that opens a connection, its options in any order and alignment."""
    mss = draw(st.sampled_from((0, 1, 536, 1240, 1260, 1400, 1458, 1460, 8960, 65535)))
    options = b"".join(
        draw(
            st.lists(
                st.sampled_from(
                    (
                        b"\x01", b"\x01", b"\x01", b"\x04\x02", b"\x03\x03\x07", b"\x08\x0a" + bytes(8),
                        b"\x02\x04" + mss.to_bytes(2, "big"), b"\x02\x04" + mss.to_bytes(2, "big"),
                        b"\x02\x03\x05", b"\x1e\x00", b"\x1e\xff", b"\x00",
                    )
                ),
                max_size=12,
            )
        )
    )[:40]  # fmt: skip
    options += bytes(-len(options) % 4)
    words = 5 + len(options) // 4
    words = draw(st.sampled_from((words, words, words, words, 4, 15)))
    flags = draw(st.sampled_from((2, 2, 2, 0x12, 0x10)))
    check = draw(st.sampled_from((0x1234, 0, 0xFFFF)))
    return b"\xc0\x00\x00\x50" + bytes(8) + struct.pack("!BBHHH", words << 4, flags, 0xFFFF, check, 0) + options


def _arp(draw: st.DrawFn, policy: Policy, port: Port, mac: bytes) -> bytes:
    addresses = _addresses(policy, 4)
    own = [ca for ca in port.cas if ":" not in ca]
    sender = _bytes(draw(st.sampled_from(own * 30 + addresses)))
    target = _bytes(draw(st.sampled_from(addresses)))
    sender_mac = draw(st.sampled_from((mac,) * 9 + (b"\x02" * 6,)))
    opcode = draw(st.sampled_from((1, 1, 1, 1, 1, 1, 2, 3)))
    kind = draw(st.sampled_from((b"\x00\x01\x08\x00\x06\x04",) * 9 + (b"\x00\x06\x08\x00\x06\x04",)))
    body = kind + struct.pack("!H6s4s6x4s", opcode, sender_mac, sender, target)
    to = packet.mac_bytes(
        draw(st.sampled_from(("ff:ff:ff:ff:ff:ff",) * 4 + (ROUTER_MAC, ROUTER_MAC, port.mac, BEHIND)))
    )
    return packet.ethernet(to, mac, 0x0806, body + bytes(draw(st.sampled_from((0, 18)))))


def _nd(draw: st.DrawFn, policy: Policy, port: Port, mac: bytes) -> bytes:
    addresses = _addresses(policy, 6)
    own = [ca for ca in port.cas if ":" in ca] + [packet.address_text(packet.link_local(packet.mac_bytes(port.mac)))]
    source = _bytes(draw(st.sampled_from(own * 15 + ["::"] * 15 + addresses)))
    kind = draw(st.sampled_from((135, 135, 135, 136)))
    target = _bytes(draw(st.sampled_from(own * 5 + addresses)))
    destination = _bytes(draw(st.sampled_from(("ff02::1:ff00:4", "ff02::1", "2001:db8:1::5"))))
    option = draw(
        st.sampled_from(
            (b"\x01\x01" + mac,) * 4
            + (b"\x02\x01" + mac, b"\x01\x01" + bytes(6), b"\x02\x01" + bytes(6), b"\x0e\x01" + bytes(6))
            + (b"", b"\x01\x00", b"\x01\x02" + bytes(6), b"\x01", b"\x01\x02" + bytes(14))
        )
    )
    options = option * draw(st.sampled_from((1, 1, 1, 1, 4, 5)))
    message = packet.icmpv6(
        source, destination, kind, draw(st.sampled_from((0, 0, 0, 0, 1))), bytes(4), target + options
    )
    whole = packet.ipv6(source, destination, 58, message, hop_limit=draw(st.sampled_from((255,) * 7 + (64,))))
    to = draw(st.sampled_from((b"\x33\x33" + destination[12:],) * 6 + tuple(map(packet.mac_bytes, (port.mac, BEHIND)))))
    return packet.ethernet(to, mac, 0x86DD, whole)


@st.composite
def _tunnels(draw: st.DrawFn, rule: Rule, vsid: int, inner: bytes) -> tuple[int, bytes]:
    """Outer IP protocol, and what it carries: right, or nearly so."""
    vni = vsid.to_bytes(3, "big") + draw(st.sampled_from((b"\0", b"\0", b"\x07")))
    if rule in (Rule.NVGRE, Rule.GRE):
        odd = (b"\x20\x00\x08\x00", b"\xb0\x00\x65\x58", b"\x00\x00\x65\x58")
        word = draw(st.sampled_from((packet.GRE_WORD,) * 15 + odd))
        key = vsid << 8 | draw(st.integers(0, 255)) if rule is Rule.NVGRE else vsid
        return draw(st.sampled_from((47,) * 15 + (17,))), word + key.to_bytes(4, "big") + inner
    if rule is Rule.STT:
        return 6, draw(_stt(vsid, inner))
    options = draw(st.sampled_from((b"", b"", b"", bytes(4), bytes(252))))
    if rule is Rule.VXLAN:
        port, first = 4789, draw(st.sampled_from((b"\x08\0\0\0",) * 9 + (bytes(4), b"\xff" * 4)))
    else:
        said = len(options) // 4 + draw(st.sampled_from((0,) * 15 + (1, 63)))
        port = 6081
        first = bytes((said & 0x3F, 0)) + b"\x65\x58"
        first = draw(st.sampled_from((first,) * 12 + (b"\x40\0\x65\x58", b"\0\x80\x65\x58", b"\0\x40\x65\x58")))
        inner = options + inner
    length = 16 + len(inner) + draw(st.sampled_from((0,) * 15 + (-1, 1, -17)))
    port = draw(st.sampled_from((port,) * 15 + (53,)))
    head = b"".join(word.to_bytes(2, "big") for word in (50000, port, max(length, 0), draw(st.sampled_from((0, 7)))))
    return 17, head + first + vni + inner


@st.composite
def _stt(draw: st.DrawFn, vsid: int, inner: bytes) -> bytes:
    flags, l4_at = draw(st.sampled_from(((0, 0),) * 5 + ((2, 34), (6, 34), (10, 34), (14, 54), (2, 13), (2, 255))))
    tag = draw(st.sampled_from((b"\0\0",) * 9 + (b"\x10\x05", b"\x0f\xff")))
    context = vsid | draw(st.sampled_from((0,) * 9 + (1 << 24, 1 << 63)))
    version = draw(st.sampled_from((0,) * 15 + (1,)))
    body = bytes((version, flags, l4_at, 7, 5, 120)) + tag + context.to_bytes(8, "big") + b"\0\7" + inner
    body = body[: draw(st.sampled_from((len(body),) * 15 + (17,)))]
    length = len(body) + draw(st.sampled_from((0,) * 15 + (1, -1)))
    port = draw(st.sampled_from((7471,) * 15 + (80,)))
    place = draw(st.sampled_from((0,) * 15 + (1, 1400)))
    head = b"".join(word.to_bytes(2, "big") for word in (50000, port, max(length, 0), place))
    offset = draw(st.sampled_from((b"\x50",) * 15 + (b"\x60", b"\x40")))
    return head + bytes(4) + offset + b"\x18\xff\xff" + bytes(4) + body


@st.composite
def _outer_frames(draw: st.DrawFn, policy: Policy, host: str) -> bytes:
    """NVGRE to the host, as another host would send it, or nearly so."""
    here = next(row for row in policy.rows[host] if isinstance(row, Host)).pas
    to = _bytes(draw(st.sampled_from(here * 9 + (PAS4["hosts/h3"], PAS6["hosts/h2"], "192.0.2.99", *GROUPS))))
    version = 4 if len(to) == 4 else 6
    pas = [*(PAS4 if version == 4 else PAS6).values(), *(MORE4.values() if version == 4 else ())]
    pas += ["192.0.2.99"] if version == 4 else ["2001:db8:f::99"]
    source = _bytes(draw(st.sampled_from(pas)))
    senders = [port for each in HOSTS if each != host for port in policy.ports(each)]
    receivers = list(policy.ports(host))
    everybody = senders + receivers
    inner = draw(st.binary(max_size=80))
    vsid = draw(st.sampled_from((0, 4095, 4096, 5001, 5011, 9999, 16777214, 16777215)))
    if everybody:
        sender = draw(st.sampled_from(senders or everybody))
        receiver = draw(st.sampled_from(receivers or everybody))
        to_mac = packet.mac_bytes(draw(st.sampled_from([receiver.mac] * 15 + _macs(policy, host))))
        mac = packet.mac_bytes(draw(st.sampled_from((sender.mac, ROUTER_MAC))))
        frame = draw(_ip_frames(policy, host, sender, mac))
        inner = frame if frame[0] & 1 and draw(st.booleans()) else to_mac + frame[6:]
        vsid = draw(st.sampled_from([receiver.vsid] * 9 + [sender.vsid, vsid]))
    accepted = [row.accepts for row in policy.of(host, Subnet) if isinstance(row, Subnet) and row.vsid == vsid]
    rule = draw(st.sampled_from((*(accepted[0] if accepted else ()), draw(st.sampled_from(RULES)))))
    protocol, gre = draw(_tunnels(rule, vsid, inner))
    ecn = draw(st.sampled_from((0, 0, 1, 2, 3, 3)))
    if version == 6:
        return packet.ethernet(b"\x02" * 6, b"\x04" * 6, 0x86DD, packet.ipv6(source, to, protocol, gre, tclass=ecn))
    whole = packet.ipv4(source, to, protocol, gre, tos=ecn)
    oddity = draw(st.integers(0, 19))
    if oddity == 0:  # fragment
        whole = packet.ipv4(source, to, protocol, gre, tos=ecn)
        whole = packet.with_word(bytes(14) + whole, 20, 24, 0x2000)[14:]
    if oddity == 1:  # checksum
        whole = whole[:10] + b"\x12\x34" + whole[12:]
    if oddity == 2:  # options
        head = (
            b"\x46" + whole[1:2] + (len(whole) + 4).to_bytes(2, "big") + whole[4:10] + b"\0\0" + whole[12:20] + bytes(4)
        )
        whole = head[:10] + packet.checksum(head).to_bytes(2, "big") + head[12:] + whole[20:]
    return packet.ethernet(b"\x02" * 6, b"\x04" * 6, 0x0800, whole + bytes(draw(st.sampled_from((0, 0, 0, 6)))))
