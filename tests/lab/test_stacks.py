"""Real stacks at guarded ports in what is rare: probes on the way, ends that forget, floods, forged resets.

SCTP is not in every kernel, so its packets are the test's own, on the guests' real interfaces.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.layers.sctp import (
    SCTP,
    SCTPChunkCookieAck,
    SCTPChunkCookieEcho,
    SCTPChunkData,
    SCTPChunkInit,
    SCTPChunkInitAck,
    SCTPChunkShutdown,
)
from scapy.packet import Packet

from lab.scenes import ROUTER_MAC, address, dropped, drops, gateway, guest_wire
from polling import eventually
from weft.lab import shell
from weft.lab.capture import Wire
from weft.lab.lab import Lab
from weft.lab.plan import Guest

HTTP, BOTH_WAYS, SCTP_PORT = 8000, 7000, 5000
CLIENT, SERVER, VISITOR = (f"tenants/t/ports/{name}" for name in ("client", "server", "visitor"))
PATIENCE_S = 30.0
IDLE_S, MOST = 6, 200
TCP_REPAIR = 19


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Connections that are idle are forgotten soon, and a port has few."""
    name = f"stacks-{os.getpid()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_CONNTRACK", f"established={IDLE_S} syn_sent=3 most-of-port={MOST}")
        try:
            yield Lab.up(Path(__file__).parent / "security.yaml", name=name)
        finally:
            Lab.down(name)


