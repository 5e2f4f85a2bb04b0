"""Guests with the clients that guests have: busybox, ISC dhclient, systemd-networkd and the kernel itself."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptPrefixInfo, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether

from lab.neighbours import FLOOD, Neighbours, attack
from lab.scenes import ROUTER_MAC, drops, guest_wire
from polling import PATIENCE_S, eventually
from weft.lab.lab import Lab
from weft.reference import packet

ROUTER = "fe80::57:45ff:fe46:5401"
DNS4, DNS6 = "10.0.0.53", "fd00::53"
MTU = 1500 - 42
ROUTE4, ROUTE6 = "172.16.0.0/12", "fd00:b::/32"
#: Of a flood's questions that are not answered.
FLOOD_LEAST = 1000

#: A mount namespace of its own, with an /etc to write to: what a client writes is its guest's, not this machine's.
OWN_ETC = """
set -e
mkdir -p "$0/etc" "$0/work" "$0/leases"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$0/etc,workdir=$0/work" /etc
exec "$@"
"""

#: And what networkd needs: a /run to itself, and a /sys that cannot be written, so that it waits for no udev.
NETWORKD = """
set -e
mkdir -p "$0/state/links" "$0/state/leases"
chown -R systemd-network "$0/state"
mount -t tmpfs run /run
mount -t sysfs -o ro sysfs /sys
mkdir -p /run/systemd/network /run/systemd/netif
mount --bind "$0/state" /run/systemd/netif
cat > /run/systemd/network/eth0.network <<END
[Match]
Name=eth0
[Network]
DHCP=yes
IPv6AcceptRA=yes
[DHCPv4]
UseMTU=yes
UseDomains=yes
END
exec /lib/systemd/systemd-networkd
"""


@pytest.fixture(scope="module")
def asking() -> Iterator[Lab]:
    name = f"dhcp-{os.getpid()}"
    try:
        yield Lab.up(Path(__file__).parent / "dhcp.yaml", name=name)
    finally:
        Lab.down(name)


def undress(lab: Lab, name: str, *, accept_ra: bool = False) -> None:
    """As it is before it has asked: no addresses but the link-local one, no routes, Ethernet's MTU."""
    ip = ["ip", "-n", lab.guest(name).namespace]
    for words in ("-4 addr flush dev eth0", "-6 addr flush dev eth0 scope global", "link set eth0 mtu 1500"):
        subprocess.run([*ip, *words.split()], check=True)
    subprocess.run([*ip, "-6", "route", "flush", "default"], check=False)
    accepted = f"net.ipv6.conf.eth0.accept_ra={2 if accept_ra else 0}"
    assert lab.exec(name, "sysctl", "-qw", accepted, "net.ipv6.conf.eth0.accept_ra_rt_info_max_plen=64").returncode == 0
    if accept_ra:  # the kernel asks for routers when the link comes up
        for state in ("down", "up"):
            subprocess.run([*ip, "link", "set", "eth0", state], check=True)
        # ISC's client gives up where there is no link-local address yet.
        eventually(lambda: addresses(lab, name, "link"), "a link-local address")


@contextmanager
def client(lab: Lab, name: str, script: str, directory: Path, *command: str) -> Iterator[Path]:
    """A DHCP client that runs in the guest, in a mount namespace of its own; what it writes is below the directory."""
    inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(directory), *command]
    with (directory / "log").open("wb") as log:
        running = subprocess.Popen(
            lab.command(name, inside), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=lab.environment()
        )
    try:
        yield directory
    finally:
        running.terminate()
        running.wait(PATIENCE_S)


def udhcpc(lab: Lab, name: str, directory: Path) -> Any:
    asked = [word for option in ("mtu", "search", "staticroutes") for word in ("-O", option)]
    return client(lab, name, OWN_ETC, directory, "udhcpc", "-f", "-i", "eth0", "-T", "1", *asked)


