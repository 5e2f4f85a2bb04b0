"""Segments that the sender's kernel left together stay together: on the fabric, at the guest, and behind routers."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.scenes import RULES, UPLINK, address, dropped, fabric_wire, set_rule
from polling import PATIENCE_S, eventually
from weft.dataplane.ebpf import libbpf
from weft.lab import plan, shell
from weft.lab.capture import Wire
from weft.lab.lab import Lab
from weft.lab.traffic import udp
from weft.model.features import Rule

BOTH = pytest.mark.parametrize("version", [4, 6])
MTU_BYTES = 1500
SUBNET = "tenants/t/routing-domains/d/virtual-subnets/s"
SENT = bytes(range(256)) * 16_384  # 4 MiB
#: linux/udp.h, which Python's socket does not name.
UDP_SEGMENT = 103

#: The networks behind the guests that route: their own address there, and that of the machine behind.
BEHIND = {
    "beside": (("172.16.1.1/24", "172.16.1.2/24"), ("fd00:0:1::1/64", "fd00:0:1::2/64")),
    "beyond": (("172.16.2.1/24", "172.16.2.2/24"), ("fd00:0:2::1/64", "fd00:0:2::2/64")),
}


@pytest.fixture(scope="module")
def routed() -> Iterator[Lab]:
    """Two hosts, guests on both; behind a guest of either host a machine that no port is of."""
    name = f"routers-{os.getpid()}"
    try:
        lab = Lab.up(Path(__file__).parent / "routers.yaml", name=name)
        for router, families in BEHIND.items():
            guest, machine = lab.guest(f"t/{router}").namespace, behind(lab, router)
            steps: list[plan.Step] = [
                plan.AddNamespace(machine),
                plan.AddVeth(plan.End(guest, "behind"), plan.End(machine, "eth0"), MTU_BYTES),
                plan.SetSysctl(guest, "ipv4/ip_forward", 1),
                plan.SetSysctl(guest, "ipv6/conf/all/forwarding", 1),
            ]
            steps += [plan.AddAddress(guest, "behind", router_end) for router_end, _ in families]
            steps += [plan.AddAddress(machine, "eth0", machine_end) for _, machine_end in families]
            steps += [plan.SetUp(guest, "behind"), plan.SetUp(machine, "eth0")]
            steps += [plan.AddDefaultRoute(machine, router_end.split("/")[0]) for router_end, _ in families]
            shell.run(steps)
        yield lab
    finally:
        Lab.down(name)


@pytest.fixture(params=RULES)
def travelling(request: pytest.FixtureRequest) -> Rule:
    """The rule by which the subnet's packets travel for a test."""
    rule: Rule = request.param
    return rule


@pytest.fixture(autouse=True)
def _ruled(request: pytest.FixtureRequest, routed: Lab) -> None:
    """Tests that do not ask for another travel by NVGRE."""
    by = "travelling" in request.fixturenames
    set_rule(routed, SUBNET, request.getfixturevalue("travelling") if by else Rule.NVGRE)


def behind(lab: Lab, router: str) -> str:
    """The namespace of the machine behind a guest; by its name it goes with the lab."""
    return f"{plan.prefix(lab.spec.name)}behind.{router}"


def behind_address(router: str, version: int) -> str:
    return BEHIND[router][version == 6][1].split("/")[0]


def lengths_seen(wire: Wire, source: str, target: str, to: str) -> list[int]:
    """Of frames on the wire while 4 MiB of TCP go from a namespace to an address in another, and arrive whole."""
    family, port = (socket.AF_INET6, 7009) if ":" in to else (socket.AF_INET, 7010)
    # What the way needs, neighbours above all, is there before: a lost SYN would have TCP begin with single segments.
    ping = shell.inside(source, ["ping", "-c", "1", "-W", "1", to])
    eventually(lambda: subprocess.run(ping, capture_output=True, check=False).returncode == 0)
    listener = shell.within(target, lambda: socket.create_server(("", port), family=family))
    client = shell.within(source, lambda: socket.socket(family, socket.SOCK_STREAM))
    got = bytearray()
    with listener, client:
        listener.settimeout(PATIENCE_S)
        client.settimeout(PATIENCE_S)
        client.connect((to, port))
        server, _ = listener.accept()
        with server:
            server.settimeout(PATIENCE_S)

            def receive() -> None:
                while piece := server.recv(1 << 18):
                    got.extend(piece)

            def send() -> None:
                client.sendall(SENT)
                client.shutdown(socket.SHUT_WR)

            threads = [threading.Thread(target=receive), threading.Thread(target=send)]
            for thread in threads:
                thread.start()
            # A sample is enough; the capture's buffer does not hold all of it.
            frames = wire.frames(lambda found: sum(map(_has_payload, found)) >= 10, within_s=1)
            for thread in threads:
                thread.join()
    assert bytes(got) == SENT
    return [len(frame) for frame in frames if _has_payload(frame)]