def made(guest: Guest, *bind: int) -> socket.socket:
    """A TCP socket of the guest's; at a port, if one is said."""
    found = shell.within(guest.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    found.settimeout(PATIENCE_S)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for port in bind:
        found.bind((address(guest), port))
    return found


def opened(client: Guest, server: Guest, listening: socket.socket, *bind: int) -> tuple[socket.socket, socket.socket]:
    ours = made(client, *bind)
    ours.connect((address(server), listening.getsockname()[1]))
    theirs, _ = listening.accept()
    theirs.settimeout(PATIENCE_S)
    return ours, theirs


@pytest.fixture
def client(lab: Lab) -> Guest:
    return lab.guest("t/client")


@pytest.fixture
def server(lab: Lab) -> Guest:
    return lab.guest("t/server")


@pytest.fixture
def listening(server: Guest) -> Iterator[socket.socket]:
    with made(server, HTTP) as found:
        found.listen()
        yield found


@pytest.fixture(autouse=True)
def _forgotten(lab: Lab) -> Iterator[None]:
    yield
    for host in ("h1", "h2"):
        lab.ask_agent(host, "POST", "/connections/flush")


def talks(ours: socket.socket, theirs: socket.socket) -> None:
    for sender, receiver in ((ours, theirs), (theirs, ours)):
        sender.sendall(b"said")
        assert receiver.recv(10) == b"said"


def listed(lab: Lab, host: str, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lab.ask_agent(host, "GET", f"/connections?{query}")
    return found


# Who asks the way


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", [["-U", "-p", "33434"], ["-I"], ["-T", "-p", str(HTTP)]], ids=["udp", "icmp", "tcp"])
def test_traceroute_sees_the_gateway_and_the_server(
    client: Guest, server: Guest, version: int, kind: list[str]
) -> None:
    to = address(server, version)
    command = ["traceroute", f"-{version}", "-n", "-q", "1", "-w", "3", "-m", "5", *kind, to]
    hops: list[str] = []

    def seen() -> bool:
        # The kernel says unreachable once a second at most.
        done = subprocess.run(shell.inside(client.namespace, command), capture_output=True, text=True, check=False)
        hops[:] = re.findall(r"^ *\d+ +(\S+)", done.stdout, re.MULTILINE)
        return hops == [gateway(client, version), to]

    eventually(seen, f"two hops to {to}, not {hops}")


# Ends that come together, and ends that forget


@contextmanager
def lost(*guests: Guest) -> Iterator[None]:
    """What the guests send goes to a router that is not there."""
    nobody = ["lladdr", "02:00:00:00:00:77", "dev", "eth0", "nud", "permanent"]
    for guest in guests:
        subprocess.run(shell.inside(guest.namespace, ["ip", "neigh", "replace", gateway(guest), *nobody]), check=True)
    try:
        yield
    finally:
        for guest in guests:
            command = ["ip", "neigh", "del", gateway(guest), "dev", "eth0"]
            subprocess.run(shell.inside(guest.namespace, command), check=True)


def test_both_ends_open_at_once(lab: Lab, client: Guest, server: Guest) -> None:
    with made(client, BOTH_WAYS) as ours, made(server, BOTH_WAYS) as theirs:
        with lost(client, server):
            for each, other in ((ours, server), (theirs, client)):
                each.setblocking(False)
                each.connect_ex((address(other), BOTH_WAYS))
            for host in ("h1", "h2"):
                [seen] = listed(lab, host, "protocol=tcp")
                assert (seen["state"], seen["begun_by"]) == ("syn_sent", "guest")
        for each in (ours, theirs):  # each says it again, in a second or three
            eventually(partial(_is_connected, each), "both are connected")
            each.settimeout(PATIENCE_S)
        talks(ours, theirs)
        for host in ("h1", "h2"):
            [seen] = listed(lab, host, "protocol=tcp")
            assert (seen["state"], seen["local_port"], seen["remote_port"]) == ("established", BOTH_WAYS, BOTH_WAYS)


def is_swept(lab: Lab, host: str) -> bool:
    return not listed(lab, host, "protocol=tcp")


def _is_connected(each: socket.socket) -> bool:
    try:
        each.getpeername()
    except OSError:
        return False
    return True


def test_an_end_that_has_forgotten_resets_and_the_same_ports_connect_again(
    lab: Lab, client: Guest, server: Guest, listening: socket.socket
) -> None:
    ours, theirs = opened(client, server, listening, 40_100)
    with ours:
        talks(ours, theirs)
        theirs.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        theirs.close()  # as after a crash: nobody is told
        ours.sendall(b"are you there")
        with pytest.raises(ConnectionResetError):
            ours.recv(10)
    for host in ("h1", "h2"):
        assert [each["state"] for each in listed(lab, host, "protocol=tcp")] == ["closed"]
    ours, theirs = opened(client, server, listening, 40_100)
    with ours, theirs:
        talks(ours, theirs)


def test_an_end_that_has_forgotten_opens_anew_from_the_same_port(
    lab: Lab, client: Guest, server: Guest, listening: socket.socket
) -> None:
    """The server answers the SYN by a challenge, the client's stack that by a reset, and then there is a connection."""
    ours, theirs = opened(client, server, listening, 40_200)
    with theirs:
        talks(ours, theirs)
        ours.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        ours.close()
        again, accepted = opened(client, server, listening, 40_200)
        with again, accepted:
            talks(again, accepted)
            assert [each["state"] for each in listed(lab, "h2", "protocol=tcp")] == ["established"]


def test_a_port_is_used_again_while_the_server_is_in_time_wait(
    lab: Lab, client: Guest, server: Guest, listening: socket.socket
) -> None:
    for _ in range(3):
        ours, theirs = opened(client, server, listening, 40_300)
        talks(ours, theirs)
        theirs.close()  # who closes first waits
        assert ours.recv(1) == b""
        ours.close()
        eventually(lambda: [each["state"] for each in listed(lab, "h2", "protocol=tcp")] == ["time_wait"])


# Who attacks


def heard(wire: Wire, matches: Callable[[Packet], bool]) -> Packet:
    found: list[Packet] = []

    def enough(frames: list[bytes]) -> bool:
        found.extend(packet for packet in map(Ether, frames[-1:]) if matches(packet))
        return bool(found)

    wire.frames(enough, PATIENCE_S)
    assert found
    return found[0]


def test_resets_that_do_not_hit_the_number_end_nothing(
    lab: Lab, client: Guest, server: Guest, listening: socket.socket
) -> None:
    """Anti-spoofing lets nobody else say them; so they come from the server's own guest, as by who could forge all."""
    ours, theirs = opened(client, server, listening)
    with ours, theirs, guest_wire(client) as at_client, guest_wire(server) as at_server:
        talks(ours, theirs)
        theirs.sendall(b"last")
        assert ours.recv(10) == b"last"
        last = heard(at_client, lambda packet: TCP in packet and bytes(packet[TCP].payload)[:4] == b"last")
        after = last[TCP].seq + 4

        def reset(number: int) -> bytes:
            ends = TCP(sport=HTTP, dport=last[TCP].dport, flags="R", seq=number % 2**32)
            return bytes(Ether(src=server.mac, dst=ROUTER_MAC) / IP(src=address(server), dst=address(client)) / ends)

        with dropped(lab, "h2", SERVER, "connection_invalid", 3):
            for blind in (after + 2**30, after - 2**20, after + 2**31 - 1):
                at_server.send(reset(blind))
        at_server.send(reset(after + 100))
        # The client's stack questions it, and goes on (RFC 5961).
        heard(at_client, lambda packet: TCP in packet and "R" in packet[TCP].flags and packet[TCP].seq == after + 100)
        talks(ours, theirs)
        at_server.send(reset(after + 4))
        with pytest.raises(ConnectionResetError):
            ours.recv(10)


def test_a_flood_of_one_guest_takes_nothing_from_another(
    lab: Lab, client: Guest, server: Guest, listening: socket.socket
) -> None:
    visitor = lab.guest("t/visitor")
    listening.listen(64)
    before, theirs = opened(visitor, server, listening)
    with before, theirs, guest_wire(client) as flooding:
        with dropped(lab, "h1", CLIENT, "connection_limit", MOST):
            for port in range(3 * MOST):
                syn = TCP(sport=20_000 + port, dport=HTTP + 9, flags="S", seq=port)
                ip = IP(src=address(client), dst=address(server))
                flooding.send(bytes(Ether(src=client.mac, dst=ROUTER_MAC) / ip / syn))
        # The guest's kernel says things of its own, too, such as IGMP.
        assert sum(each["begun_by"] == "guest" for each in listed(lab, "h1", f"port={CLIENT}")) == MOST
        assert MOST - 10 < len(listed(lab, "h2", f"port={SERVER}&protocol=tcp&address={address(client)}")) <= MOST
        talks(before, theirs)
        with made(client) as refused:
            refused.settimeout(0.5)
            with pytest.raises(TimeoutError):
                refused.connect((address(server), HTTP))
        for _ in range(20):
            another, accepted = opened(visitor, server, listening)
            with another, accepted:
                talks(another, accepted)
        # Nor does the server's guest lose what it may begin itself.
        with made(visitor, BOTH_WAYS) as called:
            called.listen()
            calling, answered = opened(server, visitor, called)
            with calling, answered:
                talks(calling, answered)
    assert drops(lab, "h2", SERVER).get("connection_limit", 0) == 0


# Who says nothing for long


def test_who_is_idle_for_too_long_is_forgotten_and_who_asks_now_and_then_is_not(
    lab: Lab, client: Guest, server: Guest, listening: socket.socket
) -> None:
    idle, idle_end = opened(client, server, listening)
    alive, alive_end = opened(client, server, listening)
    with idle, idle_end, alive, alive_end:
        alive.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        alive.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        alive.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        ports = {name: of.getsockname()[1] for name, of in (("idle", idle), ("alive", alive))}

        def left() -> set[int]:
            return {each["local_port"] for each in listed(lab, "h1", "protocol=tcp") if each["expires_s"] > 0}

        assert left() == set(ports.values())
        eventually(lambda: left() == {ports["alive"]}, "only who is alive is known", within_s=3 * IDLE_S)
        with dropped(lab, "h1", CLIENT, "connection_invalid"):
            idle.sendall(b"are you there")
        talks(alive, alive_end)


def test_what_nobody_answers_is_half_open_and_then_forgotten(lab: Lab, client: Guest, server: Guest) -> None:
    with made(client, 40_400) as ours, lost(server), guest_wire(server) as wire:
        ours.setblocking(False)
        ours.connect_ex((address(server), HTTP))
        heard(wire, lambda packet: TCP in packet and packet[TCP].flags == "S")
        assert [each["state"] for each in listed(lab, "h1", "protocol=tcp")] == ["syn_sent"]
        ours.close()
        for host in ("h1", "h2"):
            eventually(partial(is_swept, lab, host), "it is swept")


# SCTP


#: A sender and a receiver on the SCTP stack of FreeBSD, which here runs in user space, over raw IP.
TSCTP, MESSAGES = "/usr/lib/usrsctp/tsctp", 100_000


def test_sctp_stacks_send_much_and_shut_down_and_no_forged_init_stops_them(
    lab: Lab, client: Guest, server: Guest, tmp_path: Path
) -> None:
    received = tmp_path / "received"
    receives = [TSCTP, "-L", address(server), "-p", str(SCTP_PORT)]
    sends = [TSCTP, "-L", address(client), "-p", str(SCTP_PORT), "-l", "1000", "-n", str(MESSAGES), address(server)]

    def seen(host: str, state: str) -> dict[str, Any] | None:
        found = [each for each in listed(lab, host, "protocol=sctp") if each["state"] == state]
        return found[0] if len(found) == 1 else None

    with received.open("wb") as output, guest_wire(client) as at_client:
        receiving = subprocess.Popen(shell.inside(server.namespace, receives), stdout=output, stderr=subprocess.DEVNULL)
        sending = subprocess.Popen(
            shell.inside(client.namespace, sends), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            for host in ("h1", "h2"):
                eventually(partial(seen, host, "sctp_established"), "it is established")
            known = seen("h2", "sctp_established")
            assert known is not None
            assert known["received"]["packets"] < MESSAGES // 2, "there is more to come"
            init = SCTP(sport=known["remote_port"], dport=SCTP_PORT, tag=0) / SCTPChunkInit(
                init_tag=0x7777, a_rwnd=100_000, n_out_streams=8, n_in_streams=8, init_tsn=1
            )
            ip = IP(src=address(client), dst=address(server), proto=132)
            at_client.send(bytes(Ether(src=client.mac, dst=ROUTER_MAC) / ip / init))
            assert sending.wait(60) == 0
            for host in ("h1", "h2"):
                eventually(partial(seen, host, "sctp_closing"), "it is shut down")
            eventually(
                lambda: re.search(rb"^1000, \d+, %d, " % MESSAGES, received.read_bytes(), re.MULTILINE),
                "all was received",
            )
        finally:
            for each in (sending, receiving):
                each.kill()
                each.wait()


def test_an_sctp_association_begins_and_ends_by_its_tags(lab: Lab, client: Guest, server: Guest) -> None:
    ours, theirs = 0x1111, 0x2222
    with guest_wire(client) as at_client, guest_wire(server) as at_server:
        ends = {id(at_client): (client, server, at_server), id(at_server): (server, client, at_client)}

        def say(wire: Wire, tag: int, chunk: Packet) -> bytes:
            sender, receiver, _ = ends[id(wire)]
            ports = (40_500, SCTP_PORT) if sender is client else (SCTP_PORT, 40_500)
            ip = IP(src=address(sender), dst=address(receiver), proto=132)
            said = bytes(SCTP(sport=ports[0], dport=ports[1], tag=tag) / chunk)
            wire.send(bytes(Ether(src=sender.mac, dst=ROUTER_MAC) / ip / said))
            return said

        def arrives(wire: Wire, tag: int, chunk: Packet) -> None:
            said = say(wire, tag, chunk)
            heard(
                ends[id(wire)][2], lambda packet: IP in packet and packet[IP].proto == 132 and said in bytes(packet[IP])
            )

        arrives(at_client, 0, SCTPChunkInit(init_tag=ours))
        arrives(at_server, ours, SCTPChunkInitAck(init_tag=theirs))
        arrives(at_client, theirs, SCTPChunkCookieEcho(cookie=b"cookie"))
        arrives(at_server, ours, SCTPChunkCookieAck())
        for host in ("h1", "h2"):
            assert [each["state"] for each in listed(lab, host, "protocol=sctp")] == ["sctp_established"]
        arrives(at_client, theirs, SCTPChunkData(data=b"said"))
        with dropped(lab, "h1", CLIENT, "connection_invalid"):
            say(at_client, 0x3333, SCTPChunkData(data=b"forged"))
        with dropped(lab, "h2", SERVER, "connection_invalid"):
            say(at_server, 0x3333, SCTPChunkShutdown())
        assert [each["state"] for each in listed(lab, "h2", "protocol=sctp")] == ["sctp_established"]
        arrives(at_server, ours, SCTPChunkShutdown())
        assert [each["state"] for each in listed(lab, "h2", "protocol=sctp")] == ["sctp_closing"]
        with dropped(lab, "h2", SERVER, "security_group"):
            say(at_server, 0, struct.pack("!BBHI", 1, 0, 20, 7) + bytes(12))  # an INIT of its own