def dhclient(lab: Lab, name: str, directory: Path, version: int = 4, *options: str) -> Any:
    files = ["-lf", str(directory / "leases" / "lease"), "-pf", str(directory / "pid")]
    return client(lab, name, OWN_ETC, directory, "dhclient", f"-{version}", *options, "-d", *files, "eth0")


def addresses(lab: Lab, name: str, scope: str = "global") -> set[str]:
    """Those that are of use already."""
    (found,) = json.loads(lab.exec(name, "ip", "-j", "addr", "show", "dev", "eth0").stdout)
    return {each["local"] for each in found["addr_info"] if each["scope"] == scope and not each.get("tentative")}


def routes(lab: Lab, name: str, version: int = 4) -> dict[str, set[str]]:
    """Destination -> next hops."""
    found: dict[str, set[str]] = {}
    for route in json.loads(lab.exec(name, "ip", "-j", f"-{version}", "route").stdout):
        hops = [route, *route.get("nexthops", [])]
        found.setdefault(route["dst"], set()).update(hop["gateway"] for hop in hops if "gateway" in hop)
    return found


def mtu(lab: Lab, name: str) -> int:
    (found,) = json.loads(lab.exec(name, "ip", "-j", "link", "show", "dev", "eth0").stdout)
    return int(found["mtu"])


def resolver(directory: Path) -> str:
    """What a client has written for the guest's resolver."""
    file = directory / "etc/resolv.conf"
    return file.read_text() if file.exists() else ""


def pings(lab: Lab, source: str, target: str) -> bool:
    done = lab.exec(source, "ping", "-c", "2", "-i", "0.05", "-W", "2", target)
    return "2 received" in done.stdout


def test_busybox_gets_address_router_dns_and_mtu_and_speaks_with_one_that_did_not_ask(
    asking: Lab, tmp_path: Path
) -> None:
    undress(asking, "blue/busybox")
    with udhcpc(asking, "blue/busybox", tmp_path):
        eventually(lambda: "10.0.0.11" in addresses(asking, "blue/busybox"), "an address")
        eventually(lambda: routes(asking, "blue/busybox").get("default") == {"10.0.0.1"}, "a default route")
        assert mtu(asking, "blue/busybox") == MTU
        eventually(lambda: f"nameserver {DNS4}" in resolver(tmp_path), "a DNS server")
        assert "domain blue.example" in resolver(tmp_path)
        assert pings(asking, "blue/busybox", "10.0.0.9")
        assert pings(asking, "blue/static", "10.0.0.11")


def test_isc_dhclient_gets_routes_and_search_domains_too(asking: Lab, tmp_path: Path) -> None:
    undress(asking, "blue/isc")
    with dhclient(asking, "blue/isc", tmp_path):
        eventually(lambda: "10.0.0.12" in addresses(asking, "blue/isc"), "an address")
        expected = {"default": {"10.0.0.1"}, ROUTE4: {"10.0.0.9"}}
        eventually(lambda: routes(asking, "blue/isc").items() >= expected.items(), "its routes")
        assert mtu(asking, "blue/isc") == MTU
        assert f"nameserver {DNS4}" in resolver(tmp_path)
        assert "search blue.example. example.com." in resolver(tmp_path)
        assert pings(asking, "blue/isc", "10.0.0.9")


def test_isc_dhclient_gets_the_ports_ipv6_address_and_the_kernel_its_router(asking: Lab, tmp_path: Path) -> None:
    undress(asking, "blue/isc", accept_ra=True)
    with dhclient(asking, "blue/isc", tmp_path, 6):
        eventually(lambda: addresses(asking, "blue/isc") == {"fd00:0:0:a::12"}, "an address")
        eventually(lambda: f"nameserver {DNS6}" in resolver(tmp_path), "a DNS server")
        expected = {"default": {ROUTER}, ROUTE6: {ROUTER}, "fd00:0:0:a::/64": set()}
        eventually(lambda: routes(asking, "blue/isc", 6).items() >= expected.items(), "its routes")
        assert pings(asking, "blue/isc", "fd00:0:0:a::9")