def _has_payload(frame: bytes) -> bool:
    return len(frame) > 300  # more than headers: no acknowledgement


def assert_whole(lengths: list[int]) -> None:
    together = [length for length in lengths if length > MTU_BYTES + 14]
    assert sum(together) > 0.8 * sum(lengths), lengths


@BOTH
@pytest.mark.usefixtures("travelling")
def test_tcp_between_two_hosts(routed: Lab, version: int) -> None:
    source, target = routed.guest("t/client"), routed.guest("t/server")
    with fabric_wire(routed, "h2") as wire:
        assert_whole(lengths_seen(wire, source.namespace, target.namespace, address(target, version)))


@BOTH
def test_tcp_reaches_the_guest_as_it_crossed(routed: Lab, version: int) -> None:
    source, target = routed.guest("t/client"), routed.guest("t/server")
    with Wire(target.namespace, plan.GUEST_INTERFACE) as wire:
        assert_whole(lengths_seen(wire, source.namespace, target.namespace, address(target, version)))


@BOTH
@pytest.mark.parametrize("router", BEHIND)  # on the client's own host, on the other
def test_tcp_through_a_guest_that_routes_on(routed: Lab, router: str, version: int) -> None:
    source, machine = routed.guest("t/client").namespace, behind(routed, router)
    with Wire(machine, "eth0") as wire:
        assert_whole(lengths_seen(wire, source, machine, behind_address(router, version)))


@BOTH
@pytest.mark.parametrize("router", BEHIND)
def test_tcp_from_behind_a_guest_that_routes(routed: Lab, router: str, version: int) -> None:
    source, target = behind(routed, router), routed.guest("t/client")
    with Wire(target.namespace, plan.GUEST_INTERFACE) as wire:
        assert_whole(lengths_seen(wire, source, target.namespace, address(target, version)))


@BOTH
def test_tcp_between_two_networks_behind_guests(routed: Lab, version: int) -> None:
    source, machine = behind(routed, "beside"), behind(routed, "beyond")
    with fabric_wire(routed, "h2") as wire:
        assert_whole(lengths_seen(wire, source, machine, behind_address("beyond", version)))


@pytest.fixture
def translating(routed: Lab) -> None:
    """What t/client sends to t/beyond on the other host is sent on from there to t/third, back on the client's host."""
    middle, target = routed.guest("t/beyond"), routed.guest("t/third")
    rules = "".join(
        f"""
        table {family} translate
        delete table {family} translate
        table {family} translate {{
            chain before {{
                type nat hook prerouting priority dstnat
                {family} daddr {address(middle, version)} tcp dport {{ 7009, 7010 }} dnat to {address(target, version)}
            }}
            chain after {{
                type nat hook postrouting priority srcnat
                oifname "eth0" {family} daddr {address(target, version)} masquerade
            }}
        }}"""
        for family, version in (("ip", 4), ("ip6", 6))
    )
    done = routed.exec(middle.port, "nft", rules)
    assert done.returncode == 0, done.stderr


def lacks_a_way_in_again(version: int) -> bool:
    """Before Linux 6.3 an IPv6 packet cannot come out of a tunnel over IPv4 and go in again: docs/design/ebpf.md."""
    return version == 6 and not libbpf.has_decap_l3()


def assert_dropped_by_name(lab: Lab) -> None:
    client, middle = lab.guest("t/client"), lab.guest("t/beyond")
    with (
        shell.within(client.namespace, lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM)) as connecting,
        dropped(lab, "h2", middle.port, "encap_failed"),
    ):
        connecting.setblocking(False)
        connecting.connect_ex((address(middle, 6), 7009))


