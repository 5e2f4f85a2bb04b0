"""Properties of the reference data plane over random policies and packets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from budget import examples
from strategies import packets
from strategies.policies import HOSTS, Policy, policies
from weft.policy.rows import Rewrite, Subnet
from weft.reference import packet
from weft.reference.lookups import VSID_FIRST
from weft.reference.plane import Answer, Drop, ReferenceDataPlane, Result, ToPort, ToUnderlay

BUDGET = examples(25)
PACKETS = 6
#: Between the outer IP header and the inner frame: GRE; UDP with VXLAN or Geneve; STT.
TUNNEL_BYTES = {packet.GRE: 8, packet.UDP: 16, packet.TCP: 38}


def planes(policy: Policy) -> dict[str, ReferenceDataPlane]:
    made = {host: ReferenceDataPlane(host) for host in HOSTS}
    for host, plane in made.items():
        assert plane.update(policy.rows[host]) == []
        assert plane.bind(policy.bindings(host)) == []
    return made


def sent(draw: st.DrawFn, policy: Policy, host: str, plane: ReferenceDataPlane) -> tuple[str | None, bytes, Result]:
    """One packet of either way in, and what became of it; the port that it came from, if any."""
    ports = policy.ports(host)
    if not ports or draw(st.integers(0, 2)) == 0:
        frame = draw(packets.frames_from_underlay(policy, host))
        return None, frame, plane.from_uplink("eth0", frame)
    port = draw(st.sampled_from(ports))
    frame = draw(packets.frames_from(policy, host, port))
    return port.port, frame, plane.from_port(policy.interface(host, port), frame)


@BUDGET
@given(st.data())
def test_a_packet_of_any_bytes_has_one_verdict_and_is_counted_once(data: st.DataObject) -> None:
    policy = data.draw(policies(underlay6=True))
    host = data.draw(st.sampled_from(HOSTS))
    plane = planes(policy)[host]
    received, drops = 0, 0
    for _ in range(PACKETS):
        port, _, result = sent(data.draw, policy, host, plane)
        match result.verdict:
            case Drop() | Answer(dropped=int()):
                drops += 1
            case _:
                pass
        received += port is not None
        assert result.steps
    counters = plane.counters()
    assert sum(sum(traffic.drops.values()) for traffic in counters.values()) == drops
    ports = {port.port for port in policy.ports(host)}
    assert sum(traffic.received_packets for name, traffic in counters.items() if name in ports) == received


@BUDGET
@given(st.data())
def test_nothing_crosses_two_routing_domains_and_what_is_encapsulated_arrives_whole(data: st.DataObject) -> None:
    policy = data.draw(policies(underlay6=True))
    host = data.draw(st.sampled_from([host for host in HOSTS if policy.ports(host)] or HOSTS[:1]))
    all_planes = planes(policy)
    domains = policy.domain_of_port
    for port in policy.ports(host):
        for _ in range(4):
            frame = data.draw(packets.frames_from(policy, host, port))
            verdict = all_planes[host].from_port(policy.interface(host, port), frame).verdict
            sender, frame = policy.sender(host, port, frame)
            match verdict:
                case ToPort(to, _):
                    assert domains[to] == domains[sender.port]
                case ToUnderlay(pa, outer):
                    _arrives(policy, all_planes, domains[sender.port], frame, pa, outer, sender.cas)
                case _:
                    pass


def _arrives(
    policy: Policy,
    all_planes: dict[str, ReferenceDataPlane],
    domain: str,
    frame: bytes,
    pa: str,
    outer: bytes,
    cas: tuple[str, ...],
) -> None:
    """The host with the PA delivers it in the same domain; the source of an address pair may be refused there."""
    owners = [host for host, plane in all_planes.items() if plane.has_pa(pa)]
    if not owners:  # rewritten: the PA is a guest's, and no tunnel says whose
        for plane in all_planes.values():
            verdict = plane.from_uplink(*plane.on_wire(outer)).verdict
            assert not isinstance(verdict, ToPort) or policy.domain_of_port[verdict.port] == domain
        return
    [owner] = owners
    head = 20 if outer[0] >> 4 == 4 else 40
    on_the_wire = packet.ethernet(bytes(6), bytes(6), 0x0800 if head == 20 else 0x86DD, outer)
    vsids = _vsids_said(on_the_wire)
    assert {row.rdid for row in policy.rows[owner] if isinstance(row, Subnet) and row.vsid in vsids} == {domain}
    arrived = all_planes[owner].from_uplink(*all_planes[owner].on_wire(outer)).verdict
    match arrived:
        case ToPort(to, inner):
            assert policy.domain_of_port[to] == domain
            assert inner == outer[head + TUNNEL_BYTES[outer[9 if head == 20 else 6]] :]
        case Drop(reason):
            parsed = packet.parse(frame)
            assert isinstance(parsed, packet.Ip)
            own = packet.address_text(parsed.source) in cas
            assert reason.label in ({"port_down"} if own else {"port_down", "forged_source"})
        case _:
            raise AssertionError(arrived)


@BUDGET
@given(st.data())
def test_what_comes_from_the_uplink_reaches_only_a_port_of_its_own_vsid(data: st.DataObject) -> None:
    policy = data.draw(policies(underlay6=True))
    host = data.draw(st.sampled_from(HOSTS))
    plane = planes(policy)[host]
    vsids = {port.port: port.vsid for port in policy.ports(host)}
    stands = {packet.address_bytes(row.pa): row.vsid for row in policy.rows[host] if isinstance(row, Rewrite)}
    for _ in range(PACKETS):
        frame = data.draw(packets.frames_from_underlay(policy, host))
        verdict = plane.from_uplink("eth0", frame).verdict
        assert not isinstance(verdict, Answer | ToUnderlay)
        if isinstance(verdict, ToPort):
            assert vsids[verdict.port] >= VSID_FIRST
            rewritten = stands.get(_destination(frame))  # no VSID is on the wire: the PA says it
            assert vsids[verdict.port] in (rewritten, _bridged(policy, host, frame), *_vsids_said(frame))


def _bridged(policy: Policy, host: str, frame: bytes) -> int | None:
    """Whose VLAN a frame is in."""
    vlan = int.from_bytes(frame[14:16], "big") & 0xFFF if frame[12:14] == b"\x81\x00" else 0
    rows = (row for row in policy.rows[host] if isinstance(row, Subnet))
    return next((row.vsid for row in rows if vlan and row.vlan == vlan), None)


def _destination(frame: bytes) -> bytes:
    """The outer one."""
    frame = frame if frame[12:14] != b"\x81\x00" else frame[:12] + frame[16:]
    return frame[30:34] if frame[12:14] == b"\x08\x00" else frame[38:54]


def _vsids_said(frame: bytes) -> tuple[int, ...]:
    """What the tunnel's header may say: GRE's key is NVGRE's, too."""
    frame = frame if frame[12:14] != b"\x81\x00" else frame[:12] + frame[16:]  # a tag: the uplink's VLAN
    at = 34 if frame[12:14] == b"\x08\x00" else 54
    if frame[23 if at == 34 else 20] == packet.UDP:
        return (int.from_bytes(frame[at + 12 : at + 15], "big"),)
    if frame[23 if at == 34 else 20] == packet.TCP:  # STT: TCP's header, then 8 bytes, then the context
        return (int.from_bytes(frame[at + 28 : at + 36], "big"),)
    key = int.from_bytes(frame[at + 4 : at + 8], "big")
    return key >> 8, key