def test_systemd_networkd_gets_both_families_at_once(asking: Lab, tmp_path: Path) -> None:
    name = "blue/networkd"
    undress(asking, name)
    with client(asking, name, NETWORKD, tmp_path):
        eventually(lambda: addresses(asking, name) == {"10.0.0.13", "fd00:0:0:a::13"}, "addresses")
        expected = {"default": {"10.0.0.1"}, ROUTE4: {"10.0.0.9"}}
        eventually(lambda: routes(asking, name).items() >= expected.items(), "IPv4 routes")
        expected = {"default": {ROUTER}, ROUTE6: {ROUTER}}
        eventually(lambda: routes(asking, name, 6).items() >= expected.items(), "IPv6 routes")
        assert mtu(asking, name) == MTU
        eventually(lambda: {DNS4, DNS6} <= _said(tmp_path / "state", "DNS"), "DNS servers")
        assert {"blue.example", "example.com"} <= _said(tmp_path / "state", "DOMAINS")
        assert pings(asking, name, "10.0.0.9")
        assert pings(asking, name, "fd00:0:0:a::9")


def _said(state: Path, what: str) -> set[str]:
    """What networkd has noted of its link."""
    lines = [line for file in (state / "links").iterdir() for line in file.read_text().splitlines()]
    return {word for line in lines if line.startswith(f"{what}=") for word in line.partition("=")[2].split()}


def test_a_guest_that_makes_its_own_address_makes_its_ports(asking: Lab) -> None:
    name = "blue/own-1"
    undress(asking, name, accept_ra=True)
    eventually(lambda: addresses(asking, name) == {"fd00::b:0:ff:fe00:a"}, "the address of its MAC")
    eventually(lambda: routes(asking, name, 6).get("default") == {ROUTER}, "a router")
    assert asking.exec(name, "sysctl", "-n", "net.ipv6.conf.eth0.mtu").stdout.strip() == str(MTU)
    assert pings(asking, name, "fd00:0:0:a::9")


def test_a_guest_that_makes_its_own_address_asks_dhcpv6_for_the_rest(asking: Lab, tmp_path: Path) -> None:
    name = "blue/told-1"
    undress(asking, name, accept_ra=True)
    own = {"fd00::c:0:ff:fe00:b"}
    eventually(lambda: addresses(asking, name) == own, "the address of its MAC")
    with dhclient(asking, name, tmp_path, 6, "-S"):
        eventually(lambda: f"nameserver {DNS6}" in resolver(tmp_path), "a DNS server")
        assert "search blue.example." in resolver(tmp_path)
    assert addresses(asking, name) == own, "and no other address"
    assert pings(asking, name, "fd00:0:0:a::9")


def test_tenants_with_the_same_addresses_are_told_their_own(asking: Lab, tmp_path: Path) -> None:
    for name in ("blue/isc", "red/isc"):
        undress(asking, name)
    blue, red = tmp_path / "blue", tmp_path / "red"
    blue.mkdir()
    red.mkdir()
    with dhclient(asking, "blue/isc", blue), dhclient(asking, "red/isc", red):
        for directory, server in ((blue, DNS4), (red, "10.0.0.99")):
            eventually(lambda directory=directory: "nameserver" in resolver(directory), "a DNS server")
            found = [line for line in resolver(directory).splitlines() if line.startswith("nameserver")]
            assert found == [f"nameserver {server}"]
        assert addresses(asking, "blue/isc") == addresses(asking, "red/isc") == {"10.0.0.12"}
        eventually(lambda: "dhcp-lease-time 600" in (red / "leases/lease").read_text(), "its own lease time")
        assert ROUTE4 not in routes(asking, "red/isc")