@BOTH
@pytest.mark.usefixtures("travelling", "translating")
def test_tcp_that_came_out_of_the_tunnel_and_goes_in_again(routed: Lab, version: int) -> None:
    """The kernel still knows such a packet as encapsulated."""
    if lacks_a_way_in_again(version):
        assert_dropped_by_name(routed)
        return
    source, middle, target = (routed.guest(f"t/{name}") for name in ("client", "beyond", "third"))
    with fabric_wire(routed, "h1") as wire:
        assert_whole(lengths_seen(wire, source.namespace, target.namespace, address(middle, version)))


@pytest.fixture
def _segmenting(routed: Lab) -> Iterator[None]:
    """Uplinks as of a card that segments nothing: the kernel does it, behind the outer header."""

    def offload(state: str) -> None:
        for host in routed.spec.hosts:
            tunnels = ("gre", "gre-csum", "udp_tnl", "udp_tnl-csum")
            words = [each for name in tunnels for each in (f"tx-{name}-segmentation", state)]
            # As cards' drivers do, and as STT needs it: segments of a flow are joined as they come in.
            words += ["gro", "on" if state == "off" else "off"]
            done = routed.exec(host.name, "ethtool", "-K", plan.UPLINK, "tso", state, *words)
            assert done.returncode == 0, done.stderr
        fabric = plan.fabric_namespace(routed.spec.name)
        for number in range(1, len(routed.spec.hosts) + 1):
            # veth joins segments only of a peer that would not have left them together.
            command = shell.inside(fabric, ["ethtool", "-K", f"host{number}", "tso", state])
            subprocess.run(command, check=True, capture_output=True)

    offload("off")
    try:
        yield
    finally:
        offload("on")


@BOTH
@pytest.mark.usefixtures("translating", "_segmenting")
@pytest.mark.parametrize("to", ["server", "beyond"])  # straight; out of the tunnel and in again
def test_where_the_network_card_cannot_segment_the_kernel_does(
    routed: Lab, travelling: Rule, to: str, version: int
) -> None:
    if to == "beyond" and lacks_a_way_in_again(version):
        assert_dropped_by_name(routed)
        return
    target = routed.guest("t/third" if to == "beyond" else "t/server")
    with fabric_wire(routed, "h2") as wire:
        source, at = routed.guest("t/client").namespace, address(routed.guest(f"t/{to}"), version)
        longest = max(lengths_seen(wire, source, target.namespace, at))
    # By STT only the first segment has the inner headers, and a packet that is none of several has its own.
    assert 0.9 * MTU_BYTES < longest <= MTU_BYTES + 14 if travelling is Rule.STT else longest == MTU_BYTES + 14


@BOTH
@pytest.mark.parametrize("name", ["server", "third"])  # on the other host, on the same
def test_udp_datagrams_that_the_sender_handed_over_together_arrive_each(routed: Lab, name: str, version: int) -> None:
    source, target = routed.guest("t/client"), routed.guest(f"t/{name}")
    datagrams = [bytes([number]) * 1000 for number in range(30)]
    with udp(target.namespace, version, 7011) as listener, udp(source.namespace, version) as sender:
        listener.settimeout(PATIENCE_S)
        sender.connect((address(target, version), 7011))
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        sender.send(b"".join(datagrams))
        assert [listener.recv(2000) for _ in datagrams] == datagrams


@BOTH
def test_a_packet_of_many_segments_counts_as_many_on_every_host(routed: Lab, travelling: Rule, version: int) -> None:
    """Also where the kernel has lost their number, as it does when a header is put on or taken off."""
    source, target = routed.guest("t/client"), routed.guest("t/server")

    def counted() -> list[int]:
        first = routed.ask_agent("h1", "GET", "/counters")
        last = routed.ask_agent("h2", "GET", "/counters")
        return [
            first[source.port]["received_packets"], first[UPLINK]["sent_packets"],
            last[UPLINK]["received_packets"], last[target.port]["sent_packets"],
        ]  # fmt: skip

    before = counted()
    with fabric_wire(routed, "h2") as wire:
        lengths_seen(wire, source.namespace, target.namespace, address(target, version))
    more = [now - then for now, then in zip(counted(), before, strict=True)]
    assert more[0] >= len(SENT) / MTU_BYTES
    # A ping or a neighbour's question beside it makes no difference that matters. By STT a packet has segments of its
    # own on the wire.
    places = [[more[0], more[3]], more[1:3]] if travelling is Rule.STT else [more]
    assert all(max(each) - min(each) < 20 for each in places), more
