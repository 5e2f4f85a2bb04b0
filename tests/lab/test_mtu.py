"""What does not fit is said to its sender, and TCP never finds out."""

from __future__ import annotations

import socket
import threading

import pytest
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether

from lab.scenes import address, connected, dropped, guest_wire, is_syn
from weft.lab.lab import Lab

PAIRS = pytest.mark.parametrize("target", ["blue/web-2", "blue/fat-2"])  # bridged, routed
BOTH = pytest.mark.parametrize("version", [4, 6])


@BOTH
@PAIRS
def test_a_packet_that_does_not_fit_is_answered_with_the_mtu_that_would(lab: Lab, target: str, version: int) -> None:
    lab.exec("blue/fat-1", "ip", f"-{version}", "route", "flush", "cache")
    size = 1500 - (28 if version == 4 else 48)
    to = address(lab.guest(target), version)
    with dropped(lab, "h1", "tenants/blue/ports/fat-1", "too_big"):
        done = lab.exec("blue/fat-1", "ping", "-c", "1", "-M", "do", "-s", str(size), "-W", "2", to)
    assert "1458" in done.stdout + done.stderr, done.stdout + done.stderr


@BOTH
@PAIRS
def test_the_largest_packet_that_fits_crosses(lab: Lab, target: str, version: int) -> None:
    size = 1458 - (28 if version == 4 else 48)
    to = address(lab.guest(target), version)
    # Until one is answered: hosts and guests may have to find each other first.
    done = lab.exec("blue/fat-1", "ping", "-c", "1", "-w", "10", "-i", "0.2", "-M", "do", "-s", str(size), to)
    assert "1 received" in done.stdout, done.stdout + done.stderr


@BOTH
def test_a_datagram_that_may_be_fragmented_is_sent_in_fragments_and_arrives(lab: Lab, version: int) -> None:
    to = address(lab.guest("blue/web-2"), version)
    # The first is too big and told so; the sender's kernel has learnt the path's MTU then.
    done = lab.exec("blue/fat-1", "ping", "-c", "4", "-i", "0.1", "-M", "want", "-s", "3000", "-W", "2", to)
    assert " 0 received" not in done.stdout, done.stdout


@BOTH
@PAIRS
def test_the_mss_of_a_syn_is_clamped(lab: Lab, target: str, version: int) -> None:
    guest, peer = lab.guest("blue/fat-1"), lab.guest(target)
    with guest_wire(peer) as wire, connected(lab, guest.namespace, peer.namespace, address(peer, version)):
        frames = wire.frames(lambda found: any(map(is_syn, found)))
    options = dict(Ether(next(filter(is_syn, frames)))[TCP].options)
    assert options["MSS"] == 1458 - (40 if version == 4 else 60)


@BOTH
@PAIRS
def test_a_bulk_transfer_of_a_guest_with_too_large_an_mtu_arrives_whole(lab: Lab, target: str, version: int) -> None:
    guest, peer = lab.guest("blue/fat-1"), lab.guest(target)
    sent = bytes(range(256)) * 16_384  # 4 MiB
    with connected(lab, guest.namespace, peer.namespace, address(peer, version)) as (ours, theirs):
        writer = threading.Thread(target=lambda: (ours.sendall(sent), ours.shutdown(socket.SHUT_WR)))
        writer.start()
        got = bytearray()
        while piece := theirs.recv(1 << 16):
            got += piece
        writer.join()
    assert bytes(got) == sent