def test_a_guest_with_an_ordinary_interface_keeps_its_default_route_and_gets_the_overlays_routes(
    asking: Lab, tmp_path: Path
) -> None:
    name = "blue/two-nics"
    undress(asking, name, accept_ra=True)
    ip = ["ip", "-n", asking.guest(name).namespace]
    for words in (
        "link add ordinary type veth peer name beyond",
        "link set ordinary up",
        "link set beyond up",
        "addr add 198.51.100.2/24 dev ordinary",
        "addr add 2001:db8:5::2/64 dev ordinary nodad",
        "route add default via 198.51.100.1",
        "-6 route add default via 2001:db8:5::1",
    ):
        subprocess.run([*ip, *words.split()], check=True)
    with dhclient(asking, name, tmp_path):
        eventually(lambda: "10.0.0.14" in addresses(asking, name), "an address")
        eventually(lambda: routes(asking, name).get(ROUTE4) == {"10.0.0.9"}, "the overlay's route")
        eventually(lambda: routes(asking, name, 6).get(ROUTE6) == {ROUTER}, "the overlay's IPv6 route")
        assert routes(asking, name)["default"] == {"198.51.100.1"}
        assert routes(asking, name, 6)["default"] == {"2001:db8:5::1"}


def test_a_guest_that_plays_dhcp_server_and_router_is_heard_by_nobody(asking: Lab, tmp_path: Path) -> None:
    rogue, name = asking.guest("blue/rogue"), "blue/busybox"
    victim = asking.guest(name)
    undress(asking, name, accept_ra=True)
    source = packet.address_text(packet.link_local(packet.mac_bytes(rogue.mac)))
    offer = (
        Ether(src=rogue.mac, dst=victim.mac)
        / IP(src="10.0.0.66", dst="10.0.0.11")
        / UDP(sport=67, dport=68)
        / BOOTP(op=2, yiaddr="10.0.0.11", chaddr=bytes.fromhex(victim.mac.replace(":", "")))
        / DHCP(options=[("message-type", "ack"), ("router", "10.0.0.66"), ("lease_time", 60), "end"])
    )
    router = (
        Ether(src=rogue.mac, dst="33:33:00:00:00:01")
        / IPv6(src=source, dst="ff02::1", hlim=255)
        / ICMPv6ND_RA(routerlifetime=9000)
        / ICMPv6NDOptSrcLLAddr(lladdr=rogue.mac)
        / ICMPv6NDOptPrefixInfo(prefix="fd00:bad::", prefixlen=64)
    )
    direct = Ether(src=rogue.mac, dst=victim.mac) / router[IPv6]
    before = drops(asking, "h1", rogue.port).get("guest_server", 0)
    with guest_wire(rogue) as wire, udhcpc(asking, name, tmp_path):
        for frame in (offer, router, direct):
            wire.send(bytes(frame))
        eventually(lambda: "10.0.0.11" in addresses(asking, name), "an address")
        for frame in (offer, router, direct):
            wire.send(bytes(frame))
        eventually(lambda: drops(asking, "h1", rogue.port).get("guest_server", 0) >= before + 6, "all are dropped")
        eventually(lambda: routes(asking, name, 6).get("default") == {ROUTER}, "the right router")
    assert not [each for each in addresses(asking, name) if each.startswith("fd00:bad")]
    assert routes(asking, name)["default"] == {"10.0.0.1"}


def test_a_tenants_own_server_serves_its_guests_where_the_hosts_do_not(asking: Lab, tmp_path: Path) -> None:
    name, served = "blue/served", asking.guest("blue/served")
    undress(asking, name)
    directories = [tmp_path / each for each in ("server", "client")]
    for directory in directories:
        directory.mkdir()
    settings = directories[0] / "udhcpd.conf"
    settings.write_text(
        "start 10.0.2.11\nend 10.0.2.11\ninterface eth0\noption subnet 255.255.255.0\noption dns 10.0.2.53\n"
        f"lease_file {directories[0]}/leased\npidfile {directories[0]}/pid\nstatic_lease {served.mac} 10.0.2.11\n"
    )
    (directories[0] / "leased").touch()
    server = client(asking, "blue/server", OWN_ETC, directories[0], "busybox", "udhcpd", "-f", str(settings))
    with server, udhcpc(asking, name, directories[1]):
        eventually(lambda: "nameserver 10.0.2.53" in resolver(directories[1]), "the server's answer")
        assert addresses(asking, name) == {"10.0.2.11"}
        assert "default" not in routes(asking, name)