@BUDGET
@given(st.data())
def test_an_answer_is_sound_and_goes_to_the_asker(data: st.DataObject) -> None:
    policy = data.draw(policies())
    host = data.draw(st.sampled_from(HOSTS))
    plane = planes(policy)[host]
    for port in policy.ports(host):
        frame = data.draw(packets.frames_from(policy, host, port))
        verdict = plane.from_port(policy.interface(host, port), frame).verdict
        if not isinstance(verdict, Answer):
            continue
        _, frame = policy.sender(host, port, frame)
        answer = packet.parse(verdict.frame)
        assert isinstance(answer, packet.Ip | packet.Arp)
        if isinstance(answer, packet.Arp):
            assert answer.opcode == packet.ARP_REPLY
            assert verdict.frame[:6] == frame[6:12]
        elif verdict.dropped is not None:
            _error_is_sound(frame, answer)


def _error_is_sound(frame: bytes, answer: packet.Ip) -> None:
    asked = packet.parse(frame)
    assert isinstance(asked, packet.Ip)
    assert answer.destination == asked.source
    assert answer.destination_mac == asked.source_mac
    assert answer.ip_length <= (576 if answer.version == 4 else 1280)
    assert answer.payload[8:] == asked.packet[: len(answer.payload) - 8]
    if answer.version == 4:
        assert packet.checksum(answer.packet[:20]) == 0
        assert packet.checksum(answer.payload) == 0
    else:
        blank = answer.payload[:2] + b"\0\0" + answer.payload[4:]
        right = packet.transport_checksum(answer.source, answer.destination, packet.ICMPV6, blank)
        assert right == int.from_bytes(answer.payload[2:4], "big")


@BUDGET
@given(st.data())
def test_rows_told_in_any_order_and_twice_make_the_same_plane(data: st.DataObject) -> None:
    policy = data.draw(policies())
    host = data.draw(st.sampled_from(HOSTS))
    straight = planes(policy)[host]
    shuffled = ReferenceDataPlane(host)
    shuffled.bind(policy.bindings(host))
    shuffled.update(data.draw(st.permutations(policy.rows[host])))
    shuffled.update(policy.rows[host])
    assert set(shuffled.read()) == set(straight.read())
    for _ in range(4):
        port = data.draw(st.sampled_from(policy.ports(host))) if policy.ports(host) else None
        if port is not None:
            interface = policy.interface(host, port)
            frame = data.draw(packets.frames_from(policy, host, port))
            assert shuffled.from_port(interface, frame) == straight.from_port(interface, frame)