def test_a_tenants_own_router_is_its_guests_where_the_hosts_are_none(asking: Lab) -> None:
    """Its port says `dhcp_server`, and it advertises itself to a guest on another host."""
    name, server = "blue/served", asking.guest("blue/server")
    undress(asking, name, accept_ra=True)
    source = packet.address_text(packet.link_local(packet.mac_bytes(server.mac)))
    said = (
        Ether(src=server.mac, dst="33:33:00:00:00:01")
        / IPv6(src=source, dst="ff02::1", hlim=255)
        / ICMPv6ND_RA(routerlifetime=1800)
        / ICMPv6NDOptSrcLLAddr(lladdr=server.mac)
    )
    with guest_wire(server) as wire:

        def heard() -> bool:
            wire.send(bytes(said))
            return routes(asking, name, 6).get("default") == {source}

        eventually(heard, "a router", every_s=0.2)


def test_a_flood_of_questions_keeps_nobody_else_from_answers_or_traffic(asking: Lab, tmp_path: Path) -> None:
    rogue, name = asking.guest("blue/rogue"), "blue/busybox"
    question = bytes(
        Ether(src=rogue.mac, dst="ff:ff:ff:ff:ff:ff")
        / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / BOOTP(chaddr=bytes.fromhex(rogue.mac.replace(":", "")), xid=1)
        / DHCP(options=[("message-type", "discover"), "end"])
    )
    undress(asking, name)
    before = drops(asking, "h1", rogue.port).get("upcall_limit", 0)

    def others_are_answered() -> None:
        with udhcpc(asking, name, tmp_path):
            eventually(lambda: "10.0.0.11" in addresses(asking, name), "an address")
        assert drops(asking, "h1", rogue.port).get("upcall_limit", 0) > before + FLOOD_LEAST

    neighbours = Neighbours(asking, "blue/static", "blue/two-nics")
    neighbours.unharmed(rogue.namespace, lambda: attack(rogue.namespace, FLOOD, question), others_are_answered)


def test_hosts_answer_without_a_controller_and_tell_at_once_what_a_controller_changes(
    asking: Lab, tmp_path: Path
) -> None:
    name, subnet = "blue/isc", "tenants/blue/routing-domains/d/virtual-subnets/web"
    asking.kill("controller")
    asking.await_gone("controller")
    try:
        undress(asking, name, accept_ra=True)
        with dhclient(asking, name, tmp_path):
            eventually(lambda: "10.0.0.12" in addresses(asking, name), "an address")
        eventually(lambda: routes(asking, name, 6).get("default") == {ROUTER}, "a router")
    finally:
        asking.mend()
    with asking.client() as api:
        spec = api.get(subnet).spec["dhcp"]
        try:
            api.patch(subnet, {"dhcp": {"router": False}})
            eventually(lambda: "default" not in routes(asking, name, 6), "the router is none any more")
            assert routes(asking, name, 6)[ROUTE6] == {ROUTER}
        finally:
            api.patch(subnet, {"dhcp": spec})
    eventually(lambda: routes(asking, name, 6).get("default") == {ROUTER}, "the router is one again")


def test_every_answer_on_the_guests_wire_is_the_routers(asking: Lab, tmp_path: Path) -> None:
    name = "blue/isc"
    undress(asking, name)
    with guest_wire(asking.guest(name)) as wire, dhclient(asking, name, tmp_path):
        eventually(lambda: "10.0.0.12" in addresses(asking, name), "an address")
        answers = [Ether(frame) for frame in wire.frames(lambda found: len(found) > 20, within_s=0.5)]
    found = [frame for frame in answers if UDP in frame and frame[UDP].dport == 68]
    assert len(found) >= 2
    assert {(frame.src, frame[IP].src) for frame in found} == {(ROUTER_MAC, "10.0.0.1")}
